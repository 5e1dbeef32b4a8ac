"""A training resumes on another number of workers with the same weights and moments, to the last bit."""

from __future__ import annotations

import dataclasses
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.support.killed import Killed
from tests.support.networks import PAD, classifier, roberta
from tests.support.pair import Pair
from trainables.heads.features import read_features
from trainables.hyperparameters import Precision, Training
from trainables.store.manifests import MANIFEST
from trainables.tasks.micro.entailment import MicroEntailment
from trainables.training.batching import BatchOrder, FeatureBatches, Share
from trainables.training.engine import Layout, managed_engine
from trainables.training.loop import Trained, train
from trainables.training.resuming.checkpoints import Checkpoints, Resumed
from trainables.training.resuming.resharding import own_slice

STEPS, KILLED_AT, BATCH = 12, 7, 16
TRAINING = Training(learning_rate=1e-2, steps=STEPS, batch_size=BATCH, seed=1)
# Of losses after a change of the number of workers, against those without it: in fp32 another order of sums, in bf16 gradients
# of other micro-batches, each rounded to 8 bits.
TOLERANCE: dict[Precision, float] = {"fp32": 1e-4, "bf16_master": 2e-2}
# ZeRO stages and precisions; bf16 weights have an optimizer of their own without ZeRO.
CASES: list[tuple[int, Precision]] = [(0, "fp32"), (1, "fp32"), (2, "fp32"), (0, "bf16_master"), (2, "bf16_master")]
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("padded", [True, False])
def test_slices_of_two_workers_are_cut_for_others_and_joined_again_without_a_difference(padded: bool) -> None:
    whole = torch.randn(11)
    padding = torch.zeros(5)
    two = [whole[:8], torch.cat([whole[8:], padding])]
    written = two if padded else [two[0], two[1][:3]]
    for workers, size in ((1, 12), (3, 4), (4, 3), (8, 2)):
        others = [own_slice(written, 11, size=size, index=index) for index in range(workers)]
        assert [part.numel() for part in others] == [size] * workers
        torch.testing.assert_close(torch.cat(others)[:11], whole, rtol=0, atol=0)
        assert not torch.cat(others)[11:].any()
        again = [own_slice(others, 11, size=8, index=index) for index in range(2)]
        torch.testing.assert_close(torch.stack(again), torch.stack(two), rtol=0, atol=0)


def test_slices_that_hold_less_than_the_group_are_refused() -> None:
    with pytest.raises(ValueError, match="holds 6 values of a group of 7"):
        own_slice([torch.zeros(3), torch.zeros(3)], 7, size=4, index=0)


def _state(engine: Any) -> list[Tensor]:
    """This worker's slices of every group: weights in fp32, both moments, and the step."""
    optimizer = engine.optimizer
    base = optimizer.optimizer if engine.zero_optimization_stage() else optimizer
    slices = []
    for group in base.param_groups:
        for name in ("weights", "exp_avg", "exp_avg_sq", "step"):
            parts = [weight if name == "weights" else base.state[weight][name] for weight in group["params"]]
            slices.append(torch.cat([part.detach().float().flatten() for part in parts]).clone())
    return slices


def _engine(share: Share, zero_stage: int, precision: Precision, weights: int) -> Any:
    torch.manual_seed(weights)
    training = dataclasses.replace(TRAINING, precision=precision)
    return managed_engine(classifier(roberta(0.0)), training, Layout(share, zero_stage))


def _train(engine: Any, features: Path, share: Share, precision: Precision, **options: Any) -> Trained:
    table = read_features(features)
    batches = FeatureBatches(table, MicroEntailment(), PAD, BatchOrder(table.lengths, BATCH, TRAINING.seed))
    training = dataclasses.replace(TRAINING, precision=precision)
    return train(engine, batches, training, share=share, device=torch.device("cpu"), **options)


def _checkpoints(folder: Path, share: Share, zero_stage: int) -> Checkpoints:
    return Checkpoints(folder, 0.0, leads=share.rank == 0, workers=share.workers, zero_stage=zero_stage)


def _interrupted(
    rank: int, workers: int, zero_stage: int, precision: Precision, features: Path, folder: Path
) -> tuple[list[float], list[Tensor]]:
    """The losses of a whole training, and the state after `KILLED_AT` steps, of which there is a checkpoint then."""
    share = Share(rank, workers, 8)
    with _engine(share, zero_stage, precision, weights=0) as engine:
        whole = _train(engine, features, share, precision).losses

    def observe(step: int, loss: float) -> None:
        if step + 1 == KILLED_AT:
            raise Killed

    with _engine(share, zero_stage, precision, weights=0) as engine:
        with suppress(Killed):
            _train(engine, features, share, precision, observe=observe)
        state = _state(engine)
        with _checkpoints(folder, share, zero_stage) as checkpoints:
            checkpoints.save(engine, whole[:KILLED_AT], None)
            deadline = time.monotonic() + 300
            while not (folder / f"step-{KILLED_AT:08d}" / MANIFEST).exists():
                assert time.monotonic() < deadline, "the checkpoint was not stored"
                time.sleep(0.02)
    return whole, state


