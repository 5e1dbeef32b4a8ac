"""Masked language modelling as a task of a mixture: text in, masks, the tied head, training under ZeRO, and refusals."""

from __future__ import annotations

import dataclasses
import math
import random
from collections import Counter
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedTokenizerFast

from study.planning import memory
from study.planning.architecture import architecture_of
from study.planning.plan import render_plan
from study.planning.stages import Load
from study.spec import InvalidStudy, Size, Space, Study
from study.spec.data_check import check_data
from tests.support import recipes
from tests.support.pair import Pair
from tests.support.recipes import LANGUAGES, SMALL
from trainables.data.examples import TextExample
from trainables.data.source import DATA_ROOT_VARIABLE, DataError
from trainables.heads import HEADS, Feature
from trainables.heads.base import IGNORED
from trainables.heads.features import read_features, write_features
from trainables.heads.masked_lm import MaskedLmModule
from trainables.heads.masking import Masking
from trainables.hyperparameters import Precision, Training
from trainables.models.catalogue import published
from trainables.models.encoder import Shape, load_encoder
from trainables.models.task_model import ENCODER
from trainables.models.vocabulary import train_vocabulary
from trainables.resources import Resources
from trainables.stages.base import Workplace, ensure
from trainables.stages.evaluate import Evaluate
from trainables.stages.finetune import FineTune
from trainables.stages.mixture import FineTuneMixture
from trainables.stages.pretrain import Pretrain
from trainables.stages.tokenise import Tokenise
from trainables.stages.vocabulary import Vocabulary
from trainables.store.fingerprint import fingerprint
from trainables.store.stage_store import StageStore
from trainables.tasks.micro.corpus import MicroCorpus
from trainables.tasks.micro.intermediate import MicroTopic
from trainables.tasks.micro.masked_lm import MicroMaskedLm
from trainables.tasks.mixture import Mixture
from trainables.tasks.pinning import pinned
from trainables.tasks.unlabelled.masked_lm import ARTICLES, MaskedLm
from trainables.training.batching import BatchOrder, FeatureBatches, Share

pytestmark = pytest.mark.usefixtures("one_thread")

TEXT = MicroMaskedLm(languages_=("de", "zh"), train_size=40)
MIXTURE = Mixture("topic_mlm", (MicroTopic(**SMALL), TEXT))
TRAINING = Training(learning_rate=3e-3, steps=24, batch_size=16, seed=1)
BASE = Pretrain(Vocabulary(MicroCorpus(LANGUAGES, 400), 1700), Shape(1, 64), TRAINING, 8, trained=False)
STAGE = FineTuneMixture(BASE, MIXTURE, TRAINING)
RULE = Masking(4, frozenset(range(5)), tuple(range(5, 1000)))
ALONE = Share(0, 1, 64)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> StageStore:
    """Holds all that the mixture's stage rests on."""
    found = StageStore(tmp_path_factory.mktemp("store"))
    for parent in STAGE.parents:
        ensure(parent, Workplace(found))
    return found


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    corpus = MicroCorpus(LANGUAGES, 200).parallel()
    return train_vocabulary((text for texts in corpus for text in texts.values()), 600)


# --- masks


def test_the_rule_is_berts() -> None:
    rng = random.Random(0)
    row = (0, *rng.choices(range(5, 1000), k=100_000), 2)
    inputs, targets = RULE.mask(row, rng)
    chosen = [place for place, target in enumerate(targets) if target != IGNORED]
    assert {place: targets[place] for place in chosen} == {place: row[place] for place in chosen}
    assert all(inputs[place] == piece for place, piece in enumerate(row) if targets[place] == IGNORED)
    assert not {0, len(row) - 1} & set(chosen)
    # Four binomial standard errors of 100,000 pieces, then of the 15,000 chosen.
    assert len(chosen) / 100_000 == pytest.approx(0.15, abs=0.0046)
    became = Counter("mask" if inputs[p] == 4 else "same" if inputs[p] == row[p] else "random" for p in chosen)
    shares = {what: count / len(chosen) for what, count in became.items()}
    assert shares == pytest.approx({"mask": 0.8, "random": 0.1, "same": 0.1}, abs=0.013)
    assert {inputs[place] for place in chosen} - {4} <= set(range(5, 1000))


