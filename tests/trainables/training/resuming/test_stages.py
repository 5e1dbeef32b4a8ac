"""A stage that was interrupted resumes from its checkpoint; one that diverged is not tried again."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.trainables.training.resuming.helpers import KILLED_AT, interrupt_stage, tuning
from trainables.hyperparameters import Diverged
from trainables.resources import Resources
from trainables.stages.base import Workplace, ensure
from trainables.store.manifests import MANIFEST, read_manifest, write_manifest
from trainables.store.stage_store import StageStore

# With several threads sums have another order, and these tests compare bits.
pytestmark = pytest.mark.usefixtures("one_thread")

EVERY_STEP = Resources(checkpoint_every_s=0.0)


def test_a_stage_resumes_from_its_checkpoint_and_removes_it(base: Path) -> None:
    stage = tuning(seed=3)
    store = StageStore(base)
    work = Workplace(store, resources=EVERY_STEP)
    interrupt_stage(stage, work)
    assert store.find(stage) is None
    assert store.checkpoints(stage).is_dir()
    finished = ensure(stage, work)
    assert finished.metrics["resumed_at"] == KILLED_AT - 1
    assert "workers_before" not in finished.metrics
    assert not store.checkpoints(stage).exists()


def test_a_stage_says_that_other_workers_began_it(base: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Without ZeRO, a checkpoint's files are those of any number of workers."""
    stage = tuning(seed=8)
    store = StageStore(base)
    work = Workplace(store, resources=EVERY_STEP)
    interrupt_stage(stage, work)
    for path in store.checkpoints(stage).glob(f"*/{MANIFEST}"):
        content = read_manifest(path.parent)
        assert content is not None
        content["group"]["workers"] = 4
        write_manifest(path.parent, content, files=content["files"])
    finished = ensure(stage, work)
    assert finished.metrics["resumed_at"] == KILLED_AT - 1
    assert finished.metrics["workers_before"] == 4
    assert f"resumes at step {KILLED_AT - 1} on 1 workers, trained by 4 until there" in caplog.text


def test_a_diverged_stage_is_not_tried_again(base: Path) -> None:
    wild = tuning(learning_rate=1e30, warmup=0.0)
    steps: list[int] = []
    work = Workplace(StageStore(base), progress=lambda name, done, total, loss: steps.append(done))
    ensure(wild.features, work)
    with pytest.raises(Diverged) as first:
        ensure(wild, work)
    assert steps
    steps.clear()
    with pytest.raises(Diverged) as second:
        ensure(wild, work)
    assert not steps
    assert second.value.step == first.value.step
