"""Peak memory of a run: the driver and everything it started, sampled."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import psutil

SAMPLE_EVERY_S = 1.0


class Footprint:
    """Peak of the summed proportional set sizes (shared pages counted once) of this process and its descendants, in MB."""

    def __init__(self) -> None:
        self.peak_mb = 0.0
        self._stop = threading.Event()

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
            self.peak_mb = max(self.peak_mb, proportional_memory_mb(psutil.Process()))
            if self._stop.wait(SAMPLE_EVERY_S):
                return


def proportional_memory_mb(process: psutil.Process) -> float:
    """Memory of a process tree now, in MB; processes that end while being read count nothing."""
    total = 0
    for one in [process, *process.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            total += one.memory_full_info().pss
    return total / 1e6