def _resumed(
    rank: int, workers: int, zero_stage: int, precision: Precision, features: Path, folder: Path, weights: int = 5
) -> tuple[Resumed, list[Tensor], Trained]:
    """What is found in the folder, the state that it gives an engine with these weights, and the training from there."""
    share = Share(rank, workers, 8)
    with _engine(share, zero_stage, precision, weights) as engine:
        with _checkpoints(folder, share, zero_stage) as checkpoints:
            resumed = checkpoints.restore(engine)
        state = _state(engine) if resumed.step else []
    with (
        _engine(share, zero_stage, precision, weights) as engine,
        _checkpoints(folder, share, zero_stage) as checkpoints,
    ):
        return resumed, state, _train(engine, features, share, precision, checkpoints=checkpoints)


def _assert_same_state(few: list[list[Tensor]], many: list[list[Tensor]], *, sliced: bool) -> None:
    """One worker's state, and that of all workers: slices of each group, or everything on each."""
    for number, alone in enumerate(few[0]):
        parts = [state[number] for state in many]
        is_step = number % 4 == 3
        joined = torch.cat(parts) if sliced and not is_step else parts[0]
        count = min(len(alone), len(joined))  # without the padding that one of them has more
        assert count > 0
        torch.testing.assert_close(alone[:count], joined[:count], rtol=0, atol=0)
        assert not alone[count:].any()
        assert not joined[count:].any()


@pytest.mark.slow
@pytest.mark.parametrize(("zero_stage", "precision"), CASES)
def test_one_worker_resumes_what_two_began(
    zero_stage: int, precision: Precision, features: Path, tmp_path: Path, pair: Pair
) -> None:
    before = pair.run(_interrupted, 2, zero_stage, precision, features, tmp_path)
    resumed, state, trained = _resumed(0, 1, zero_stage, precision, features, tmp_path)
    assert (resumed.step, resumed.workers, resumed.skipped) == (KILLED_AT, 2, ())
    assert trained.resumed.workers == 2
    _assert_same_state([state], [part for _, part in before], sliced=zero_stage > 0 or precision == "bf16_master")
    assert trained.losses[:KILLED_AT] == before[0][0][:KILLED_AT]
    assert trained.losses == pytest.approx(before[0][0], rel=TOLERANCE[precision])


@pytest.mark.slow
@pytest.mark.parametrize(("zero_stage", "precision"), CASES)
def test_two_workers_resume_what_one_began(
    zero_stage: int, precision: Precision, features: Path, tmp_path: Path, pair: Pair
) -> None:
    whole, state = _interrupted(0, 1, zero_stage, precision, features, tmp_path)
    after = pair.run(_resumed, 2, zero_stage, precision, features, tmp_path)
    assert [resumed.workers for resumed, _, _ in after] == [1, 1]
    _assert_same_state([state], [part for _, part, _ in after], sliced=zero_stage > 0 or precision == "bf16_master")
    losses = [trained.losses for _, _, trained in after]
    assert losses[0] == losses[1]
    assert losses[0] == pytest.approx(whole, rel=TOLERANCE[precision])


@pytest.mark.slow
def test_under_zero_3_another_number_of_workers_restarts_and_says_so(
    features: Path, tmp_path: Path, pair: Pair
) -> None:
    whole, _ = pair.run(_interrupted_under_zero_3, features, tmp_path)[0]
    resumed, _, trained = _resumed(0, 1, 3, "fp32", features, tmp_path, weights=0)
    assert (resumed.step, resumed.workers) == (0, None)
    assert resumed.skipped == (
        f"step-{KILLED_AT:08d}: written by another group (workers 2, ZeRO stage 3, trimmed False; "
        "now workers 1, ZeRO stage 3, trimmed False)",
    )
    assert trained.losses == pytest.approx(whole, rel=TOLERANCE["fp32"])


def _interrupted_under_zero_3(rank: int, features: Path, folder: Path) -> tuple[list[float], None]:
    """As `_interrupted`, without the state."""
    share = Share(rank, 2, 8)
    with _engine(share, 3, "fp32", weights=0) as engine:
        losses = _train(engine, features, share, "fp32").losses
        with _checkpoints(folder, share, 3) as checkpoints:
            checkpoints.save(engine, losses[:KILLED_AT], None)
            while not (folder / f"step-{KILLED_AT:08d}" / MANIFEST).exists():
                time.sleep(0.02)
    return losses, None
