"""Early stopping keeps the weights of the best dev score: over an interruption, in a stage, and on two workers."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from tests.support.killed import Killed
from tests.support.pair import Pair
from tests.trainables.training.resuming.helpers import PRETRAINED, STEPS, TARGET, TRAINING, train_network, tuning
from trainables.hyperparameters import EarlyStopping
from trainables.models.encoder import Shape
from trainables.resources import Resources
from trainables.stages.base import Workplace, ensure
from trainables.stages.evaluate import Evaluate
from trainables.stages.finetune import FineTune
from trainables.store.stage_store import StageStore
from trainables.training.batching import Share
from trainables.training.early_stopping import EarlyStopper

# With several threads sums have another order, and these tests compare bits.
pytestmark = pytest.mark.usefixtures("one_thread")


def _stopper(scores: list[float], patience: int) -> EarlyStopper:
    left = iter(scores)
    return EarlyStopper(EarlyStopping(every=2, patience=patience), lambda engine: next(left), STEPS, leads=True)


@pytest.mark.slow
@pytest.mark.parametrize("max_file_bytes", [4 * 10**9, 100_000])
def test_early_stopping_keeps_the_best_weights_also_over_an_interruption(
    features: Path, tmp_path: Path, max_file_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainables.training.resuming.checkpoints.MAX_FILE_BYTES", max_file_bytes)
    best = train_network(features, tmp_path / "best", until=STEPS).losses
    stopper = _stopper([50.0, 70.0, 70.0, 60.0, 90.0], patience=2)
    # Evaluations after 2, 4, 6 and 8 steps; the last two did not raise the score.
    assert train_network(features, None, stopper=stopper).losses == best[:8]
    assert stopper.best_step == 4
    with pytest.raises(Killed):
        train_network(features, tmp_path / "stopped", until=7, stopper=_stopper([50.0, 70.0, 70.0], patience=2))
    files = [path.name for path in (tmp_path / "stopped" / "step-00000006").glob("best*")]
    assert (files == ["best.safetensors"]) == (max_file_bytes > 100_000), files
    resumed = _stopper([60.0], patience=2)
    assert train_network(features, tmp_path / "stopped", weights=5, stopper=resumed).losses == best[:8]
    assert resumed.scores == [(2, 50.0), (4, 70.0), (6, 70.0), (8, 60.0)]
    assert resumed.best.keys() == stopper.best.keys()
    for name, value in stopper.best.items():
        torch.testing.assert_close(resumed.best[name], value, rtol=0, atol=0)
    # The same training, stopped at the same step: its last weights are not its best.
    last = train_network(features, None, stopper=_stopper([1.0, 2.0, 0.0, 0.0], patience=2)).state
    assert any(not torch.equal(last[name], value) for name, value in stopper.best.items())


def test_early_stopping_in_a_stage_leaves_the_model_with_the_best_dev_score(base: Path) -> None:
    stopping = EarlyStopping(every=2, patience=1)
    training = dataclasses.replace(TRAINING, seed=4, learning_rate=3e-2, early_stopping=stopping)
    stage = FineTune(PRETRAINED, TARGET.for_training(), training, development=TARGET)
    work = Workplace(StageStore(base))
    metrics = ensure(stage, work).metrics
    scores = dict(metrics["dev_scores"])
    assert metrics["steps_done"] == max(scores)
    assert scores[metrics["best_step"]] == max(scores.values())
    scored = ensure(Evaluate(stage, TARGET), work).metrics["dev"]
    assert scored == pytest.approx(max(scores.values()))


WIDE = FineTune(  # enough for ZeRO 3 to partition its matrices, from 100,000 elements on
    dataclasses.replace(PRETRAINED, shape=Shape(1, 192), trained=False),  # type: ignore[call-arg]
    TARGET.for_training(),
    dataclasses.replace(TRAINING, early_stopping=EarlyStopping(every=4, patience=3)),
    development=TARGET,
)


def _stopping(rank: int, folder: Path) -> list[tuple[int, float]]:
    """The dev scores on one of two workers, by steps done."""
    work = Workplace(StageStore(folder), Share(rank, 2, 8), Resources(zero_stage=3))
    scores: list[tuple[int, float]] = ensure(WIDE, work).metrics["dev_scores"]
    return scores


def test_early_stopping_under_zero3_scores_what_one_worker_scores(tmp_path: Path, pair: Pair) -> None:
    first, second = pair.run(_stopping, tmp_path / "group")
    assert first == second
    alone = ensure(WIDE, Workplace(StageStore(tmp_path / "alone"))).metrics["dev_scores"]
    assert [done for done, _ in first] == [4, 8, 12]
    assert [score for _, score in first] == pytest.approx([score for _, score in alone], abs=3.0)


def test_early_stopping_needs_a_dev_set() -> None:
    with pytest.raises(ValueError, match="go together"):
        tuning(early_stopping=EarlyStopping(every=2, patience=1))
