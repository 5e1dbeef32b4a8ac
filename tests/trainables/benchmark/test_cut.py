"""The cut vocabulary: the same numbers with fewer rows, on the texts it is made for, and <unk> on others."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, MT5Config, PreTrainedTokenizerFast, XLMRobertaConfig, XLMRobertaModel

from tests.support.serving import CPU, PAD, TINY, Pairs, benchmark_of, queries, target_stage
from tests.support.shared_runs import TinyRun
from trainables.benchmark import VARIANTS, VariantUnavailable
from trainables.benchmark.measurement import Measured
from trainables.benchmark.probes.memory import MB
from trainables.benchmark.subjects.checkpoint import CheckpointBenchmark
from trainables.benchmark.subjects.fresh import run_fresh
from trainables.benchmark.subjects.rebuild import evaluation_of
from trainables.benchmark.variants import ServedTokens, Variant
from trainables.heads import HEADS
from trainables.models.families import FAMILIES
from trainables.models.task_model import TaskModel
from trainables.models.vocabulary import train_vocabulary

UNKNOWN = 3
KEPT = tuple(range(20))
TINY_SIZES = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}


def cut_for(ids: tuple[int, ...], name: str = "cut") -> Variant:
    return VARIANTS[name].for_texts(lambda: ServedTokens(ids, UNKNOWN))


def some_batch(highest: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Three rows of different lengths with ids below `highest`."""
    generator = torch.Generator().manual_seed(0)
    ids_NL = torch.randint(5, highest, (3, 12), generator=generator)
    mask_NL = (torch.arange(12) < torch.tensor([[12], [7], [9]])).long()
    return ids_NL.masked_fill(mask_NL == 0, PAD), mask_NL


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("family", ["xlm-roberta", "bert", "mt5"])
def test_logits_are_equal_bit_for_bit_and_the_callers_model_is_unchanged(family: str) -> None:
    """XLM-R's positions depend on the id of padding, BERT's segments on that of the separator, and mT5 has the table twice."""
    config = {
        "xlm-roberta": XLMRobertaConfig(vocab_size=50, pad_token_id=PAD, max_position_embeddings=64, **TINY_SIZES),
        "bert": BertConfig(vocab_size=50, pad_token_id=PAD, max_position_embeddings=64, **TINY_SIZES),
        "mt5": MT5Config(vocab_size=50, pad_token_id=PAD, d_model=32, d_kv=16, d_ff=64, num_layers=1, num_heads=2),
    }[family]
    torch.manual_seed(0)
    encoder = FAMILIES[family].model_class(config, **FAMILIES[family].options)
    model = TaskModel(encoder, HEADS["pair_classification"].module(32, Pairs())).eval()
    before = copy.deepcopy(model.state_dict())
    batch = some_batch(20)
    with torch.inference_mode():
        assert torch.equal(cut_for(KEPT).prepare(model, CPU)(*batch), model.logits(*batch))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.encoder.get_input_embeddings().num_embeddings == 50


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(
    ("name", "whole"), [("cut_int8", "int8"), pytest.param("cut_onnx_int8", "onnx_int8", marks=pytest.mark.slow)]
)
def test_a_quantised_cut_equals_the_quantised_whole(name: str, whole: str, model: TaskModel) -> None:
    if reason := VARIANTS[name].unavailable(CPU):
        pytest.skip(reason)
    batch = some_batch(20)
    with torch.inference_mode():
        assert torch.equal(cut_for(KEPT, name).prepare(model, CPU)(*batch), VARIANTS[whole].prepare(model, CPU)(*batch))


