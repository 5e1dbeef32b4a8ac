"""What the console shows of a running study: stages, trials, the time left, and what the workers are doing."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ray

from study.cluster.connection import cluster_address
from study.cluster.progress_actor import Progress
from study.console import Status
from study.planning.estimate.stage_times import fast, slow
from study.planning.estimate.study_estimate import NOMINAL_GFLOPS, Snapshot, StudyEstimate
from study.planning.estimate.time_left import about
from study.spec import Study
from study.spec.precision import training_gflops

_DOING = {
    "evaluate": "scoring",
    "tokenise": "tokenising",
    "pretrain": "pre-training",
    "merge": "merging",
    "vectors": "encoding",
}
_UNITS = {"evaluate": "examples", "tokenise": "sets", "merge": "tensors", "vectors": "examples"}


def estimate_of(study: Study, output: Path, *, address: str | None) -> StudyEstimate:
    """The estimate of a study, with a measured rate where it runs on the CPUs of this machine."""
    here = cluster_address(address) is None and not any(size.resources.gpus for size in study.sizes)
    return StudyEstimate(
        study,
        output,
        capacity={"CPU": float(len(os.sched_getaffinity(0)))},
        gflops=training_gflops(study.tuning.precision) if here else None,
    )


def duration_line(estimate: StudyEstimate) -> str:
    """How long the study is likely to take, for the start of a run."""
    gflops = estimate.gflops or NOMINAL_GFLOPS
    likely = estimate.range_s(fast(gflops), slow(gflops))
    if likely is None:
        return "how long the study takes here is known after its first trials"
    what = "the rest of the study" if estimate.snapshot().stages_done else "the whole study"
    return f"{what} takes {about(*likely)} here"


class StudyStatus:
    """Reads the workers' progress and the estimate."""

    def __init__(self, estimate: StudyEstimate, progress_actor: Any, say: Callable[[str], object]) -> None:
        self._estimate, self._actor, self._say = estimate, progress_actor, say

    def read(self) -> Status:
        running = self._running()
        done = {label: done / total for label, (done, total, _) in running.items() if total}
        return status_of(self._estimate.snapshot(done), running)

    def _running(self) -> Mapping[str, Progress]:
        if self._actor is None:
            return {}
        try:
            latest: Mapping[str, Progress] = ray.get(self._actor.read.remote(), timeout=5)
        except ray.exceptions.GetTimeoutError:
            return {}  # the head is busy
        except ray.exceptions.RayError as error:
            self._actor = None
            self._say(
                f"workers' progress is no longer shown: the progress actor is unavailable ({type(error).__name__})"
            )
            return {}
        return latest


def status_of(snapshot: Snapshot, running: Mapping[str, Progress]) -> Status:
    """The status in words."""
    ended = sum(done for done, _ in snapshot.trials.values())
    trials = sum(total for _, total in snapshot.trials.values())
    left = "" if snapshot.seconds_left is None else f"; {about(snapshot.seconds_left)} left"
    return Status(
        f"{snapshot.stages_done}/{snapshot.stages} stages, {ended}/{trials} trials{left}",
        tuple(f"{size}: {done}/{total} trials" for size, (done, total) in snapshot.trials.items()),
        tuple(stage_line(label, *progress) for label, progress in running.items()),
    )


def stage_line(label: str, done: int, total: int, loss: float | None) -> str:
    """The progress of a stage: what is done with what, how much of it, and the loss where something is trained."""
    kind, _, rest = label.partition("-")
    names = rest.split("-", 1)  # a task and an encoder, or a task and what is tokenised
    own = {"pretrain": rest, "tokenise": names[0], "merge": f"{names[0]} encoders of {names[-1]}"}
    what = own.get(kind, " ".join(names))
    trained = "" if loss is None else f", loss {loss:.3f}"
    return f"{_DOING.get(kind, 'training')} {what}: {done}/{total} {_UNITS.get(kind, 'steps')}{trained}"
