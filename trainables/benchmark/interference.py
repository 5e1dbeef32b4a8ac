"""What else the machine was doing while something was timed."""

from __future__ import annotations

import contextlib
import os
from dataclasses import asdict, dataclass
from typing import Any

import psutil
import torch

from trainables.benchmark.hardware import available_cores
from trainables.benchmark.nvml import gpu_uuid, read_gpu

NOTICEABLE_CORES = 0.2  # an idle system's own work stays below it


@dataclass(frozen=True)
class Interference:
    """Load averages (1 minute) before and after, the mean number of cores that others kept busy, other GPU processes.

    `suspected`: others needed cores that this process's threads were using, or shared the GPU.
    """

    load_before: float
    load_after: float
    other_cores_busy: float
    threads: int
    other_gpu_processes: int | None
    suspected: bool

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        """One line; `none seen` where nothing is suspected."""
        if not self.suspected:
            return "none seen"
        gpu = f", {self.other_gpu_processes} other GPU processes" if self.other_gpu_processes else ""
        return f"others kept {self.other_cores_busy:.1f} cores busy (load {self.load_after:.1f}){gpu}"


class InterferenceWatch:
    """Counts from its construction to `read`."""

    def __init__(self, device: torch.device, threads: int) -> None:
        self._uuid, self._threads = gpu_uuid(device), threads
        self._cores = available_cores()  # now: later this process may have pinned itself to some of them
        self._load = os.getloadavg()[0]
        self._start = _cpu_seconds()

    def read(self) -> Interference:
        idle, total, own = (now - then for now, then in zip(_cpu_seconds(), self._start, strict=True))
        cores = psutil.cpu_count() or 1
        elapsed = total / cores
        others = max(total - idle - own, 0.0) / elapsed if elapsed > 0 else 0.0
        gpu_processes = read_gpu(self._uuid).other_processes
        crowded = others > NOTICEABLE_CORES and others + self._threads > self._cores
        suspected = crowded or bool(gpu_processes)
        return Interference(self._load, os.getloadavg()[0], others, self._threads, gpu_processes, suspected)


def _cpu_seconds() -> tuple[float, float, float]:
    """Idle and total core-seconds of the machine, and those of this process and its children (compilers, for one)."""
    machine, own = psutil.cpu_times(), 0.0
    process = psutil.Process()
    for mine in (process, *process.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):  # ended since it was listed: its parent's `children_` has it
            times = mine.cpu_times()
            own += times.user + times.system + times.children_user + times.children_system
    idle = machine.idle + getattr(machine, "iowait", 0.0)
    guests = getattr(machine, "guest", 0.0) + getattr(machine, "guest_nice", 0.0)  # already in user and nice
    return idle, sum(machine) - guests, own
