"""Peak memory of a run: the driver and every process it started, sampled once a second."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

import psutil

SAMPLE_EVERY_S = 1.0


class PeakMemory:
    """Peak, in MB, of the proportional set sizes (shared pages counted once) of this process and its descendants together.

    `by_phase` has the peak of each phase that `phase` names; before the first ("") a sample counts for the whole alone.
    """

    def __init__(self, phase: Callable[[], str] = lambda: "") -> None:
        self.peak_mb, self.by_phase = 0.0, dict[str, float]()
        self._phase, self._stop = phase, threading.Event()

    @contextlib.contextmanager
    def measure(self) -> Iterator[None]:
        thread = threading.Thread(target=self._sample, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join()

    def _sample(self) -> None:
        while True:
            now_mb, phase = proportional_memory_mb(psutil.Process()), self._phase()
            self.peak_mb = max(self.peak_mb, now_mb)
            if phase:
                self.by_phase[phase] = max(self.by_phase.get(phase, 0.0), now_mb)
            if self._stop.wait(SAMPLE_EVERY_S):
                return


def proportional_memory_mb(process: psutil.Process) -> float:
    """Current memory of a process tree in MB; a process that ends during the reading counts as zero."""
    total = 0
    for member in [process, *process.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            total += member.memory_full_info().pss
    return total / 1e6
