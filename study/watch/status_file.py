"""`status.json` in an output folder: what the console shows of a run, for readers in other processes and on other machines."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from study.console import Status, Timeline
from study.redact import redacted
from trainables.store.atomic import write_text
from trainables.store.kept import KeptFileUnusable, read_object

STATUS_FILE = "status.json"
EVERY_S = 5.0  # between two signs of life
BENCHMARK, TIMING = "benchmark", "timing encoders"
MEASURING = frozenset({BENCHMARK, TIMING})  # the phases in which a run measures serving speed


class RunState(StrEnum):
    """What a run last said of itself. One that was killed says RUNNING for ever; its signs of life stop."""

    RUNNING = "running"
    ENDED = "ended"
    INTERRUPTED = "interrupted"
    FAILED = "failed"


@dataclass(frozen=True)
class RunStatus:
    """The content of the file. Times are seconds since the epoch, by the clock of `host`.

    `study`, `sizes` and `stages` are the lines of `Status`; empty where the run has not told them yet.
    """

    state: RunState
    phase: str
    study: str
    sizes: tuple[str, ...]
    stages: tuple[str, ...]
    reason: str
    host: str
    started_s: float
    written_s: float


class StatusFile:
    """Writes the file of one run, from a thread of its own. No failure to write it ends the run."""

    def __init__(
        self, output: Path, timeline: Timeline, *, every_s: float = EVERY_S, clock: Callable[[], float] = time.time
    ) -> None:
        self._path, self._timeline, self._every_s, self._clock = output / STATUS_FILE, timeline, every_s, clock
        self._started_s = clock()
        self._latest = Status("")
        self._stop = threading.Event()

    def seen(self, read: Callable[[], Status]) -> Callable[[], Status]:
        """`read`, whose results the file shows as well: reading it twice would cost a busy driver twice."""

        def reading() -> Status:
            self._latest = read()
            return self._latest

        return reading

    @contextmanager
    def running(self) -> Iterator[None]:
        """Write signs of life while the block runs, and then how it ended."""
        thread = threading.Thread(target=self._keep_writing, daemon=True)
        thread.start()
        state, reason = RunState.ENDED, ""
        try:
            yield
        except (KeyboardInterrupt, SystemExit):
            state = RunState.INTERRUPTED
            raise
        except BaseException as error:
            state, reason = RunState.FAILED, f"{type(error).__name__}: {error}".splitlines()[0]
            raise
        finally:
            self._stop.set()
            thread.join()
            self._write(state, reason)

    def _keep_writing(self) -> None:
        self._write(RunState.RUNNING)
        while not self._stop.wait(self._every_s):
            self._write(RunState.RUNNING)

    def _write(self, state: RunState, reason: str = "") -> None:
        latest = self._latest
        status = RunStatus(
            state,
            self._timeline.current,
            latest.study,
            latest.sizes,
            latest.stages if state is RunState.RUNNING else (),
            reason,
            socket.gethostname(),
            self._started_s,
            self._clock(),
        )
        with suppress(OSError):  # a full disk; the run itself finds out and says so
            write_text(self._path, redacted(json.dumps(asdict(status), ensure_ascii=False)))


def read_status(output: Path) -> RunStatus | None:
    """What the last run in the folder said of itself; None if it said nothing, or nothing that can be read."""
    try:
        content = read_object(output / STATUS_FILE)
    except KeptFileUnusable:
        return None
    return None if content is None else status_in(content)


def status_in(content: Mapping[str, Any]) -> RunStatus | None:
    """The status whose file has this content; None if it is none."""
    try:
        return RunStatus(
            state=RunState(content["state"]),
            phase=str(content["phase"]),
            study=str(content["study"]),
            sizes=tuple(map(str, content["sizes"])),
            stages=tuple(map(str, content["stages"])),
            reason=str(content["reason"]),
            host=str(content["host"]),
            started_s=float(content["started_s"]),
            written_s=float(content["written_s"]),
        )
    except (KeyError, TypeError, ValueError):
        return None