def test_the_rule_draws_what_pre_training_always_drew() -> None:
    """Pre-trained stages are found by what they are made of: the rule must not draw other numbers one day."""
    row, expected = tuple(range(1000)), list(range(1000))
    rng = random.Random("1|2|3")
    for place, piece in enumerate(row):
        if piece >= 5 and rng.random() < 0.15:
            draw = rng.random()
            if draw < 0.8:
                expected[place] = 4
            elif draw < 0.9:
                expected[place] = rng.randrange(5, 1000)
    assert RULE.mask(row, random.Random("1|2|3"))[0] == expected


def test_a_tokenizers_special_tokens_are_left_alone(tokenizer: PreTrainedTokenizerFast) -> None:
    rule = Masking.of(tokenizer)
    assert rule.mask_id == tokenizer.mask_token_id
    assert rule.special == set(range(5))
    assert rule.ordinary == tuple(range(5, len(tokenizer)))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, pad_token="<pad>")
    with pytest.raises(ValueError, match="no mask token"):
        Masking.of(tokenizer)


def _batches(folder: Path, rows: list[tuple[int, ...]], *, batch_size: int = 8, seed: int = 0) -> FeatureBatches:
    path = folder / "features.arrow"
    features = [Feature(index, (row,), (), weight=0.0) for index, row in enumerate(rows)]
    write_features(path, [("train/de", features)])
    order = BatchOrder(tuple(map(len, rows)), batch_size, seed)
    return FeatureBatches(read_features(path), TEXT, 1, order, masking=RULE)


def _seen(batches: FeatureBatches, step: int, workers: int = 1, micro_batch: int = 64) -> list[tuple[Any, ...]]:
    """Inputs and labels of each row of a step, over all workers, without their padding."""
    return sorted(
        (tuple(ids[mask.bool()].tolist()), tuple(labels[mask.bool()].tolist()))
        for rank in range(workers)
        for inputs in batches.micro_batches(step, Share(rank, workers, micro_batch))
        for ids, mask, labels in zip(inputs["input_ids"], inputs["attention_mask"], inputs["labels"], strict=True)
    )


def _rows(count: int = 16) -> list[tuple[int, ...]]:
    rng = random.Random(0)
    return [(0, *rng.choices(range(5, 1000), k=rng.randint(6, 30)), 2) for _ in range(count)]


def test_masks_depend_on_seed_step_and_feature_alone(tmp_path: Path) -> None:
    there = _batches(tmp_path, _rows())
    back = [_seen(there, step) for step in (3, 2, 1, 0)][::-1]
    assert [_seen(there, step) for step in range(4)] == back
    for workers, micro_batch in ((1, 2), (2, 64), (2, 1), (4, 2)):
        assert [_seen(there, step, workers, micro_batch) for step in range(4)] == back
    # Two steps are an epoch: the same rows, masked anew.
    epochs = [back[0] + back[1], back[2] + back[3]]
    whole = [sorted(_unmasked(*row) for row in epoch) for epoch in epochs]
    assert whole[0] == whole[1] == sorted(_rows())
    assert sorted(epochs[0]) != sorted(epochs[1])
    assert [_seen(_batches(tmp_path, _rows(), seed=1), step) for step in range(4)] != back


