"""The actor to which workers report their progress. It imports only Ray, so its process is small and starts fast."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import ray

# The head is the node that outlives the others: actors and drivers that only wait or count run there. Ray gives every head one
# unit of this resource.
ON_HEAD = {"node:__internal_head__": 0.001}

# Steps, sets or examples done and in all, and the last loss of a training.
Progress = tuple[int, int, float | None]
SILENT_S = 120.0  # after so long without a report, a stage was stopped or its worker is lost


class LatestProgress:
    """The latest progress of every running stage."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._posted: dict[str, tuple[float, Progress]] = {}

    def post(self, stage: str, done: int, total: int, loss: float | None, before: str | None = None) -> None:
        """Store a stage's progress; `before` is the stage that the same worker reported last."""
        if before != stage:
            self._posted.pop(before or "", None)
        self._posted[stage] = (self._clock(), (done, total, loss))
        if done == total:
            del self._posted[stage]

    def read(self) -> dict[str, Progress]:
        """The progress of each running stage, by label."""
        oldest = self._clock() - SILENT_S
        self._posted = {stage: entry for stage, entry in self._posted.items() if entry[0] >= oldest}
        return {stage: progress for stage, (_, progress) in self._posted.items()}


@ray.remote(num_cpus=0, resources=ON_HEAD)
class ProgressActor(LatestProgress):
    """Workers post their latest progress here; the driver reads it."""


class ProgressReporter:
    """The `progress` callback of a worker: posts at most once in `every_s` seconds, and always at the last step."""

    def __init__(
        self, progress_actor: Any, *, every_s: float = 2.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._actor, self._every_s, self._clock, self._last = progress_actor, every_s, clock, -every_s
        self._stage: str | None = None

    def __call__(self, stage: str, done: int, total: int, loss: float | None) -> None:
        now = self._clock()
        if done == total or now - self._last >= self._every_s:
            self._last = now
            self._actor.post.remote(stage, done, total, loss, self._stage)
            self._stage = stage
