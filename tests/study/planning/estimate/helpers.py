"""A running study without running it: stages that are stored as if they had taken so long, and a clock that a test sets."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from study.planning.estimate.study_estimate import StudyEstimate
from study.spec import Choice, Size, Study
from trainables.stages.base import Stage
from trainables.store.stage_store import StageStore


class Clock:
    """A clock that the test sets, in seconds."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def estimate_of(
    study: Study, output: Path, *, gflops: float | None = 100.0, cores: float = 1.0, clock: Clock | None = None
) -> StudyEstimate:
    return StudyEstimate(study, output, capacity={"CPU": cores}, gflops=gflops, clock=clock or Clock())


def seconds_left(estimate: StudyEstimate, running: Mapping[str, float] | None = None) -> float:
    """To the end of the study, which must be known; `running` has the share done of each running stage, by label."""
    seconds = estimate.snapshot(running or {}).seconds_left
    assert seconds is not None
    return seconds


def to_end(estimate: StudyEstimate, size: Size, choice: Choice, per_hour: Mapping[str, float] | None = None) -> float:
    """The time or money to the end with one more trial, which must be known."""
    needed = estimate.to_end(size.name, choice, per_hour=per_hour)
    assert needed is not None
    return needed


def store_stage(output: Path, stage: Stage, seconds: float) -> None:
    """As if the stage had taken so many seconds."""
    store = StageStore(output)
    store.commit(stage, store.workspace(stage), {}, {"seconds": seconds})


def store_trial(study: Study, size: Size, choice: Choice, output: Path, seconds: float) -> None:
    """The stages of a trial, and the encoder."""
    for evaluate in study.chain(size, choice):
        for stage in (*evaluate.parents, evaluate):
            if StageStore(output).find(stage) is None:
                store_stage(output, stage, seconds)
    store_stage(output, study.base(size, choice), seconds)
    for parent in study.encoder_stage(size).parents:
        store_stage(output, parent, seconds)