def _unmasked(ids: tuple[int, ...], labels: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(piece if label == IGNORED else label for piece, label in zip(ids, labels, strict=True))


def test_a_batch_weighs_its_masked_pieces(tmp_path: Path) -> None:
    batches = _batches(tmp_path, _rows())
    for step in range(4):
        assert batches.weight(step) == sum(label != IGNORED for _, labels in _seen(batches, step) for label in labels)
        assert batches.weight(step) > 8


def test_a_batch_without_a_masked_piece_has_no_loss_and_is_no_division_by_zero(tmp_path: Path) -> None:
    batches = _batches(tmp_path, [(0, 2)] * 4, batch_size=2)
    assert batches.weight(0) == 1.0
    (inputs,) = batches.micro_batches(0, ALONE)
    head, table, hidden_NLD = _head()
    loss = head.training_loss(hidden_NLD[:2, :8], inputs["attention_mask"], inputs)
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == 0.0
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in head.parameters())
    assert table.weight.grad is not None


# --- features


def test_long_text_is_split_evenly_and_nothing_is_lost(tokenizer: PreTrainedTokenizerFast) -> None:
    texts = [text for sentences in MicroCorpus(LANGUAGES, 30).parallel() for text in sentences.values()]
    examples = [TextExample("long", " ".join(texts)), TextExample("short", texts[0]), TextExample("none", "")]
    features = HEADS["masked_lm"].features(examples, task=TEXT, tokenizer=tokenizer, max_length=32)
    pieces = tokenizer(examples[0].text, add_special_tokens=False)["input_ids"]
    split = [feature.rows[0] for feature in features if feature.example == 0]
    assert len(pieces) > 300
    assert [piece for row in split for piece in row[1:-1]] == pieces
    assert max(map(len, split)) == 32
    assert min(map(len, split)) >= 31
    assert len(split) == -(-len(pieces) // 30)
    assert {(row[0], row[-1]) for row in split} == {(tokenizer.bos_token_id, tokenizer.eos_token_id)}
    assert [feature.rows for feature in features if feature.example == 1] == [
        (tuple(tokenizer(texts[0])["input_ids"]),)
    ]
    assert {feature.example for feature in features} == {0, 1}


# --- the head


def _head() -> tuple[MaskedLmModule, nn.Embedding, Tensor]:
    torch.manual_seed(0)
    head, table = MaskedLmModule(16), nn.Embedding(1000, 16)
    head.tie(table)
    return head, table, torch.randn(4, 12, 16, requires_grad=True)


def test_only_masked_positions_are_scored_and_the_loss_is_that_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    head, table, hidden_NLD = _head()
    mask_NL, labels_NL = torch.ones(4, 12, dtype=torch.long), torch.full((4, 12), IGNORED)
    labels_NL[0, 3], labels_NL[2, 5], labels_NL[2, 6] = 7, 8, 999
    targets = {"labels": labels_NL}
    # The formula by hand: RoBERTa's LM head without its last bias.
    transformed = head.norm(functional.gelu(head.dense(hidden_NLD)))
    expected = functional.cross_entropy(
        (transformed @ table.weight.T).flatten(0, 1), labels_NL.flatten(), ignore_index=IGNORED, reduction="sum"
    )
    shapes: list[torch.Size] = []
    head.out.register_forward_hook(lambda module, inputs, scores: shapes.append(scores.shape))
    loss = head.training_loss(hidden_NLD, mask_NL, targets)
    assert shapes == [(3, 1000)]
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert head.loss(head(hidden_NLD, mask_NL), targets).item() == pytest.approx(expected.item(), rel=1e-5)
    gradients = torch.autograd.grad(loss, [table.weight, hidden_NLD])
    for ours, by_hand in zip(gradients, torch.autograd.grad(expected, [table.weight, hidden_NLD]), strict=True):
        torch.testing.assert_close(ours, by_hand, rtol=1e-4, atol=1e-5)


def test_when_it_is_another_tasks_turn_nothing_is_scored_and_each_own_parameter_has_a_gradient() -> None:
    head, table, hidden_NLD = _head()
    head.out.register_forward_hook(lambda *_: pytest.fail("scores over the vocabulary"))
    (0.0 * head.idle(hidden_NLD, torch.ones(4, 12))).backward()  # type: ignore[no-untyped-call]
    assert table.weight.grad is None
    for name, parameter in head.named_parameters():
        assert (parameter.grad is None) == (name == "out.weight")


# --- training


def _losses(stage: FineTuneMixture, work: Workplace, folder: Path) -> tuple[list[float], dict[str, Tensor]]:
    """Losses of the steps of a stage, outside the store's bookkeeping, and the weights that it leaves."""
    seen: list[float] = []
    folder.mkdir(parents=True, exist_ok=True)
    stage.produce(dataclasses.replace(work, progress=lambda name, done, total, loss: seen.append(loss)), folder)
    return seen, dict(load_encoder(folder / ENCODER).state_dict()) if work.leads else {}


def _of_part(stage: FineTuneMixture, losses: list[float], part: int, work: Workplace) -> list[float]:
    counts = tuple(one.count(work) for one in stage.features)
    schedule = stage.task.schedule(counts, stage.training.steps, stage.training.seed)
    return [loss for loss, (task, _) in zip(losses, schedule, strict=True) if task == part]


def test_each_language_is_a_set_of_the_table_and_all_count_in_the_mixture(store: StageStore) -> None:
    text = STAGE.features[1]
    assert text.sets == (("train", "de"), ("train", "zh"))
    table = text.table(Workplace(store))
    for language in ("de", "zh"):
        assert len(table.of(f"train/{language}")) == len(TEXT.examples("train", language)) > 30
    assert text.count(Workplace(store)) == sum(len(TEXT.examples("train", one)) for one in ("de", "zh"))
    assert STAGE.features[0].sets == (("train", "en"),)


def test_the_loss_falls(store: StageStore, tmp_path: Path) -> None:
    longer = dataclasses.replace(STAGE, training=dataclasses.replace(TRAINING, steps=120, learning_rate=1e-2))
    losses, _ = _losses(longer, Workplace(store), tmp_path)
    masked = _of_part(longer, losses, 1, Workplace(store))
    assert masked[0] == pytest.approx(math.log(1700), abs=0.5)  # it knows nothing yet
    assert sum(masked[-10:]) / 10 < masked[0] - 1.5


def test_the_table_is_trained_through_the_scores_and_no_head_is_kept(store: StageStore, tmp_path: Path) -> None:
    _, after = _losses(STAGE, Workplace(store), tmp_path)
    before = load_encoder(store.folder(BASE) / ENCODER).state_dict()
    assert after.keys() == before.keys()
    name = "embeddings.word_embeddings.weight"
    read = torch.cat([torch.from_numpy(part.table(Workplace(store)).token_ids()) for part in STAGE.features])
    never_read = torch.ones(len(before[name]), dtype=torch.bool)
    never_read[read] = False
    # AdamW's decay alone leaves 1 - 24 * 3e-3 * 0.01 of a row at least.
    moved = (after[name] - before[name])[never_read].abs().amax(1)
    assert (moved > 1e-3).float().mean() > 0.99


SETTINGS: tuple[tuple[int, Precision], ...] = (
    *((0, "fp32"), (1, "fp32"), (2, "fp32"), (3, "fp32")),
    *((0, "bf16_mixed"), (2, "bf16_mixed"), (3, "bf16_mixed")),
)


def _in(precision: Precision) -> FineTuneMixture:
    return dataclasses.replace(STAGE, training=dataclasses.replace(TRAINING, steps=12, precision=precision))


def _tuned(rank: int, base: Path, folder: Path) -> dict[tuple[int, Precision], tuple[list[float], dict[str, Any]]]:
    """Losses and weights of one of two workers, by setting."""
    found = {}
    for zero_stage, precision in SETTINGS:
        work = Workplace(StageStore(base), Share(rank, 2, 4), Resources(zero_stage=zero_stage))
        losses, state = _losses(_in(precision), work, folder / f"{zero_stage}-{precision}-{rank}")
        found[zero_stage, precision] = losses, {name: value.numpy() for name, value in state.items()}
    return found


def test_two_workers_agree_with_one_under_every_zero_stage(store: StageStore, tmp_path: Path, pair: Pair) -> None:
    """Losses after the first step depend on gradients and optimizer; weights are compared by the way that they could have come,
    learning rate times steps. Sums in another order moved losses by 3e-7 and weights by 5e-7 of it, in bf16 by 4e-4 and 1e-3.
    """
    table = load_encoder(store.folder(BASE) / ENCODER).get_input_embeddings().weight
    assert table.numel() > 10**5  # a smaller one ZeRO 3 does not partition (its stage3_param_persistence_threshold)
    precisions: tuple[Precision, ...] = ("fp32", "bf16_mixed")
    alone = {one: _losses(_in(one), Workplace(store), tmp_path / one) for one in precisions}
    counts = [len(_of_part(_in("fp32"), alone["fp32"][0], part, Workplace(store))) for part in (0, 1)]
    assert min(counts) > 3  # steps of each task, in turn
    first, second = pair.run(_tuned, store.root, tmp_path)
    for zero_stage, precision in SETTINGS:
        losses, state = first[zero_stage, precision]
        expected, weights = alone[precision]
        assert losses == second[zero_stage, precision][0]
        assert losses == pytest.approx(expected, rel=1e-5 if precision == "fp32" else 4e-3), (zero_stage, precision)
        way = TRAINING.learning_rate * len(losses)
        for name, value in weights.items():
            far = (torch.from_numpy(state[name]) - value).abs()
            assert far.mean() < (1e-5 if precision == "fp32" else 1e-2) * way, (zero_stage, precision, name)


# --- trimming


def test_the_vocabulary_is_never_trimmed(store: StageStore, tmp_path: Path) -> None:
    rows = load_encoder(store.folder(BASE) / ENCODER).get_input_embeddings().num_embeddings
    few = dataclasses.replace(STAGE, task=Mixture("few", (MIXTURE.tasks[0], dataclasses.replace(TEXT, train_size=12))))
    work = Workplace(store)
    for part in few.features:
        ensure(part, work)
    read = {word for part in few.features for word in part.table(work).token_ids().tolist()}
    assert len(read) < 0.5 * rows  # else the rule would not trim in any case
    short = dataclasses.replace(few, training=dataclasses.replace(TRAINING, steps=2))
    (tmp_path / "left").mkdir()
    assert short.produce(work, tmp_path / "left")["embedding_rows_trained"] == rows
    with pytest.raises(ValueError, match=r"output layer heads\.1\.out is tied to the table"):
        short.produce(dataclasses.replace(work, resources=Resources(trim_vocabulary=True)), tmp_path)


# --- refusals


def _study(*intermediates: Any, **changes: Any) -> Study:
    study = recipes.inline()
    space = Space(intermediates, lr_intermediate=(1e-3,), lr_target=(1e-3,))
    return dataclasses.replace(study, space=space, trials=1 + len(intermediates), **changes)


def test_it_trains_in_a_mixture_alone() -> None:
    with pytest.raises(InvalidStudy, match="micro_masked_lm has no labels and is trained as one of the tasks"):
        _study(TEXT)
    with pytest.raises(InvalidStudy, match="targets: micro_masked_lm is an intermediate task"):
        _study(MIXTURE, targets=(*recipes.inline().targets, TEXT))
    with pytest.raises(ValueError, match="micro_masked_lm has no labels: train it as one of the tasks"):
        FineTune(BASE, TEXT, TRAINING)
    with pytest.raises(ValueError, match="micro_masked_lm has no labels and cannot be scored"):
        Evaluate(BASE, TEXT)
    with pytest.raises(ValueError, match="trained and never scored"):
        TEXT.chance()
    assert isinstance(
        _study(MIXTURE).base(recipes.inline().sizes[0], _study(MIXTURE).space.defaults()[1]), FineTuneMixture
    )


def test_an_encoder_without_a_mask_token_and_a_trimmed_table_are_refused() -> None:
    mt5 = Size("m", published("mt5-small"), Resources())
    changes: dict[str, Any] = {"corpus": None, "vocabulary_size": None, "group_pairs": None}
    with pytest.raises(InvalidStudy, match=r"sizes\[m\], topic_mlm: mt5 has no mask token"):
        _study(MIXTURE, sizes=(mt5,), **changes)
    _study(MIXTURE, sizes=(dataclasses.replace(mt5, encoder=published("mbert")),), **changes)
    trims = dataclasses.replace(recipes.inline().sizes[0], resources=Resources(trim_vocabulary=True))
    with pytest.raises(InvalidStudy, match=r"sizes\[1x32\], topic_mlm: trim_vocabulary"):
        _study(MIXTURE, sizes=(trims,))
    _study(MicroTopic(**SMALL), sizes=(trims,))


def test_languages_that_cannot_be_had_are_refused() -> None:
    with pytest.raises(ValueError, match="masked_lm: no data in tlh; its languages are af, ar"):
        MaskedLm(languages_=("de", "tlh"))
    with pytest.raises(ValueError, match="no CLDR coverage for tlh"):
        MicroMaskedLm(languages_=("tlh",))
    with pytest.raises(ValueError, match="a language besides English"):
        MicroMaskedLm(languages_=("en",))
    for task in (TEXT, MaskedLm(languages_=("de", "zh"))):
        with pytest.raises(ValueError, match="no dev"):
            task.examples("dev", "de")
        with pytest.raises(ValueError, match=r"no train s\w+ in '?xx"):
            task.examples("train", "xx")


# --- what is read


def test_generated_text_is_in_its_languages_and_the_same_for_the_same_seed() -> None:
    task = MicroMaskedLm(languages_=("en", "de", "zh"), train_size=30)
    texts = {language: [one.text for one in task.examples("train", language)] for language in task.languages}
    assert all(20 < len(set(some)) <= 30 for some in texts.values())
    assert all(any("一" <= sign <= "鿿" for sign in text) for text in texts["zh"])
    assert not set(texts["en"]) & set(texts["de"])
    other = dataclasses.replace(task, seed=1)
    assert [one.text for one in other.examples("train", "de")] != texts["de"]
    assert [one.text for one in dataclasses.replace(task).examples("train", "de")] == texts["de"]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data root with German and Swahili text."""
    (tmp_path / "text").mkdir()
    (tmp_path / "text/de.txt").write_text("Ein Satz.\n\nNoch einer.\n  Und ein dritter. \n", encoding="utf-8")
    (tmp_path / "text/sw.txt").write_text("Habari ya asubuhi.\nKaribu.\n", encoding="utf-8")
    monkeypatch.setenv(DATA_ROOT_VARIABLE, str(tmp_path))
    return tmp_path


def test_files_are_read_line_by_line(root: Path) -> None:
    task = pinned(MaskedLm(languages_=("de", "sw")))
    assert task.data.startswith("files:")
    assert task.splits() == task.for_training().splits() == [("train", "de"), ("train", "sw")]
    german = [TextExample("1", "Ein Satz."), TextExample("3", "Noch einer."), TextExample("4", "Und ein dritter.")]
    assert list(task.examples("train", "de")) == german
    swahili = [TextExample("1", "Habari ya asubuhi."), TextExample("2", "Karibu.")]
    assert list(task.for_training().examples("train", "sw")) == swahili
    some = [MaskedLm(languages_=("de",), train_size=2, sample_seed=seed).examples("train", "de") for seed in range(8)]
    assert {len(one) for one in some} == {2}
    assert set().union(*some) == set(german)
    assert MaskedLm().missing(root)[0] == f"train af: no {root / 'text/af.txt'}"
    assert len(MaskedLm().missing(root)) == 48  # of 50


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"text/de\.txt:1: no text; expected a sentence or paragraph a line"),
        (b"\n  \n", r"text/de\.txt:1: no text"),
        (b"Gut.\nSch\xf6n.\n", r"text/de\.txt:2: not UTF-8: .* at byte 3"),
    ],
    ids=["empty", "blank", "latin-1"],
)
def test_files_that_hold_no_text_are_one_clear_error(root: Path, content: bytes, message: str) -> None:
    (root / "text/de.txt").write_bytes(content)
    mixture = Mixture("mix", (MicroTopic(**SMALL), pinned(MaskedLm(languages_=("de", "sw")))))
    with pytest.raises(DataError, match=message):
        check_data(_study(mixture), say=pytest.fail)


def test_languages_and_files_are_part_of_what_is_trained(root: Path) -> None:
    both, one = pinned(MaskedLm(languages_=("de", "sw"))), pinned(MaskedLm(languages_=("de",)))
    assert both.for_training() != one.for_training()
    stages = [Tokenise(BASE.tokenizer, task.for_training(), "train", 64) for task in (both, one)]
    assert fingerprint(stages[0]) != fingerprint(stages[1])
    assert stages[0].sets == (("train", "de"), ("train", "sw"))
    assert fingerprint(TEXT) != fingerprint(dataclasses.replace(TEXT, languages_=("de",)))
    (root / "text/de.txt").write_text("Anderes.\n", encoding="utf-8")
    assert pinned(MaskedLm(languages_=("de",))).for_training() != one.for_training()
    with pytest.raises(DataError, match="the files of masked_lm have changed"):
        dataclasses.replace(one, sample_seed=7).examples("train", "de")


def test_without_a_file_wikipedia_is_read_at_a_fixed_commit_and_not_all_of_it(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    class Streamed(list[dict[str, str]]):
        def take(self, count: int) -> list[dict[str, str]]:
            asked.append(count)
            return self[:count]

    def load(name: str, config: str, **how: Any) -> Streamed:
        asked.append((name, config, how))
        long = "Suomi on tasavalta Pohjois-Euroopassa, ja sen naapureita ovat Ruotsi, Norja ja Venäjä."
        return Streamed([{"id": "1", "url": "", "title": "Suomi", "text": f"{long}\n\nHistoria\n\n {long} \n"}] * 3)

    monkeypatch.setattr("datasets.load_dataset", load)
    task = pinned(MaskedLm(languages_=("de", "fi"), train_size=5))
    commit = "b04c8d1ceb2f5cd4588862100d08de323dccfbaa"
    assert task.data.split(";")[1] == f"wikimedia/wikipedia@{commit}"
    examples = task.examples("train", "fi")
    how = {"split": "train", "revision": commit, "streaming": True}
    assert asked == [("wikimedia/wikipedia", "20231101.fi", how), ARTICLES]
    assert len(examples) == 5
    assert {one.id for one in examples} < {f"{article}-{line}" for article in range(3) for line in (0, 4)}
    assert all(isinstance(one, TextExample) and one.text.startswith("Suomi on") for one in examples)
    assert len(task.examples("train", "de")) == 3  # of the file


# --- plan


def test_the_plan_shows_what_is_mixed_and_what_scores_cost() -> None:
    study = _study(MIXTURE, MicroTopic(**SMALL))
    console = Console(width=200, record=True, file=StringIO())
    console.print(render_plan(study))
    text = console.export_text()
    assert "micro_topic + micro_masked_lm (de, zh)" in text
    assert "intermediate-topic_mlm" in text
    said: list[str] = []
    check_data(study, say=said.append)
    assert said == []
    architecture = architecture_of(study, study.sizes[0])
    training, resources = study.intermediate_tuning, study.sizes[0].resources
    plain, masked = (
        memory.activations_gb(architecture, resources, Load(training, masked=one)) for one in (False, True)
    )
    # 16 rows of 128 pieces, 15% of them with scores of 600 pieces at 10 bytes.
    assert (masked - plain) * 1e9 == pytest.approx(16 * 128 * 0.15 * 600 * 10)
