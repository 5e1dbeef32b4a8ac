"""Vocabulary trimming: the same losses and weights as training every row of the embedding table.

Only rounding may differ. Rows that do not occur are multiplied once instead of in every step: one rounding against `steps`,
each of at most 2^-24 of the value. All else goes through the same operations on the same numbers, except the norm used for
clipping: its squares may be summed in another order, which changes it by 1e-7. Adam divides gradients by their own size, so
this moves a weight by at most 1e-6 of its largest possible way, learning rate times steps. A wrong row, random number or step
shows in the second digit of the loss. In bf16 products, the last bit of a weight can change the rounding of an activation by
2^-8 of its value, and later gradients: about a hundredth of the way and a thousandth of the loss.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tests.support.networks import PAD, ROWS, WIDTH, classifier, random_features, roberta, small_encoder
from tests.support.pair import Pair
from tests.support.recipes import LANGUAGES, SMALL
from trainables.heads import Feature
from trainables.heads.features import FeatureTable, read_features, write_features
from trainables.hyperparameters import EarlyStopping, Training
from trainables.models.encoder import Shape, load_encoder
from trainables.models.families import FAMILIES
from trainables.models.task_model import ENCODER, load_task_model
from trainables.resources import Resources
from trainables.stages.base import Stage, Workplace, ensure
from trainables.stages.finetune import FineTune
from trainables.stages.fit import fit
from trainables.stages.mixture import FineTuneMixture
from trainables.stages.pretrain import Pretrain
from trainables.stages.vocabulary import Vocabulary
from trainables.store.stage_store import StageStore
from trainables.tasks.micro.corpus import MicroCorpus
from trainables.tasks.micro.entailment import MicroEntailment
from trainables.tasks.micro.intermediate import MicroParaphrase, MicroTopic
from trainables.tasks.micro.tagging import MicroTagging
from trainables.tasks.mixture import Mixture
from trainables.training.batching import BatchOrder, FeatureBatches, Share
from trainables.training.trimming import Lookups, looked_up, trim, unseen_decay

pytestmark = pytest.mark.usefixtures("one_thread")

TASK = MicroEntailment()
TRAINING = Training(learning_rate=1e-2, steps=12, batch_size=16, seed=1)
BEST = 4  # steps after which the dev score is highest
ROUNDING = 2.0**-24  # half a unit in the last place of fp32, relative


@dataclasses.dataclass(frozen=True)
class Tuned:
    state: Mapping[str, Tensor]
    losses: list[float]
    rows_trained: int
    best_step: int | None = None


class Killed(Exception):
    """Interrupts a training."""


@dataclasses.dataclass(frozen=True)
class Checkpointed(Stage):
    """A stage with checkpoints."""

    @property
    def label(self) -> str:
        return "tuned"

    @property
    def parents(self) -> tuple[Stage, ...]:
        return ()

    def produce(self, work: Workplace, folder: Path) -> Mapping[str, Any]:
        raise NotImplementedError


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> FeatureTable:
    return read_features(random_features(tmp_path_factory.mktemp("features") / "features.arrow"))


class WordScores(nn.Module):
    """Learns to predict the word at the first position, with scores over the whole vocabulary."""

    def __init__(self, encoder: PreTrainedModel, *, tied: bool) -> None:
        super().__init__()
        self.encoder, self.out = encoder, nn.Linear(WIDTH, ROWS, bias=False)
        if tied:
            self.out.weight = encoder.get_input_embeddings().weight

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor) -> Tensor:
        hidden_NLD = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return nn.functional.cross_entropy(self.out(hidden_NLD[:, 0]), input_ids[:, 1], reduction="sum")


MODELS: dict[str, Callable[[], nn.Module]] = {
    "one embedding": lambda: classifier(roberta()),
    "tied embeddings": lambda: classifier(small_encoder("mt5")),
    "untied output": lambda: WordScores(roberta(), tied=False),
}


def _tune(
    features: FeatureTable,
    training: Training,
    *,
    trims: bool | None,
    model: str = "one embedding",
    zero_stage: int = 0,
    share: Share = Share(0, 1, 16),  # noqa: B008 - frozen
    folder: Path = Path("/nowhere"),
    killed_at: int | None = None,
) -> Tuned:
    """A training whose dev score, if it has early stopping, is highest after `BEST` steps.

    With a folder for checkpoints, it writes one after every step and resumes an earlier training.
    """
    torch.manual_seed(0)  # for the weights
    built, losses = MODELS[model](), list[float]()

    def progress(stage: str, done: int, total: int, loss: float | None) -> None:
        assert loss is not None
        losses.append(loss)
        if done == killed_at:
            raise Killed

    work = Workplace(
        StageStore(folder),
        share,
        Resources(zero_stage=zero_stage, trim_vocabulary=trims, checkpoint_every_s=0.0),
        progress=progress,
    )
    batches = FeatureBatches(features, TASK, PAD, BatchOrder(features.lengths, training.batch_size, training.seed))
    lookups = looked_up(_table(built), [features], PAD)
    stage = Checkpointed() if folder.exists() else "tuned"
    state, metrics = fit(
        *(built, batches, training, work, stage),
        lookups=lookups,
        dev_score=lambda engine: -abs(float(engine.global_steps) - BEST),
    )
    assert len(losses) == metrics.get("steps_done", training.steps) - metrics.get("resumed_at", 0)
    return Tuned(state, losses, metrics["embedding_rows_trained"], metrics.get("best_step"))


def _table(model: nn.Module) -> nn.Embedding:
    table: nn.Embedding = model.get_submodule("encoder").get_input_embeddings()  # type: ignore[operator]
    return table


def _assert_equal(trimmed: Tuned, whole: Tuned, features: FeatureTable, training: Training) -> None:
    assert trimmed.rows_trained == len({PAD, *features.token_ids()}) < whole.rows_trained == ROWS
    assert trimmed.state.keys() == whole.state.keys()
    bf16 = training.precision != "fp32"
    assert trimmed.losses == pytest.approx(whole.losses, rel=1e-3 if bf16 else 1e-6)
    unseen = torch.ones(ROWS, dtype=torch.bool)
    unseen[torch.from_numpy(features.token_ids())] = False
    way, decayed = training.learning_rate * training.steps, (training.steps + 1) * ROUNDING
    for name, expected in whole.state.items():
        got = trimmed.state[name]
        torch.testing.assert_close(got, expected, rtol=decayed, atol=(1e-2 if bf16 else 1e-6) * way)
        if name.endswith(("word_embeddings.weight", "shared.weight")):
            assert got.shape == (ROWS, WIDTH)
            torch.testing.assert_close(got[unseen], expected[unseen], rtol=decayed, atol=0.0)


def _with(**changes: Any) -> Training:
    return dataclasses.replace(TRAINING, **changes)


SCHEDULES: dict[str, dict[str, Any]] = {
    "linear with warm-up": {"warmup": 0.25},
    "linear": {"warmup": 0.0},
    "constant": {"schedule": "constant", "warmup": 0.0},
    "constant with warm-up": {"schedule": "constant", "warmup": 0.5},
}


@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_trimmed_equals_untrimmed_over_schedules(features: FeatureTable, schedule: str, weight_decay: float) -> None:
    training = _with(**SCHEDULES[schedule], weight_decay=weight_decay)
    trimmed, whole = (_tune(features, training, trims=trims) for trims in (True, False))
    _assert_equal(trimmed, whole, features, training)


@pytest.mark.parametrize("precision", ["fp32", "bf16_mixed", "bf16_master"])
@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
def test_trimmed_equals_untrimmed_under_zero(features: FeatureTable, zero_stage: int, precision: str) -> None:
    """Gradients are clipped to a tenth of their size, so the norm must be the same."""
    training = _with(precision=precision, max_gradient_norm=0.1)
    trimmed, whole = (_tune(features, training, trims=trims, zero_stage=zero_stage) for trims in (True, False))
    _assert_equal(trimmed, whole, features, training)


@pytest.mark.parametrize("model", ["tied embeddings", "untied output"])
def test_trimmed_equals_untrimmed_in_other_models(features: FeatureTable, model: str) -> None:
    trimmed, whole = (_tune(features, TRAINING, trims=trims, model=model) for trims in (True, False))
    _assert_equal(trimmed, whole, features, TRAINING)


def test_an_output_layer_tied_to_the_table_is_not_trimmed(features: FeatureTable) -> None:
    """Scores over the vocabulary give every row a gradient."""
    model = WordScores(roberta(), tied=True)
    lookups = looked_up(_table(model), [features], PAD)
    assert not lookups.pays(model)
    with pytest.raises(ValueError, match="output layer out is tied"):
        trim(model, lookups)
    assert _table(model).weight.shape == (ROWS, WIDTH)


def test_a_table_that_is_not_trained_is_not_trimmed(features: FeatureTable) -> None:
    model = classifier(roberta())
    _table(model).weight.requires_grad_(False)
    with pytest.raises(ValueError, match="not trained"):
        trim(model, looked_up(_table(model), [features], PAD))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_computes_the_same_on_the_same_random_numbers(features: FeatureTable, family: str) -> None:
    """Bit for bit: the same loss, gradients and state of the generator."""
    results = []
    for trims in (False, True):
        torch.manual_seed(0)
        model = classifier(small_encoder(family)).train()
        if trims:
            trim(model, looked_up(_table(model), [features], PAD))
        loss = model(**_batch(features))
        loss.backward()
        table = _table(model).weight
        others = [parameter.grad for parameter in model.parameters() if parameter is not table]
        results.append((loss.detach(), table.grad, others, torch.get_rng_state()))
    (whole_loss, whole_rows, whole_others, whole_state), (loss, rows, others, state) = results
    assert torch.equal(loss, whole_loss)
    assert torch.equal(state, whole_state)
    assert rows is not None
    assert whole_rows is not None
    assert torch.equal(rows, whole_rows[sorted({PAD, *features.token_ids().tolist()})])
    for gradient, whole in zip(others, whole_others, strict=True):
        assert (gradient is None and whole is None) or torch.equal(gradient, whole)  # type: ignore[arg-type]


def _batch(features: FeatureTable) -> dict[str, Tensor]:
    order = BatchOrder(features.lengths, TRAINING.batch_size, TRAINING.seed)
    (batch,) = FeatureBatches(features, TASK, PAD, order).micro_batches(0, Share(0, 1, 16))
    return batch


def test_rows_that_do_not_occur_add_nothing_to_the_norm(features: FeatureTable) -> None:
    norms = []
    for trims in (False, True):
        torch.manual_seed(0)
        model = classifier(roberta())
        if trims:
            trim(model, looked_up(_table(model), [features], PAD))
        model(**_batch(features)).backward()
        if not trims:
            unseen = torch.ones(ROWS, dtype=torch.bool)
            unseen[torch.from_numpy(features.token_ids())] = False
            gradient = _table(model).weight.grad
            assert gradient is not None
            assert not gradient[unseen].any()  # the row of padding among them
        norms.append(float(nn.utils.clip_grad_norm_(model.parameters(), 1.0)))
    assert norms[1] == pytest.approx(norms[0], rel=1e-6)  # squares summed in another order


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_closed_form_is_what_fused_adamw_does_without_gradient(schedule: str) -> None:
    training = _with(**SCHEDULES[schedule], weight_decay=0.1, steps=200)
    before = torch.randn(50, WIDTH)
    row = nn.Parameter(before.clone())
    optimizer = torch.optim.AdamW([row], betas=(0.9, 0.98), eps=1e-6, weight_decay=0.1, fused=True)
    for step in range(training.steps):
        optimizer.param_groups[0]["lr"] = training.learning_rate_at(step)
        row.grad = torch.zeros_like(row)
        optimizer.step()
    moments = [value for name, value in optimizer.state[row].items() if name != "step"]
    assert not any(value.any() for value in moments)
    expected = before * unseen_decay(training, training.steps)
    torch.testing.assert_close(row.detach(), expected, rtol=(training.steps + 1) * ROUNDING, atol=0.0)
    assert unseen_decay(training, training.steps) < 0.95  # or a missing decay would not show


def test_only_steps_that_ran_decay() -> None:
    training = _with(schedule="constant", warmup=0.0, weight_decay=0.5)
    assert unseen_decay(training, 0) == 1.0
    assert unseen_decay(training, 3) == pytest.approx((1 - 1e-2 * 0.5) ** 3)


def test_a_word_outside_the_lookups_is_an_error_in_training(features: FeatureTable) -> None:
    model = classifier(roberta())
    lookups = looked_up(_table(model), [features], PAD)
    trim(model, Lookups(lookups.embedding, lookups.ids[:-1]))
    _table(model)(lookups.ids[:-1])
    with pytest.raises(IndexError):
        _table(model)(lookups.ids)


def test_what_is_looked_up(features: FeatureTable, tmp_path: Path) -> None:
    expected = {word for feature in features for row in feature.rows for word in row}
    assert set(features.token_ids().tolist()) == expected
    path = tmp_path / "two.arrow"
    write_features(path, [("a", [Feature(0, ((7, 3), (9,)), ())]), ("b", [Feature(0, ((3, 5),), ())] * 2)])
    table = read_features(path)
    assert table.token_ids().tolist() == [3, 5, 7, 9]
    assert table.of("b").token_ids().tolist() == [3, 5]
    # Padding is looked up though no feature has it; here batches and embedding use different rows for it.
    assert looked_up(nn.Embedding(10, 2, padding_idx=0), [table.of("b")], pad_id=1).ids.tolist() == [0, 1, 3, 5]
    with pytest.raises(ValueError, match="token ids 1 to 9, embedding table of 9 rows"):
        looked_up(nn.Embedding(9, 2), [table], pad_id=1)


def test_by_default_it_trims_where_fewer_than_half_of_the_rows_occur(features: FeatureTable) -> None:
    assert _tune(features, _with(steps=1), trims=None).rows_trained == len({PAD, *features.token_ids()})
    model = classifier(roberta())
    assert Lookups(_table(model), torch.arange(ROWS // 2 - 1)).pays(model)
    assert not Lookups(_table(model), torch.arange(ROWS // 2)).pays(model)


@pytest.mark.parametrize("interrupted", [False, True])
@pytest.mark.parametrize("stops", [False, True])
def test_trimmed_equals_untrimmed_with_early_stopping_and_after_resuming(
    features: FeatureTable, tmp_path: Path, *, stops: bool, interrupted: bool
) -> None:
    """Rows that do not occur decay for as many steps as the others were trained in the state that is kept.

    Steps after the best score do not count, and steps before an interruption do. Each step takes 3% of them, a thousand times
    the rounding.
    """
    training = _with(weight_decay=3.0, early_stopping=EarlyStopping(every=2, patience=2) if stops else None)
    whole = _tune(features, training, trims=False)
    if interrupted:
        with pytest.raises(Killed):
            _tune(features, training, trims=True, folder=tmp_path, killed_at=BEST + 1)
        trimmed = _tune(features, training, trims=True, folder=tmp_path)
        assert len(trimmed.losses) == len(whole.losses) - BEST, "it did not resume from its checkpoint"
        whole.losses[:BEST] = []
    else:
        trimmed = _tune(features, training, trims=True)
    assert trimmed.best_step == whole.best_step == (BEST if stops else None)
    assert len(whole.losses) + (BEST if interrupted else 0) == (BEST + 4 if stops else training.steps)
    _assert_equal(trimmed, whole, features, training)


# --- on two workers


SHORT = _with(steps=4)


def _tuned(rank: int, folder: Path) -> dict[tuple[int, bool], tuple[dict[str, Any], list[float], int]]:
    """State, losses and trained rows on one of two workers, by ZeRO stage and trimming."""
    features, results = read_features(folder / "features.arrow"), {}
    for zero_stage in (2, 3):
        for trims in (True, False):
            tuned = _tune(features, SHORT, trims=trims, zero_stage=zero_stage, share=Share(rank, 2, 8))
            state = {name: value.numpy() for name, value in tuned.state.items()}
            results[zero_stage, trims] = state, tuned.losses, tuned.rows_trained
    return results


def test_trimmed_equals_untrimmed_on_two_workers(tmp_path: Path, pair: Pair) -> None:
    """ZeRO pads the partitions of 191 rows differently from those of 1,000."""
    features = read_features(random_features(tmp_path / "features.arrow"))
    results = {
        (rank, *key): Tuned({name: torch.from_numpy(value) for name, value in state.items()}, losses, rows)
        for rank, of_worker in enumerate(pair.run(_tuned, tmp_path))
        for key, (state, losses, rows) in of_worker.items()
    }
    for zero_stage in (2, 3):
        for rank in (0, 1):
            _assert_equal(results[rank, zero_stage, True], results[rank, zero_stage, False], features, SHORT)
        assert results[0, zero_stage, True].losses == results[1, zero_stage, True].losses


# --- as stages


@pytest.fixture(scope="module")
def workplaces(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Workplace]:
    """A store whose stages trim, and one whose stages do not."""
    return {
        trims: Workplace(
            StageStore(tmp_path_factory.mktemp(f"trims-{trims}")), resources=Resources(trim_vocabulary=trims)
        )
        for trims in (True, False)
    }


TUNING = Training(learning_rate=3e-3, steps=8, batch_size=16, seed=1)
BASE = Pretrain(
    Vocabulary(MicroCorpus(LANGUAGES, 200), 600), Shape(1, 32), dataclasses.replace(TUNING, batch_size=2, steps=2), 8
)


def test_pre_training_never_trims(workplaces: dict[bool, Workplace]) -> None:
    """Masked words are scored over the whole table, so both trainings must be identical."""
    for work in workplaces.values():
        metrics = ensure(BASE, work).metrics
        assert "embedding_rows_trained" not in metrics
    trimmed, whole = (load_encoder(work.store.folder(BASE) / ENCODER) for work in workplaces.values())
    assert torch.equal(trimmed.get_input_embeddings().weight, whole.get_input_embeddings().weight)


def test_a_tuned_model_reads_words_that_training_never_saw(workplaces: dict[bool, Workplace]) -> None:
    stage = FineTune(BASE, MicroTagging(languages_=LANGUAGES, **SMALL), TUNING)
    logits = {}
    for trims, work in workplaces.items():
        rows = ensure(stage, work).metrics["embedding_rows_trained"]
        model = load_task_model(work.store.folder(stage), stage.task)
        size = _table(model).num_embeddings
        unseen = sorted({*range(size)} - {*stage.features.table(work).token_ids().tolist()})
        assert (rows < size) is trims
        assert len(unseen) > size // 4
        ids = torch.tensor([unseen])
        logits[trims] = model.logits(ids, torch.ones_like(ids)).detach()
    # Sums over 32 and more weights that agree to 1e-6 of the way.
    torch.testing.assert_close(logits[True], logits[False], rtol=0.0, atol=1e-5)


def test_a_mixture_is_trimmed_to_the_words_of_all_its_tasks(workplaces: dict[bool, Workplace]) -> None:
    tasks = (MicroTopic(**SMALL), MicroParaphrase(**SMALL))
    stage = FineTuneMixture(BASE, Mixture("mix", tasks), TUNING)
    weights = {}
    for trims, work in workplaces.items():
        rows = ensure(stage, work).metrics["embedding_rows_trained"]
        words = {word for part in stage.features for word in part.table(work).token_ids().tolist()}
        if trims:
            assert rows == len(words | {load_encoder(work.store.folder(BASE) / ENCODER).config.pad_token_id})
        weights[trims] = load_encoder(work.store.folder(stage) / ENCODER).state_dict()
    assert weights[True].keys() == weights[False].keys()
    for name, value in weights[False].items():
        torch.testing.assert_close(weights[True][name], value, rtol=0.0, atol=1e-6, msg=name)
