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

from study.redact import redacted

SHOW_EVERY_S = 15.0


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
