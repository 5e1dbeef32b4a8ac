"""What a running study shows: phases, stages as they advance, a line a trial with an ETA; and where the time went.

Progress goes to standard error; standard output is left to the result.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import ray
from rich.console import Console

from study.cluster import ON_HEAD
from study.redact import redacted

SHOW_EVERY_S = 15.0
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


class Timeline:
    """Seconds by phase."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock, self._start = clock, clock()
        self.seconds: dict[str, float] = {}

    @property
    def wall_s(self) -> float:
        return self._clock() - self._start

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        started = self._clock()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + self._clock() - started


class Screen:
    """Prints lines with the time since the start, and now and then what the workers are at."""

    def __init__(self, timeline: Timeline) -> None:
        self._timeline = timeline
        self._console = Console(file=sys.stderr, highlight=False, soft_wrap=True)
        self._stop = threading.Event()

    def say(self, line: str) -> None:
        minutes, seconds = divmod(int(self._timeline.wall_s), 60)
        self._console.print(f"[{minutes:02d}:{seconds:02d}] {redacted(line)}", markup=False)

    def show(self, item: object) -> None:
        """A rich table or text."""
        self._console.print(item)

    @contextlib.contextmanager
    def watch(self, board: Any) -> Iterator[None]:
        """Report the workers' stages every few seconds while the block runs."""
        self._stop.clear()
        thread = threading.Thread(target=self._report, args=(board,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join()

    def _report(self, board: Any) -> None:
        while not self._stop.wait(SHOW_EVERY_S):
            try:
                latest = ray.get(board.read.remote(), timeout=5)
            except ray.exceptions.GetTimeoutError:
                continue  # the head is busy
            except ray.exceptions.RayError as error:
                self.say(f"progress of the workers is not to be had: {type(error).__name__}")
                return
            for stage, (done, total, value) in latest.items():
                self.say(f"  {stage}: {done}/{total}, loss {value:.3f}")
