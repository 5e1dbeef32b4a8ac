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

from tests.support.killed import Killed
from tests.support.networks import (
    PAD,
    ROWS,
    WIDTH,
    WordScores,
    classifier,
    embedding_of,
    roberta,
    small_encoder,
)
from tests.support.pair import Pair
from trainables.heads.features import FeatureTable, read_features
from trainables.hyperparameters import EarlyStopping, Training
from trainables.resources import Resources
from trainables.stages.base import Stage, Workplace
from trainables.stages.fit import fit
from trainables.store.stage_store import StageStore
from trainables.tasks.micro.entailment import MicroEntailment
from trainables.training.batching import BatchOrder, FeatureBatches, Share
from trainables.training.trimming import Lookups, looked_up, unseen_decay

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
    lookups = looked_up(embedding_of(built), [features], PAD)
    stage = Checkpointed() if folder.exists() else "tuned"
    state, metrics = fit(
        *(built, batches, training, work, stage),
        lookups=lookups,
        dev_score=lambda engine: -abs(float(engine.global_steps) - BEST),
    )
    assert len(losses) == metrics.get("steps_done", training.steps) - metrics.get("resumed_at", 0)
    return Tuned(state, losses, metrics["embedding_rows_trained"], metrics.get("best_step"))


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
def test_trimmed_equals_untrimmed_over_schedules(
    feature_table: FeatureTable, schedule: str, weight_decay: float
) -> None:
    training = _with(**SCHEDULES[schedule], weight_decay=weight_decay)
    trimmed, whole = (_tune(feature_table, training, trims=trims) for trims in (True, False))
    _assert_equal(trimmed, whole, feature_table, training)


@pytest.mark.parametrize("precision", ["fp32", "bf16_mixed", "bf16_master"])
@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
def test_trimmed_equals_untrimmed_under_zero(feature_table: FeatureTable, zero_stage: int, precision: str) -> None:
    """Gradients are clipped to a tenth of their size, so the norm must be the same."""
    training = _with(precision=precision, max_gradient_norm=0.1)
    trimmed, whole = (_tune(feature_table, training, trims=trims, zero_stage=zero_stage) for trims in (True, False))
    _assert_equal(trimmed, whole, feature_table, training)


@pytest.mark.parametrize("model", ["tied embeddings", "untied output"])
def test_trimmed_equals_untrimmed_in_other_models(feature_table: FeatureTable, model: str) -> None:
    trimmed, whole = (_tune(feature_table, TRAINING, trims=trims, model=model) for trims in (True, False))
    _assert_equal(trimmed, whole, feature_table, TRAINING)


def test_by_default_it_trims_where_fewer_than_half_of_the_rows_occur(feature_table: FeatureTable) -> None:
    assert _tune(feature_table, _with(steps=1), trims=None).rows_trained == len({PAD, *feature_table.token_ids()})
    model = classifier(roberta())
    assert Lookups(embedding_of(model), torch.arange(ROWS // 2 - 1)).pays(model)
    assert not Lookups(embedding_of(model), torch.arange(ROWS // 2)).pays(model)


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


@pytest.mark.parametrize("interrupted", [False, True])
@pytest.mark.parametrize("stops", [False, True])
def test_trimmed_equals_untrimmed_with_early_stopping_and_after_resuming(
    feature_table: FeatureTable, tmp_path: Path, *, stops: bool, interrupted: bool
) -> None:
    """Rows that do not occur decay for as many steps as the others were trained in the state that is kept.

    Steps after the best score do not count, and steps before an interruption do. Each step takes 3% of them, a thousand times
    the rounding.
    """
    training = _with(weight_decay=3.0, early_stopping=EarlyStopping(every=2, patience=2) if stops else None)
    whole = _tune(feature_table, training, trims=False)
    if interrupted:
        with pytest.raises(Killed):
            _tune(feature_table, training, trims=True, folder=tmp_path, killed_at=BEST + 1)
        trimmed = _tune(feature_table, training, trims=True, folder=tmp_path)
        assert len(trimmed.losses) == len(whole.losses) - BEST, "it did not resume from its checkpoint"
        whole.losses[:BEST] = []
    else:
        trimmed = _tune(feature_table, training, trims=True)
    assert trimmed.best_step == whole.best_step == (BEST if stops else None)
    assert len(whole.losses) + (BEST if interrupted else 0) == (BEST + 4 if stops else training.steps)
    _assert_equal(trimmed, whole, feature_table, training)


# --- on two workers


SHORT = _with(steps=4)


def _tuned(rank: int, features: Path) -> dict[tuple[int, bool], tuple[dict[str, Any], list[float], int]]:
    """State, losses and trained rows on one of two workers, by ZeRO stage and trimming."""
    table, results = read_features(features), {}
    for zero_stage in (2, 3):
        for trims in (True, False):
            tuned = _tune(table, SHORT, trims=trims, zero_stage=zero_stage, share=Share(rank, 2, 8))
            state = {name: value.numpy() for name, value in tuned.state.items()}
            results[zero_stage, trims] = state, tuned.losses, tuned.rows_trained
    return results


def test_trimmed_equals_untrimmed_on_two_workers(features: Path, feature_table: FeatureTable, pair: Pair) -> None:
    """ZeRO pads the partitions of 191 rows differently from those of 1,000."""
    results = {
        (rank, *key): Tuned({name: torch.from_numpy(value) for name, value in state.items()}, losses, rows)
        for rank, of_worker in enumerate(pair.run(_tuned, features))
        for key, (state, losses, rows) in of_worker.items()
    }
    for zero_stage in (2, 3):
        for rank in (0, 1):
            _assert_equal(results[rank, zero_stage, True], results[rank, zero_stage, False], feature_table, SHORT)
        assert results[0, zero_stage, True].losses == results[1, zero_stage, True].losses
