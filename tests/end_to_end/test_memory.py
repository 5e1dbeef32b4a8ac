"""A trial or a pre-training that Ray's memory monitor kills starts again with half its micro-batch, and the study goes on."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from ray import tune

from study.cluster.connection import connected
from study.cluster.progress_actor import ProgressActor
from study.console import Console, Timeline
from study.run.pretraining import prepare_encoders
from study.search.callback import TrialLog
from study.search.journal import open_journal
from study.search.slots import Slots
from study.search.sweep import Sweep
from study.search.trial import job_name
from study.spec import Size, Study
from study.spec.space import Space
from study.tracking.tracker import Tracker, default_uri
from tests.support import recipes
from trainables.launch.inline import run_inline
from trainables.launch.job import Job, no_progress
from trainables.stages.base import Stage, Workplace
from trainables.store.stage_store import StageStore
from trainables.training.attempts import FOLDER, Attempt, recorded_attempt
from trainables.training.micro_batches import known_limits

pytestmark = [pytest.mark.slow, pytest.mark.ray]

ROOM_BYTES = (
    3.5e9  # that may still be taken before the monitor kills: more than Ray's own processes and other programs take
)
MOST_BYTES, STEP_BYTES = 8e9, 100e6
STUDY = dataclasses.replace(recipes.inline(), trials=1, space=Space((), (1e-3,), (1e-3,)))
SIZE = STUDY.sizes[0]


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """A Ray whose memory monitor kills when little more is in use than now."""
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    memory = psutil.virtual_memory()
    if memory.available < 2 * ROOM_BYTES:
        pytest.skip(
            f"{memory.available / 1e9:.1f} GB of memory available; the test takes {ROOM_BYTES / 1e9:.1f} for a moment"
        )
    with pytest.MonkeyPatch.context() as patch:
        most = memory.total - memory.available + ROOM_BYTES
        patch.setenv("RAY_memory_usage_threshold", f"{most / memory.total:.4f}")
        patch.setenv("RAY_memory_monitor_refresh_ms", "100")
        with connected(None, cpus=1):
            yield


@dataclass(frozen=True)
class Hungry(Stage):
    """Takes memory until it is killed, unless its micro-batch is small."""

    name: str

    @property
    def label(self) -> str:
        return self.name

    @property
    def parents(self) -> tuple[Stage, ...]:
        return ()

    def produce(self, work: Workplace, folder: Path) -> Mapping[str, Any]:
        with recorded_attempt(work.store.root, work.job, Attempt(self.memory_key, work.share.micro_batch, 1)):
            if work.share.micro_batch > 32:
                taken: list[bytes] = []
                while len(taken) * STEP_BYTES < MOST_BYTES:
                    taken.append(b"x" * int(STEP_BYTES))
                    time.sleep(0.05)
                time.sleep(20)
                raise AssertionError("the monitor killed nothing")
        return {}


def _rows(stage: Stage, output: Path) -> int:
    finished = StageStore(output).find(stage)
    assert finished is not None
    return int(finished.manifest["context"]["micro_batch"])


def _trial(config: dict[str, Any], *, study: Study, size: Size, output: str, progress: Any) -> None:
    """As a trial does it: a stage, then reports."""
    job = Job(output, size.resources, (Hungry("tune"),), size=size.name, name=job_name(size, config["trial"]))
    run_inline(job, report=lambda metrics: None, progress=no_progress)
    for finished in range(1, len(study.targets) + 1):
        tune.report({"dev_score": 50.0, "test_score": 40.0, "targets_finished": finished})


def test_a_trial_killed_for_memory_starts_again_with_half_its_micro_batch(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Tracker(default_uri(tmp_path), STUDY.name, output=tmp_path, offline=True) as tracker:
        log = TrialLog(STUDY, SIZE, tracker, Console(Timeline()))
        sweep = Sweep(STUDY, SIZE, tmp_path, Slots({"CPU": 1}), no_progress, callbacks=[log], trial=_trial)
        (trial,) = sweep.search(open_journal(tmp_path)).trials
        note = tracker.tag(f"trial:{SIZE.name}:{trial.trial_id}", "killed_for_memory")
    assert trial.outcome == "complete"
    assert _rows(Hungry("tune"), tmp_path) == 32
    assert known_limits(tmp_path, SIZE.resources) == {"tune": 32}
    assert note == "yes; tune with micro-batches of 32 rows instead of 64"
    (line,) = (line for line in capsys.readouterr().err.splitlines() if "starts again" in line)
    assert "the machine ran out of memory" in line
    assert line.endswith("tune with micro-batches of 32 rows instead of 64")
    assert list((tmp_path / FOLDER).iterdir()) == []


@dataclass(frozen=True)
class HungryStudy(Study):
    def encoder_stage(self, size: Size, *, trained: bool = True) -> Any:
        return Hungry("pretrain")


def test_a_pretraining_killed_for_memory_starts_again_with_half_its_micro_batch(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = HungryStudy(**{field.name: getattr(STUDY, field.name) for field in dataclasses.fields(STUDY)})
    actor = ProgressActor.remote()  # type: ignore[attr-defined]
    assert prepare_encoders(study, tmp_path, progress_actor=actor, console=Console(Timeline())) == {}
    assert _rows(Hungry("pretrain"), tmp_path) == 32
    said = capsys.readouterr().err
    assert "was killed for memory and starts again: pretrain with micro-batches of 32 rows instead of 64" in said
