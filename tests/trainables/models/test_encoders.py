"""Published encoders: import, training, saving and loading of every architecture.

Each is tested at tiny size, and with one layer at the catalogue's width and vocabulary.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor
from transformers import AutoConfig, PreTrainedModel, PreTrainedTokenizerFast

from tests.support import recipes
from trainables.data.source import DATA_ROOT_VARIABLE, DataError
from trainables.heads import HEADS
from trainables.hyperparameters import Training
from trainables.models.catalogue import CATALOGUE, config_of
from trainables.models.encoder import (
    checkpoint_activations,
    hidden_states,
    load_encoder,
    load_tokenizer,
    pooling_of,
)
from trainables.models.families import FAMILIES
from trainables.models.packing import Numbering, pack
from trainables.models.published_encoder import PublishedEncoder, pinned_encoder
from trainables.models.task_model import ENCODER, TaskModel, load_task_model, new_task_model, save_task_model
from trainables.models.unpadding import unpad_training
from trainables.models.vocabulary import train_vocabulary
from trainables.stages.base import Workplace, ensure
from trainables.stages.import_encoder import ImportEncoder
from trainables.stages.tokenise import Tokenise
from trainables.stages.vocabulary import TOKENIZER
from trainables.store.stage_store import Finished, StageStore
from trainables.tasks.micro.entailment import MicroEntailment
from trainables.training.batching import Share
from trainables.training.clipping import clip_gradients
from trainables.training.engine import Layout, build_engine, full_state, release

TASK = MicroEntailment(languages_=recipes.LANGUAGES, **recipes.SMALL)
TRAINING = Training(learning_rate=1e-3, steps=2, batch_size=4, seed=0)
WIDTH, LAYERS, ATTENTION_HEADS, INNER = 32, 2, 2, 64
USUAL = {
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": ATTENTION_HEADS,
    "intermediate_size": INNER,
    "pad_token_id": 1,
}
# The class of the checkpoint on the hub, with the settings of its structure at small sizes.
SAVED: dict[str, tuple[str, dict[str, Any]]] = {
    "xlm-roberta": ("XLMRobertaForMaskedLM", {**USUAL, "max_position_embeddings": 66, "type_vocab_size": 1}),
    "xlm-roberta-xl": ("XLMRobertaXLForMaskedLM", {**USUAL, "max_position_embeddings": 66, "type_vocab_size": 1}),
    "bert": ("BertForPreTraining", {**USUAL, "max_position_embeddings": 64}),
    "distilbert": (
        "DistilBertForMaskedLM",
        {
            **{"dim": WIDTH, "n_layers": LAYERS, "n_heads": ATTENTION_HEADS, "hidden_dim": INNER},
            **{"max_position_embeddings": 64, "pad_token_id": 1},
        },
    ),
    "deberta-v2": (
        "DebertaV2ForMaskedLM",
        {
            **{key: value for key, value in CATALOGUE["mdeberta-v3-base"].settings.items() if key != "vocab_size"},
            **USUAL,
            "position_buckets": 8,
        },
    ),
    "mt5": (
        "MT5ForConditionalGeneration",
        {
            "d_model": WIDTH,
            "d_kv": 8,
            "d_ff": INNER,
            "num_layers": LAYERS,
            "num_heads": ATTENTION_HEADS,
            "pad_token_id": 1,
        },
    ),
    # Of three layers one attends globally. Special tokens are inside the small vocabulary.
    "modernbert": (
        "ModernBertForMaskedLM",
        {
            **USUAL,
            "num_hidden_layers": 3,
            "local_attention": 8,
            **{f"{name}_token_id": number for name, number in (("bos", 0), ("cls", 0), ("eos", 2), ("sep", 2))},
        },
    ),
}

# One layer at a catalogue's width and number of heads. A test takes some 50 bytes a parameter: XLM-R XL's feed-forward is cut
# from 10,240, and the largest has 28 million parameters, 1.3 GB.
DEPTH = {"mt5": "num_layers"}
WIDE: dict[str, dict[str, Any]] = {
    "xlm-r-large": {},
    "xlm-r-xl": {"intermediate_size": 256},
    "mbert": {},
    "mdeberta-v3-base": {},
    "mt5-large": {},
    "mmbert-base": {key: value for key, value in SAVED["modernbert"][1].items() if key.endswith("_token_id")},
}
PERSISTS = (
    100_000  # DeepSpeed's `param_persistence_threshold`: smaller tensors stay whole on every worker once gathered
)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    corpus = recipes.tiny().corpus
    assert corpus is not None
    return train_vocabulary((text for sentence in corpus.parallel() for text in sentence.values()), 400)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data root, with the hub offline."""
    monkeypatch.setenv(DATA_ROOT_VARIABLE, str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return tmp_path


def _saved(
    family: str, root: Path, tokenizer: PreTrainedTokenizerFast, shape: dict[str, Any] | None = None
) -> tuple[Path, PreTrainedModel]:
    """A checkpoint with random weights in the form of published ones, and its model; tiny unless a shape is given."""
    name, settings = SAVED[family]
    folder = root / "encoders" / "someone" / family
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    # mT5's table has more rows than its tokenizer has tokens.
    rows = len(tokenizer) + (12 if family == "mt5" else 0)
    config = AutoConfig.for_model(family, **{"vocab_size": rows, **(settings if shape is None else shape)})
    model: PreTrainedModel = getattr(transformers, name)(config).eval()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder, model


def _imported(family: str, root: Path) -> tuple[ImportEncoder, Workplace, Finished]:
    stage = ImportEncoder(pinned_encoder(PublishedEncoder(family, f"someone/{family}", family)))
    work = Workplace(StageStore(root / "out"))
    return stage, work, ensure(stage, work)


def _inputs(vocabulary_size: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, vocabulary_size, (4, 24), generator=generator)
    mask = torch.ones_like(ids)
    ids[0, 10:], mask[0, 10:] = 1, 0
    return {"input_ids": ids, "attention_mask": mask}


def _trained(model: TaskModel, inputs: dict[str, Tensor], zero_stage: int, **how: Any) -> dict[str, Tensor]:
    """The state after one optimizer step, with the same dropout in every layout."""
    engine = build_engine(model, TRAINING, Layout(Share(0, 1, 4), zero_stage, **how))
    engine.train()
    torch.manual_seed(1)
    engine.backward(engine(**inputs, labels=torch.tensor([0, 1, 0, 1])) / 4)
    clip_gradients(engine, TRAINING.max_gradient_norm)  # as the loop does where DeepSpeed does not
    engine.step()
    state = full_state(engine)
    release(engine)
    return state


def _tuned_and_loaded(
    family: str, root: Path, original: PreTrainedModel, inputs: dict[str, Tensor]
) -> tuple[ImportEncoder, Workplace]:
    """Import, train one step under ZeRO 3, save and load, with equal outputs before and after each."""
    stage, work, imported = _imported(family, root)
    real = inputs["attention_mask"].bool()
    model = new_task_model(imported.folder, TASK, seed=0).eval()
    assert type(model.encoder).__name__ == FAMILIES[family].body
    assert pooling_of(model.encoder) == FAMILIES[family].pooling
    body = original.get_encoder() if family == "mt5" else original.base_model
    with torch.no_grad():
        hidden, expected = model.encoder(**inputs).last_hidden_state, body(**inputs)[0]
    torch.testing.assert_close(hidden[real], expected[real], atol=1e-5, rtol=1e-4)

    state = _trained(new_task_model(imported.folder, TASK, seed=0), inputs, zero_stage=3)
    moved = [name for name, before in model.named_parameters() if not torch.equal(state[name], before)]
    assert moved == [name for name, _ in model.named_parameters()], "some weights were not trained"
    folder = root / "tuned"
    folder.mkdir()
    save_task_model(model, state, folder)
    with torch.no_grad():
        again = load_task_model(folder, TASK)
        model.load_state_dict(state, strict=False)  # a tied table has two names
        assert torch.equal(again.logits(**inputs), model.logits(**inputs))
    assert pooling_of(again.encoder) == FAMILIES[family].pooling
    return stage, work


@pytest.mark.slow
@pytest.mark.parametrize("family", SAVED)
def test_every_architecture_is_imported_trained_under_zero3_saved_and_loaded(
    family: str, root: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    _, original = _saved(family, root, tokenizer)
    stage, work = _tuned_and_loaded(family, root, original, _inputs(len(tokenizer)))
    text = ["Ein Satz, und noch einer.", "two words"]
    read = load_tokenizer(work.store.folder(Tokenise(stage.tokenizer, TASK, "train", 64).tokenizer) / TOKENIZER)
    assert read(text)["input_ids"] == tokenizer(text)["input_ids"]


@pytest.mark.slow
@pytest.mark.parametrize("name", WIDE)
def test_a_layer_of_full_width_goes_through_zero3(
    name: str, root: Path, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its matrices are gathered and released in each pass; at tiny size all stay once gathered."""
    card = CATALOGUE[name]
    family = card.encoder.family
    settings = {key: value for key, value in card.settings.items() if key != "vocab_size"}
    shape = {**settings, DEPTH.get(family, "num_hidden_layers"): 1, "pad_token_id": 1, **WIDE[name]}
    _, original = _saved(family, root, tokenizer, shape)
    parts = _watch_partitions(monkeypatch)
    _tuned_and_loaded(family, root, original, _inputs(len(tokenizer)))
    whole = config_of(card.encoder)
    assert whole is not None
    assert original.config.hidden_size == whole.hidden_size
    assert original.config.num_attention_heads == whole.num_attention_heads
    cut, in_all = parts[0]
    assert cut > 0.99 * in_all


@pytest.mark.slow
def test_a_table_of_the_full_vocabulary_goes_through_zero3(
    root: Path, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = CATALOGUE["xlm-r-base"].settings["vocab_size"]
    shape = {**SAVED["xlm-roberta"][1], "num_hidden_layers": 1, "vocab_size": rows}
    _, original = _saved("xlm-roberta", root, tokenizer, shape)
    parts = _watch_partitions(monkeypatch)
    _tuned_and_loaded("xlm-roberta", root, original, _inputs(rows))
    assert original.get_input_embeddings().weight.shape == (250_002, WIDTH)
    assert parts[0][0] == 250_002 * WIDTH  # all other tensors are too small


def _watch_partitions(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """For engines built from now on: the elements they release after use, and all elements."""
    counts: list[tuple[int, int]] = []
    build = build_engine

    def watched(*args: Any, **how: Any) -> Any:
        engine = build(*args, **how)
        parameters = list(engine.module.parameters())
        released = [parameter.ds_numel for parameter in parameters if not parameter.ds_persist]
        assert released == [parameter.ds_numel for parameter in parameters if parameter.ds_numel > PERSISTS]
        counts.append((sum(released), sum(parameter.ds_numel for parameter in parameters)))
        return engine

    monkeypatch.setattr(f"{__name__}.build_engine", watched)
    return counts


@pytest.mark.parametrize("family", ["xlm-roberta-xl", "deberta-v2", "mt5"])
def test_checkpointing_and_offload_change_nothing_but_memory(
    family: str, root: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    """mDeBERTa and mT5 pass every layer another tensor that needs gradients, besides the hidden states."""
    _saved(family, root, tokenizer)
    folder, inputs = _imported(family, root)[2].folder, _inputs(len(tokenizer))
    calls: list[bool] = []

    def trained(checkpointed: bool, **how: Any) -> dict[str, Tensor]:
        model = new_task_model(folder, TASK, seed=0)
        if checkpointed:
            checkpoint_activations(model)
        inner = next(module for module in model.encoder.modules() if isinstance(module, torch.nn.Linear))
        inner.register_forward_hook(lambda *_: calls.append(checkpointed))
        return _trained(model, inputs, **how)

    plain = trained(False, zero_stage=0)
    offloaded = trained(True, zero_stage=3, offload="parameters")
    assert calls.count(True) == 2 * calls.count(False), "layers are computed once more for the backward pass"
    for name, value in plain.items():
        torch.testing.assert_close(offloaded[name], value, atol=2e-6, rtol=1e-4)


def test_bert_marks_the_second_text_of_a_pair_as_its_tokenizer_does(
    root: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    _, original = _saved("bert", root, tokenizer)
    model = new_task_model(_imported("bert", root)[2].folder, TASK, seed=0).eval()
    cls, sep, pad = tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id
    ids = torch.tensor([[cls, 7, 8, sep, 9, sep, pad, pad], [cls, 7, 8, 9, 10, 11, 12, sep]])  # a pair, a single text
    mask = (ids != pad).long()
    segments = torch.tensor([[0, 0, 0, 0, 1, 1, 0, 0], [0] * 8])
    with torch.no_grad():
        marked = original.base_model(input_ids=ids, attention_mask=mask, token_type_ids=segments)[0]
        plain = original.base_model(input_ids=ids, attention_mask=mask)[0]
        found = model.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        unpad_training(model.encoder, torch.device("cpu"))
        packed = pack({"input_ids": ids, "attention_mask": mask}, Numbering.of(model.encoder))
        unpadded = hidden_states(model.encoder, packed["input_ids"], mask, packed)
    assert not torch.allclose(marked[0, 0], plain[0, 0], atol=1e-4)
    real = mask.bool()
    torch.testing.assert_close(found[real], marked[real], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(unpadded[real], marked[real], atol=1e-5, rtol=1e-4)


def test_heads_pool_as_their_encoder_says(root: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    hidden = torch.arange(24.0).view(2, 3, 4)
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    first, mean = (HEADS["pair_classification"].module(4, TASK, pooling) for pooling in ("first", "mean"))
    mean.load_state_dict(first.state_dict())
    with torch.no_grad():
        assert torch.equal(first(hidden, mask), first(hidden[:, :1], mask[:, :1]))
        assert torch.equal(mean(hidden, mask)[0], mean(hidden[:1, :2], mask[:1, :2])[0])
        assert not torch.equal(mean(hidden, mask), first(hidden, mask))
    # Both have XLM-R's architecture: a published encoder pools `<s>`, the study's own the mean, as in its pre-training.
    _saved("xlm-roberta", root, tokenizer)
    study = recipes.tiny()
    rung = ensure(study.encoder_stage(study.sizes[0], trained=False), Workplace(StageStore(root / "out")))
    ours, theirs = (load_encoder(one.folder / ENCODER) for one in (rung, _imported("xlm-roberta", root)[2]))
    assert type(ours) is type(theirs)
    assert (pooling_of(ours), pooling_of(theirs)) == ("mean", "first")


def test_a_pickle_is_refused_unread_with_alternatives(root: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    folder, _ = _saved("bert", root, tokenizer)
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"never opened")
    with pytest.raises(
        DataError, match=r"someone/bert .* no weights as safetensors.*commit.*save_pretrained.*--data-root"
    ):
        _imported("bert", root)
    assert not list((root / "out").glob("stages/import-*"))


def test_inconsistent_checkpoints_are_refused(root: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    from safetensors.torch import load_file, save_file

    folder, _ = _saved("bert", root, tokenizer)
    work = Workplace(StageStore(root / "out"))
    wrong = pinned_encoder(PublishedEncoder("x", "someone/bert", "xlm-roberta"))
    with pytest.raises(DataError, match="model_type is 'bert'"):
        ensure(ImportEncoder(wrong), work)
    weights = load_file(folder / "model.safetensors")
    del weights["bert.encoder.layer.1.output.dense.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(DataError, match=r"weights lack encoder\.layer\.1\.output\.dense\.weight"):
        _imported("bert", root)
    for revision in ("main", "e73636d", "files:short"):
        with pytest.raises(ValueError, match="revision"):
            PublishedEncoder("x", "someone/x", "bert", revision)
    with pytest.raises(ValueError, match="no family 'gpt2'"):
        PublishedEncoder("x", "someone/x", "gpt2")


def test_a_folder_is_identified_by_the_files_that_are_read_and_not_by_its_path(
    root: Path, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = _saved("bert", root, tokenizer)
    encoder = PublishedEncoder("x", "someone/bert", "bert")
    before = pinned_encoder(encoder)
    assert before.revision is not None
    (folder / "README.md").write_text("a card")
    assert pinned_encoder(encoder) == before
    elsewhere = root / "elsewhere"
    elsewhere.mkdir()
    (root / "encoders").rename(elsewhere / "encoders")
    monkeypatch.setenv(DATA_ROOT_VARIABLE, str(elsewhere))
    assert pinned_encoder(encoder) == before
    path = elsewhere / "encoders" / "someone" / "bert" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "hidden_dropout_prob": 0.2}))
    assert pinned_encoder(encoder) != before
    with pytest.raises(DataError, match="have changed since the study was made"):
        ensure(ImportEncoder(before), Workplace(StageStore(root / "out")))
    monkeypatch.delenv(DATA_ROOT_VARIABLE)
    with pytest.raises(DataError, match="give --data-root"):
        ensure(ImportEncoder(before), Workplace(StageStore(root / "out")))
