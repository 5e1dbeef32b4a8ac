"""Console output of a running study, with the time since its start; and the seconds of each phase.

Everything goes to standard error: standard output carries the result.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import ray
import rich.console

from study.redact import redacted

SHOW_EVERY_S = 15.0


class Timeline:
    """Seconds by phase, and since the start."""

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


class Console:
    """Prints timed lines, and from time to time the progress of the workers."""

    def __init__(self, timeline: Timeline) -> None:
        self._timeline = timeline
        self._console = rich.console.Console(file=sys.stderr, highlight=False, soft_wrap=True)
        self._stop = threading.Event()

    def say(self, line: str) -> None:
        minutes, seconds = divmod(int(self._timeline.wall_s), 60)
        self._console.print(f"[{minutes:02d}:{seconds:02d}] {redacted(line)}", markup=False)

    def show(self, item: object) -> None:
        """Print a rich table or text."""
        self._console.print(item)

    @contextlib.contextmanager
    def watch(self, progress_actor: Any) -> Iterator[None]:
        """Print the progress of running stages every SHOW_EVERY_S seconds while the block runs."""
        self._stop.clear()
        thread = threading.Thread(target=self._report, args=(progress_actor,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join()

    def _report(self, progress_actor: Any) -> None:
        while not self._stop.wait(SHOW_EVERY_S):
            try:
                latest = ray.get(progress_actor.read.remote(), timeout=5)
            except ray.exceptions.GetTimeoutError:
                continue  # the head is busy
            except ray.exceptions.RayError as error:
                self.say(
                    f"workers' progress is no longer shown: the progress actor is unavailable ({type(error).__name__})"
                )
                return
            for stage, (done, total, value) in latest.items():
                self.say(f"  {stage}: {done}/{total}, loss {value:.3f}")
