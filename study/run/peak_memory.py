"""Peak memory of a run: the driver and every process it started, looked at once a second.

The proportional set size, which counts a shared page once, makes the kernel walk all pages of a process: 0.17 s for a run of
8 GB, while its processes wait for their memory maps. The resident size costs a hundredth of that and counts shared pages once a
process. So the first is read where the second has risen, and now and then.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import psutil

LOOK_EVERY_S = 1.0
RISE = 1.01  # of the resident size since the last reading, from which on there is another
MOST_SHARE = 0.01  # of the time that other readings take


class PeakMemory:
    """Peak, in MB, of the proportional set sizes (shared pages counted once) of this process and its descendants together.

    `by_phase` has the peak of each phase that `phase` names; before the first ("") a reading counts for the whole alone.
    """

    def __init__(self, phase: Callable[[], str] = lambda: "") -> None:
        self.peak_mb, self.by_phase = 0.0, dict[str, float]()
        self._phase, self._stop = phase, threading.Event()
        self._of_phase, self._resident_mb, self._next_s = "", 0.0, 0.0  # of the last reading; when the next is due

    @contextlib.contextmanager
    def measure(self) -> Iterator[None]:
        thread = threading.Thread(target=self._run, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join()

    def _run(self) -> None:
        while True:
            self.look()
            if self._stop.wait(LOOK_EVERY_S):
                return

    def look(self) -> None:
        """Read the proportional sizes if the phase is new, the resident size has risen, or a reading is due."""
        members, started = process_tree(), time.monotonic()
        resident, phase = resident_mb(members), self._phase()
        if phase == self._of_phase and resident < RISE * self._resident_mb and started < self._next_s:
            return
        now_mb = proportional_mb(members)
        took_s = time.monotonic() - started
        self._of_phase, self._resident_mb, self._next_s = phase, resident, started + took_s / MOST_SHARE
        self.peak_mb = max(self.peak_mb, now_mb)
        if phase:
            self.by_phase[phase] = max(self.by_phase.get(phase, 0.0), now_mb)


def process_tree() -> list[psutil.Process]:
    """This process and its descendants."""
    process = psutil.Process()
    return [process, *process.children(recursive=True)]


def resident_mb(processes: Sequence[psutil.Process]) -> float:
    """The sum of their resident set sizes in MB; a process that has ended counts as zero."""
    return _sum_mb(processes, lambda process: process.memory_info().rss)


def proportional_mb(processes: Sequence[psutil.Process]) -> float:
    """The sum of their proportional set sizes in MB; a process that has ended counts as zero."""
    return _sum_mb(processes, lambda process: process.memory_full_info().pss)


def _sum_mb(processes: Sequence[psutil.Process], size: Callable[[psutil.Process], int]) -> float:
    total = 0
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            total += size(process)
    return total / 1e6
