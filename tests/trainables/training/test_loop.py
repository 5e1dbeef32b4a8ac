"""The training loop learns, every ZeRO stage and number of workers gives the same result, and NaN stops all workers."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from tests.support import recipes
from tests.support.pair import Pair
from tests.support.recipes import SMALL
from trainables.hyperparameters import Diverged, Training
from trainables.resources import Resources
from trainables.stages.base import Workplace, ensure
from trainables.stages.finetune import FineTune, Tuned
from trainables.stages.mixture import FineTuneMixture
from trainables.store.stage_store import StageStore
from trainables.tasks.micro.intermediate import MicroOddOneOut, MicroTopic
from trainables.tasks.mixture import Mixture
from trainables.training.batching import Share

STUDY = recipes.tiny()
PRETRAINED = STUDY.encoder_stage(STUDY.sizes[0])
TRAINING = Training(learning_rate=3e-3, steps=12, batch_size=16, seed=1)
TUNED = FineTune(PRETRAINED, STUDY.targets[0], TRAINING)
# A step of the first task has one row an example, one of the second three.
MIXED = FineTuneMixture(PRETRAINED, Mixture("mix", (MicroTopic(**SMALL), MicroOddOneOut(**SMALL))), TRAINING)


@pytest.fixture(scope="module")
def base(base: Path) -> Path:
    """With features of all tasks."""
    for stage in (TUNED.features, *MIXED.features):
        ensure(stage, Workplace(StageStore(base)))
    return base


def _losses(stage: Tuned, work: Workplace, folder: Path) -> list[float]:
    """Loss of every step of a fine-tuning, outside the store's bookkeeping."""
    seen: list[float] = []
    folder.mkdir(parents=True, exist_ok=True)
    stage.produce(
        dataclasses.replace(work, progress=lambda name, done, total, loss: seen.extend([] if loss is None else [loss])),
        folder,
    )
    return seen


def _tuned(
    rank: int, zero_stage: int, base: Path, folder: Path, stage: Tuned, rows: int = 64, tokens: int | None = None
) -> list[float] | str:
    """The losses of a fine-tuning on one of two workers, or where it diverged; `rows` and `tokens` are the micro-batch's."""
    work = Workplace(StageStore(base), Share(rank, 2, rows, tokens), Resources(zero_stage=zero_stage))
    try:
        return _losses(stage, work, folder / f"rank{rank}")
    except Diverged as error:
        return f"diverged at {error.step}"


def test_the_loss_falls(base: Path, tmp_path: Path) -> None:
    losses = _losses(TUNED, Workplace(StageStore(base)), tmp_path)
    assert len(losses) == TRAINING.steps
    assert sum(losses[-3:]) < 0.8 * sum(losses[:3])


@pytest.mark.slow
def test_micro_batches_do_not_change_the_loss(base: Path, tmp_path: Path) -> None:
    whole = _losses(TUNED, Workplace(StageStore(base), Share(0, 1, 16)), tmp_path / "whole")
    quarters = _losses(TUNED, Workplace(StageStore(base), Share(0, 1, 4)), tmp_path / "quarters")
    assert quarters == pytest.approx(whole, rel=2e-4)  # fp32 sums in another order


@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
def test_zero_stages_on_two_workers_agree_with_one(zero_stage: int, base: Path, tmp_path: Path, pair: Pair) -> None:
    """Losses after the first step depend on gradients and optimizer, so equal losses mean equal training."""
    alone = _losses(TUNED, Workplace(StageStore(base)), tmp_path / "alone")
    first, second = pair.run(_tuned, zero_stage, base, tmp_path, TUNED)
    assert first == second
    assert first == pytest.approx(alone, rel=1e-3)


@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
def test_steps_of_a_mixture_cut_into_more_or_fewer_micro_batches_train_the_same(
    zero_stage: int, base: Path, tmp_path: Path, pair: Pair
) -> None:
    """Eight examples a worker in micro-batches of eight rows: one for the first task, four of two examples for the second."""
    alone = _losses(MIXED, Workplace(StageStore(base)), tmp_path / "alone")
    first, second = pair.run(_tuned, zero_stage, base, tmp_path, MIXED, 8)
    assert first == second
    assert first == pytest.approx(alone, rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("zero_stage", [0, 2, 3])
def test_micro_batches_cut_by_tokens_train_the_same(zero_stage: int, base: Path, tmp_path: Path, pair: Pair) -> None:
    """Rows of 8 to 32 padded tokens, in micro-batches of one to eight rows: their number changes from step to step."""
    alone = _losses(TUNED, Workplace(StageStore(base)), tmp_path / "alone")
    first, second = pair.run(_tuned, zero_stage, base, tmp_path, TUNED, 64, 64)
    assert first == second
    assert first == pytest.approx(alone, rel=1e-3)


def test_divergence_stops_every_worker_at_the_same_step(base: Path, tmp_path: Path, pair: Pair) -> None:
    wild = dataclasses.replace(TUNED, training=dataclasses.replace(TRAINING, learning_rate=1e30, warmup=0.0))
    first, second = pair.run(_tuned, 0, base, tmp_path, wild)
    assert first == second
    assert first.startswith("diverged at ")


@pytest.mark.slow
def test_the_same_seed_trains_the_same_model_and_another_does_not(base: Path, tmp_path: Path) -> None:
    work = Workplace(StageStore(base))
    other = dataclasses.replace(TUNED, training=dataclasses.replace(TRAINING, seed=2))
    first, second = _losses(TUNED, work, tmp_path / "first"), _losses(TUNED, work, tmp_path / "second")
    assert first == pytest.approx(second, rel=1e-6)
    assert _losses(other, work, tmp_path / "other") != pytest.approx(first, rel=1e-3)
