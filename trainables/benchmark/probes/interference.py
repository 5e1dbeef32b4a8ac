"""What else the machine was doing while something was timed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping, Set
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from trainables.benchmark.probes.nvml import gpu_uuid, read_gpu

NOTICEABLE_CORES = 0.2  # an idle system's own work stays below it
ONLINE = Path("/sys/devices/system/cpu/online")  # as "0-3,8"


@dataclass(frozen=True)
class Interference:
    """Load averages (1 minute) before and after, of the cores that this process may use the mean number that others kept busy,
    other GPU processes.

    `suspected`: others needed cores that this process's threads were using, or shared the GPU.
    """

    load_before: float
    load_after: float
    other_cores_busy: float
    cores: int
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
        busy = f"{self.other_cores_busy:.1f} of {self.cores} cores busy"
        return f"others kept {busy} (load {self.load_after:.1f}){gpu}"


@dataclass(frozen=True)
class CoreSeconds:
    """What a core has done since the machine started."""

    idle: float
    total: float


def allowed_cores() -> Set[int]:
    """Numbers of the cores that the scheduler may give this process."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def core_seconds() -> dict[int, CoreSeconds]:
    """By the core's number. Where the system lists other cores than are online, in the order of the list."""
    listed = psutil.cpu_times(percpu=True)
    online = _numbers(ONLINE.read_text()) if ONLINE.exists() else []
    return dict(zip(online if len(online) == len(listed) else range(len(listed)), map(_core, listed), strict=True))


def own_seconds() -> float:
    """Of this process and its children (compilers, for one)."""
    own, process = 0.0, psutil.Process()
    for mine in (process, *process.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):  # ended since it was listed: its parent's `children_` has it
            times = mine.cpu_times()
            own += times.user + times.system + times.children_user + times.children_system
    return own


@dataclass(frozen=True)
class Counters:
    """Where the watch reads."""

    allowed: Callable[[], Set[int]] = allowed_cores
    cores: Callable[[], Mapping[int, CoreSeconds]] = core_seconds
    own_s: Callable[[], float] = own_seconds


class InterferenceWatch:
    """Counts from its construction to `read`, on the cores that this process may use: what others do elsewhere on the machine
    takes none of them away.

    A cgroup's quota (`docker run --cpus`) names no cores. Without an affinity all of the machine's count under it: others are
    suspected where they need more than the machine has left, and that the quota itself holds a thread up is not seen. Nor is a
    neighbour on the other hardware thread of an allowed core, where that one is not allowed.
    """

    def __init__(self, device: torch.device, threads: int, *, counters: Counters | None = None) -> None:
        self._uuid, self._threads, self._counters = gpu_uuid(device), threads, counters or Counters()
        cores = self._counters.cores()
        # Now: later this process may have pinned itself to some of them. A container that renumbers its cores lists none of
        # them by these numbers, and has no others.
        self._allowed = self._counters.allowed() & cores.keys() or cores.keys()
        self._load = os.getloadavg()[0]
        self._start = self._seconds(cores)

    def read(self) -> Interference:
        now = self._seconds(self._counters.cores())
        idle, total, own = (one - then for one, then in zip(now, self._start, strict=True))
        cores = len(self._allowed)
        elapsed = total / cores
        others = max(total - idle - own, 0.0) / elapsed if elapsed > 0 else 0.0
        gpu_processes = read_gpu(self._uuid).other_processes
        crowded = others > NOTICEABLE_CORES and others + self._threads > cores
        suspected = crowded or bool(gpu_processes)
        return Interference(self._load, os.getloadavg()[0], others, cores, self._threads, gpu_processes, suspected)

    def _seconds(self, cores: Mapping[int, CoreSeconds]) -> tuple[float, float, float]:
        """Idle and total core-seconds of the allowed cores, and what of them this process took."""
        allowed = [cores[number] for number in self._allowed]
        return sum(one.idle for one in allowed), sum(one.total for one in allowed), self._counters.own_s()


def _core(times: Any) -> CoreSeconds:
    guests = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)  # already in user and nice
    return CoreSeconds(times.idle + getattr(times, "iowait", 0.0), sum(times) - guests)


def _numbers(text: str) -> list[int]:
    """Of "0-3,8" 0, 1, 2, 3 and 8."""
    ranges = [part.partition("-") for part in text.strip().split(",") if part]
    return [number for first, _, last in ranges for number in range(int(first), int(last or first) + 1)]
