"""When the page of a study is built again, and what is said of its run beside the page."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from socket import gethostname
from typing import Any, Protocol

from study.watch.build import PAGE, Build, Built, problem_of
from study.watch.status_file import MEASURING, RunState, RunStatus, read_status
from study.watch.store_files import Version, version_of

EVERY_S = 30.0  # between two builds, at least
SHARE = 0.1  # of a core that builds may take on average; one that fails says no CPU time and is charged its wall time
SILENT_S = 60.0  # without a sign of life, a run is taken for dead


class Building(Protocol):
    """A build that runs, as `Build`."""

    def result(self) -> Built | None: ...

    def stop(self) -> None: ...


@dataclass(frozen=True)
class _Running:
    """A build that runs: what of the store it reads, and when it started, since the epoch and by the clock of the page."""

    build: Building
    version: Version
    of_s: float
    started_s: float


@dataclass(frozen=True)
class ShownPage:
    """A page, and the time since the epoch that it is of. `version` differs between pages."""

    version: str
    html: bytes
    of_s: float


class LivePage:
    """The page of one output folder. One thread calls `tick`, others read `document` and `page`."""

    def __init__(
        self,
        output: Path,
        *,
        every_s: float = EVERY_S,
        share: float = SHARE,
        since_s: float | None = None,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
        start: Callable[[Path], Building] = Build,
    ) -> None:
        """`since_s`: a run is about to start, and what runs that started before this time said does not count."""
        self.output, self._every_s, self._share, self._since_s = output, every_s, share, since_s
        self._clock, self._now, self._start = clock, now, start
        self._lock = threading.Lock()
        self._status: RunStatus | None = None
        self._sign_s = clock()  # when the run's last sign of life was seen
        self._built: Version | None = None  # what the last build read
        self._build: _Running | None = None
        self._next_s = clock()
        self._cpu_s: float | None = None
        self._problem = ""
        self._page: ShownPage | None = None
        self._count = 0

    @property
    def page(self) -> ShownPage | None:
        with self._lock:
            return self._page

    def document(self) -> dict[str, Any]:
        """What the page's reader polls: the run in words, and which page there is."""
        with self._lock:
            status, page, state = self._status, self._page, self._state()
            running = state == RunState.RUNNING
            return {
                "study": self.output.resolve().name,
                "state": state,
                "headline": self._headline(state),
                "sizes": list(status.sizes) if status else [],
                "stages": list(status.stages) if status and running else [],
                "note": self._note(),
                "status_s": status.written_s if status else None,
                "page": None if page is None else {"version": page.version, "of_s": page.of_s},
            }

    def tick(self) -> None:
        """Read the run's status; take the page of a finished build, or start or stop one where it is time."""
        status = read_status(self.output)
        if status is not None and self._since_s is not None and status.started_s < self._since_s:
            status = None
        with self._lock:
            self._see(status)
            if status is not None and status.state is RunState.ENDED and self._take_final():
                self._stop_build()
            elif self._build is not None:
                self._follow_build()
            elif self._clock() >= self._next_s and not self._measuring():
                version = version_of(self.output)
                if version != self._built and any(version):
                    self._start_build(version)

    def close(self) -> None:
        with self._lock:
            self._stop_build()

    def _see(self, status: RunStatus | None) -> None:
        if status == self._status:
            return
        # The first sign may be an old one. Later ones count from when they are seen, whatever the other machine's clock says.
        old_s = 0.0 if self._status or not status else max(0.0, self._now() - status.written_s)
        self._status, self._sign_s = status, self._clock() - old_s

    def _take_final(self) -> bool:
        """Show the report that the run wrote at its end; whether there is one."""
        path = self.output / PAGE
        try:
            changed = path.stat()
            version = f"final-{changed.st_mtime_ns}"
            if self._page is None or self._page.version != version:
                self._page = ShownPage(version, path.read_bytes(), changed.st_mtime)
        except OSError:
            return False
        return True

    def _start_build(self, version: Version) -> None:
        """Start a build. What keeps it from starting, as a full disk does, may have passed when it is tried again."""
        try:
            self._build = _Running(self._start(self.output), version, self._now(), self._clock())
        except OSError as error:
            self._problem, self._next_s = f"no build starts: {problem_of(error)}", self._clock() + self._every_s

    def _follow_build(self) -> None:
        running = self._build
        assert running is not None
        if self._measuring():
            self._stop_build()
        elif (built := running.build.result()) is not None:
            self._build, self._built, self._problem = None, running.version, built.problem
            if built.page is not None:
                self._count += 1
                self._page, self._cpu_s = ShownPage(str(self._count), built.page, running.of_s), built.cpu_s
            cost_s = built.cpu_s if built.page is not None else self._clock() - running.started_s
            self._next_s = self._clock() + max(self._every_s, cost_s * (1 / self._share - 1))

    def _stop_build(self) -> None:
        if self._build is not None:
            self._build.build.stop()
            self._build = None

    def _state(self) -> str:
        """As the run said, "silent" where it no longer says anything, "unknown" where it never did."""
        if self._status is None:
            return "unknown"
        silent = self._status.state is RunState.RUNNING and self._clock() - self._sign_s > SILENT_S
        return "silent" if silent else self._status.state

    def _measuring(self) -> bool:
        """Whether the run measures serving speed on this machine, which a build would disturb."""
        status = self._status
        return (
            self._state() == RunState.RUNNING
            and status is not None
            and status.phase in MEASURING
            and status.host == gethostname()
        )

    def _headline(self, state: str) -> str:
        status = self._status
        if status is None and self._since_s is not None:
            return "The run is starting."
        if status is None:
            return "No run has written its status to this folder."
        progress = f" {status.study}." if status.study else ""
        match state:
            case RunState.RUNNING:
                return f"Running: {status.phase or 'start-up'}.{progress}"
            case RunState.ENDED:
                return "The run has ended, and this is its report."
            case RunState.INTERRUPTED:
                return f"The run was interrupted; the same command resumes it.{progress}"
            case RunState.FAILED:
                return f"The run failed: {status.reason}{progress and '.'}{progress}"
        minutes = round((self._clock() - self._sign_s) / 60)
        return (
            f"No sign of the run for {minutes} min: it was killed, or its folder is no longer copied "
            f"here. Its last phase: {status.phase or 'start-up'}.{progress}"
        )

    def _note(self) -> str:
        """What is to be said of the page: why it is not newer, and what a build costs."""
        cost = "" if self._cpu_s is None else f" A build takes {self._cpu_s:.1f} s of a core at low priority."
        if self._build is not None:
            return f"{'The first' if self._page is None else 'A newer'} page is being built.{cost}"
        if self._measuring():
            return "The page waits while serving speed is measured." + cost
        if self._page is None:
            return "The page appears with the first result" + (f" ({self._problem})." if self._problem else ".")
        if self._problem:
            return f"No newer page: {self._problem}.{cost}"
        return "" if self._page.version.startswith("final-") else cost.strip()
