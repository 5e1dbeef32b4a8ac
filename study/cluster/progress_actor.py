"""Where workers post what they are at, on the head. It imports nothing but Ray: its process is small and starts at once."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import ray

# The head is the node that is not taken back: what only waits and keeps count runs there. Every head has one of this resource.
ON_HEAD = {"node:__internal_head__": 0.001}

SILENT_S = 120.0  # a stage of which nothing was heard for so long was stopped, or its worker is lost


class Latest:
    """The latest progress of every stage that is under way."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._posted: dict[str, tuple[float, tuple[int, int, float]]] = {}

    def post(self, stage: str, done: int, total: int, value: float, before: str | None = None) -> None:
        """Note a stage's progress; `before` is what the same worker was at before."""
        if before != stage:
            self._posted.pop(before or "", None)
        self._posted[stage] = (self._clock(), (done, total, value))
        if done == total:
            del self._posted[stage]

    def read(self) -> dict[str, tuple[int, int, float]]:
        oldest = self._clock() - SILENT_S
        self._posted = {stage: held for stage, held in self._posted.items() if held[0] >= oldest}
        return {stage: progress for stage, (_, progress) in self._posted.items()}


@ray.remote(num_cpus=0, resources=ON_HEAD)
class Board(Latest):
    """Where workers post their latest progress; the driver reads it."""


class Poster:
    """The `progress` a worker calls at every step; posts at most once in `every_s` seconds and at the last step."""

    def __init__(self, board: Any, every_s: float = 2.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._board, self._every_s, self._clock, self._last = board, every_s, clock, -every_s
        self._stage: str | None = None

    def __call__(self, stage: str, done: int, total: int, value: float) -> None:
        now = self._clock()
        if done == total or now - self._last >= self._every_s:
            self._last = now
            self._board.post.remote(stage, done, total, value, self._stage)
            self._stage = stage
