"""Ray Train groups: resources of stopped trials, a lost worker, and a micro-batch that does not fit."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
import torch
from ray.tune.schedulers import TrialScheduler

from study.cluster.connection import WORKER_ENVIRONMENT, connected
from study.search.journal import open_journal
from study.search.records import SearchResult
from study.search.scheduler import RunDefaultsToTheEnd
from study.search.slots import Slots
from study.search.sweep import Sweep
from study.spec import Study
from study.spec.space import Space
from tests.support import recipes
from tests.support.ray_cores import free_cores
from trainables.hyperparameters import OutOfMemory
from trainables.launch.group import run_group
from trainables.launch.job import Job
from trainables.launch.process import NO_GPU
from trainables.resources import Resources
from trainables.stages.base import Stage, Workplace
from trainables.store.stage_store import StageStore
from trainables.training.micro_batches import known_limits

pytestmark = [pytest.mark.slow, pytest.mark.ray]

CPUS = 2


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """Our own Ray, on a machine where an earlier cluster left its address behind."""
    with (
        pytest.MonkeyPatch.context() as patch,
        tempfile.TemporaryDirectory(prefix="ray", dir="/tmp", ignore_cleanup_errors=True) as folder,
    ):
        patch.setenv("RAY_TMPDIR", folder)  # under /tmp: paths of sockets must be short
        (Path(folder) / "ray").mkdir()
        (Path(folder) / "ray" / "ray_current_cluster").write_text("127.0.0.1:1")
        with connected(None, cpus=CPUS):
            yield


def _search(study: Study, output: Path) -> SearchResult:
    def progress(stage: str, done: int, total: int, value: float | None) -> None:
        pass

    size = study.size("1x64")
    assert size.resources.workers * size.resources.cpus == CPUS
    return Sweep(study, size, output, Slots({"CPU": CPUS}), progress).search(open_journal(output))


def test_stopped_group_trials_give_their_cores_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each trial needs both cores, so the second runs only if the first gave them back."""

    def stop(self: Any, controller: Any, trial: Any, result: dict[str, Any]) -> str:
        return TrialScheduler.STOP

    monkeypatch.setattr(RunDefaultsToTheEnd, "on_trial_result", stop)
    result = _search(dataclasses.replace(recipes.tiny(), trials=2), tmp_path)
    assert [trial.outcome for trial in result.trials] == ["stopped_early"] * 2
    assert {trial.metrics["targets_finished"] for trial in result.trials} == {1}
    assert free_cores(30.0) == ray.cluster_resources()["CPU"]


def test_a_trial_that_loses_a_worker_restarts_and_completes(tmp_path: Path) -> None:
    """A worker of the group is killed once the first target is scored; finished stages are reused."""
    study = dataclasses.replace(recipes.tiny(), trials=1, space=Space((), (1e-3,), (1e-3,)))
    killed: list[int] = []

    def kill_a_worker() -> None:
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline and not list(tmp_path.glob("stages/evaluate-*/manifest.json")):
            time.sleep(0.02)
        workers = [
            process
            for process in psutil.Process().children(recursive=True)
            if any("RayTrainWorker" in part for part in process.cmdline())
        ]
        os.kill(workers[-1].pid, signal.SIGKILL)
        killed.append(workers[-1].pid)

    thread = threading.Thread(target=kill_a_worker)
    thread.start()
    result = _search(study, tmp_path)
    thread.join()
    assert killed
    (trial,) = result.trials
    assert (trial.outcome, trial.reason) == ("complete", None)
    store = StageStore(tmp_path)
    assert all(store.verify(stage) == [] for stage in study.chain(study.size("1x64"), trial.choice))
    assert free_cores(30.0) == CPUS


@dataclass(frozen=True)
class Narrow(Stage):
    """Behaves like a device that holds two entries of a batch, on the second worker only."""

    @property
    def label(self) -> str:
        return "narrow"

    @property
    def parents(self) -> tuple[Stage, ...]:
        return ()

    def produce(self, work: Workplace, folder: Path) -> Mapping[str, Any]:
        if work.share.rank == 1 and work.share.micro_batch > 2:
            raise OutOfMemory(3, work.share.micro_batch, "the device is full")
        work.from_leader(lambda: None)  # the first worker waits for the second, as in a step
        return {}


def test_a_group_that_runs_out_of_memory_halves_its_micro_batch(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A worker's error comes back through Ray Train, the group restarts, and the size that fits is recorded."""
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    job = Job(str(tmp_path), Resources(workers=2, micro_batch=4), stages=(Narrow(),), size="small")
    run_group(job, name="narrow", progress=_silent)
    assert "out of memory at step 3 with a micro-batch of 4: the device is full; continuing with 2" in caplog.text
    finished = StageStore(tmp_path).find(Narrow())
    assert finished is not None
    assert finished.manifest["context"]["micro_batch"] == 2
    assert known_limits(tmp_path, job.resources) == {"narrow": 2}


@dataclass(frozen=True)
class Environment(Stage):
    """Every worker writes the part of its environment that launchers set."""

    @property
    def label(self) -> str:
        return "environment"

    @property
    def parents(self) -> tuple[Stage, ...]:
        return ()

    def produce(self, work: Workplace, folder: Path) -> Mapping[str, Any]:
        environment = {name: os.environ.get(name) for name in {**NO_GPU, **WORKER_ENVIRONMENT}}
        (folder / f"{work.share.rank}.json").write_text(json.dumps(environment))
        torch.distributed.barrier()
        return {}


@ray.remote  # type: ignore[untyped-decorator,unused-ignore]
def _visible_devices() -> str | None:
    return os.environ.get("CUDA_VISIBLE_DEVICES")


def test_workers_that_request_no_gpu_see_none(tmp_path: Path) -> None:
    """Ray hides GPUs before anything is imported; a group's runtime environment does so too."""
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    assert ray.get(_visible_devices.remote()) == ""
    job = Job(str(tmp_path), Resources(workers=2), stages=(Environment(),), size="small")
    run_group(job, name="environment", progress=_silent)
    folder = StageStore(tmp_path).folder(Environment())
    assert [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)] == [
        {**WORKER_ENVIRONMENT, **NO_GPU}
    ] * 2


def _silent(stage: str, done: int, total: int, loss: float | None) -> None:
    """Progress that nobody reads."""