def test_a_token_without_a_row_is_the_unknown_token_and_is_counted(model: TaskModel) -> None:
    ids_NL, mask_NL = some_batch(50)
    known_NL = ids_NL.where(ids_NL < 20, UNKNOWN)
    assert not torch.equal(known_NL, ids_NL)
    with torch.inference_mode():
        assert torch.equal(cut_for(KEPT).prepare(model, CPU)(ids_NL, mask_NL), model.logits(known_NL, mask_NL))
    measured = benchmark_of(model, replace(TINY, scenarios=("SingleStream",))).measure(cut_for(KEPT))
    missing = sum(token >= 20 for token in ids_of_the_sample(model))
    assert missing > 0
    assert measured.context["unknown_tokens"] == missing
    assert measured.context["embedding_rows"] == 20
    assert ServedTokens(tuple(range(50)), UNKNOWN).missing_in(queries([4, 20])) == 0


def ids_of_the_sample(model: TaskModel) -> list[int]:
    return [token for query in benchmark_of(model).sample.queries for row in query for token in row]


def test_it_needs_texts_and_an_unknown_token(model: TaskModel) -> None:
    with pytest.raises(VariantUnavailable, match="no texts whose tokens"):
        VARIANTS["cut"].prepare(model, CPU)
    without = VARIANTS["cut"].for_texts(lambda: ServedTokens(KEPT, None))
    with pytest.raises(VariantUnavailable, match="no unknown token"):
        without.prepare(model, CPU)


def test_special_tokens_stay_whatever_the_texts_have() -> None:
    tokenizer: PreTrainedTokenizerFast = train_vocabulary(["some text", "and more text"], 60)
    tokens = ServedTokens.of(tokenizer, [30, 20, 30])
    assert tokens.ids == tuple(sorted({20, 30, *tokenizer.all_special_ids}))
    assert tokens.unknown == tokenizer.unk_token_id


def test_a_stages_model_scores_the_same_with_a_fraction_of_the_rows(tiny_run: TinyRun) -> None:
    output, _ = tiny_run
    evaluation = evaluation_of(target_stage(output))
    assert evaluation is not None
    settings = replace(TINY, scenarios=("SingleStream",), text_s=0.05)
    subject = CheckpointBenchmark(str(output), (evaluation,), 1, settings)
    whole, small = subject.run("fp32"), subject.run("cut")
    assert small["scores"] == whole["scores"], "every set and language, from predictions of the same logits"
    assert small["context"]["unknown_tokens"] == 0
    assert 0 < small["context"]["embedding_rows"] < 600
    for measured in (whole, small):
        assert set(measured.flips.values()) == {0.0}  # type: ignore[union-attr]
        assert measured["flips"]["micro_tagging"]["examples"] == 48, "all 16 of each of three languages"


class WideTable:
    """A subject with a table of 200 MB and a body of 0.2, loaded from a file as a checkpoint is."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run(self, variant: str | Variant, *, scored: bool = True) -> Measured:
        from trainables.models.encoder import load_encoder

        model = TaskModel(load_encoder(self.folder), HEADS["pair_classification"].module(32, Pairs())).eval()
        chosen = VARIANTS[str(variant)].for_texts(lambda: ServedTokens(tuple(range(50)), UNKNOWN))
        settings = replace(TINY, scenarios=("Offline",))
        return Measured(replace(benchmark_of(model), settings=settings).measure(chosen).as_dict())


@pytest.mark.slow
def test_peak_memory_shows_the_cut(tmp_path: Path) -> None:
    """Int8 copies the table; its cut does not."""
    rows = 1_600_000
    config = XLMRobertaConfig(vocab_size=rows, pad_token_id=PAD, max_position_embeddings=64, **TINY_SIZES)
    XLMRobertaModel(config, add_pooling_layer=False).save_pretrained(tmp_path)
    table_mb = rows * 32 * 4 / MB
    peaks = {}
    for name in ("int8", "cut_int8"):
        outcome = run_fresh(WideTable(tmp_path), name)
        assert isinstance(outcome, Measured), outcome
        peaks[name] = outcome["peak_memory_mb"]
    assert peaks["int8"] - peaks["cut_int8"] == pytest.approx(table_mb, rel=0.15)
