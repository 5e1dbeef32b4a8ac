"""Console output of a running study, with the time since its start; and the seconds of each phase.

Everything goes to standard error: standard output carries the result.
"""

from __future__ import annotations

import contextlib
import itertools
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import rich.console
from rich.live import Live
from rich.text import Text

from study.redact import redacted

SHOW_EVERY_S = 15.0  # a line of progress, where standard error is no terminal
REFRESH_S = 1.0  # of the live display on a terminal
WIDTH = 70  # of a line of progress after the time


class Timeline:
    """Seconds by phase, and since the start."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock, self._start = clock, clock()
        self.seconds: dict[str, float] = {}
        self.current = ""  # the phase that runs

    @property
    def wall_s(self) -> float:
        return self._clock() - self._start

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        started, self.current = self._clock(), name
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + self._clock() - started


@dataclass(frozen=True)
class Status:
    """Where a study is: a line on all of it, a line for each size, and one for each running stage."""

    study: str
    sizes: tuple[str, ...] = ()
    stages: tuple[str, ...] = ()

    def line(self, number: int) -> str:
        """The line of progress with this number: the study and the running stages take turns."""
        if number % 2 == 0 or not self.stages:
            return self.study
        shown = self.stages[0]
        for count, stage in enumerate(self.stages[1:], 1):
            if len(shown) + len(stage) + 2 > WIDTH:
                return f"{shown}; {len(self.stages) - count} more"
            shown += f"; {stage}"
        return shown


class Console:
    """Prints timed lines, and the progress of the study: a live display on a terminal, a line from time to time elsewhere."""

    def __init__(self, timeline: Timeline) -> None:
        self._timeline = timeline
        self._console = rich.console.Console(file=sys.stderr, highlight=False, soft_wrap=True)
        self._stop = threading.Event()

    def say(self, line: str) -> None:
        self._console.print(f"{self._time()} {redacted(line)}", markup=False)

    def show(self, item: object) -> None:
        """Print a rich table or text."""
        self._console.print(item)

    @contextlib.contextmanager
    def watch(self, read: Callable[[], Status]) -> Iterator[None]:
        """Show the status while the block runs; other lines appear above a live display. `read` is called in a thread."""
        self._stop.clear()
        with contextlib.ExitStack() as stack:
            live = None
            if self._console.is_terminal and not self._console.is_dumb_terminal:
                live = Live(console=self._console, transient=True, redirect_stdout=False, auto_refresh=False)
                stack.enter_context(live)
            thread = threading.Thread(target=self._report, args=(read, live), daemon=True)
            thread.start()
            try:
                yield
            finally:
                self._stop.set()
                thread.join()

    def _report(self, read: Callable[[], Status], live: Live | None) -> None:
        for number in itertools.count():
            if self._stop.wait(SHOW_EVERY_S if live is None else REFRESH_S):
                return
            status = read()
            if live is None:
                self.say(f"  {status.line(number)}")
            else:
                live.update(self._rendered(status), refresh=True)

    def _rendered(self, status: Status) -> Text:
        """At most as many lines as the terminal has, each cut to its width."""
        lines = [f"{self._time()} {self._timeline.current}: {status.study}"]
        lines += [f"  {line}" for line in (*status.sizes, *status.stages)]
        return Text(redacted("\n".join(lines[: max(1, self._console.height - 1)])), no_wrap=True, overflow="ellipsis")

    def _time(self) -> str:
        minutes, seconds = divmod(int(self._timeline.wall_s), 60)
        return f"[{minutes:02d}:{seconds:02d}]"
