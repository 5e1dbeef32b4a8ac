"""Which stages the progress actor shows: every running one, and no other."""

from __future__ import annotations

from types import SimpleNamespace

from study.cluster.progress_actor import SILENT_S, LatestProgress, ProgressReporter


class Clock:
    """A clock that the test sets, in seconds."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def _reporter(latest: LatestProgress, clock: Clock) -> ProgressReporter:
    """A worker's reporter to an actor in this process."""
    return ProgressReporter(SimpleNamespace(post=SimpleNamespace(remote=latest.post)), every_s=2.0, clock=clock)


def test_finished_and_abandoned_stages_are_not_shown() -> None:
    clock = Clock()
    latest = LatestProgress(clock)
    first, second = _reporter(latest, clock), _reporter(latest, clock)
    first("target-a", 1, 10, 0.5)
    second("target-b", 1, 10, 0.6)
    assert latest.read() == {"target-a": (1, 10, 0.5), "target-b": (1, 10, 0.6)}
    clock.now = 2.0
    first("target-c", 1, 10, 0.7)  # the trial of target-a was stopped halfway
    second("target-b", 10, 10, 0.1)
    assert latest.read() == {"target-c": (1, 10, 0.7)}


def test_a_silent_stage_is_dropped() -> None:
    clock = Clock()
    latest = LatestProgress(clock)
    latest.post("killed", 1, 10, 0.5)
    clock.now = 1.0
    latest.post("alive", 1, 10, 0.5)
    clock.now = SILENT_S + 0.5
    assert set(latest.read()) == {"alive"}
