"""Interference: whether other processes disturbed a measurement."""

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

NOTICEABLE_CORES = 0.2  # background work of an idle system stays below it
ONLINE = Path("/sys/devices/system/cpu/online")  # as "0-3,8"


@dataclass(frozen=True)
class Interference:
    """What other processes did during a measurement: load averages (1 minute) before and after, and GPU processes.

    `other_cores_busy` is the mean number of cores that others kept busy, of the `cores` this process may use. `suspected`:
    others competed for the cores that this process's threads used, or shared the GPU.
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
        """One line; "none seen" if nothing is suspected."""
        if not self.suspected:
            return "none seen"
        gpu = f", {self.other_gpu_processes} other GPU processes" if self.other_gpu_processes else ""
        busy = f"{self.other_cores_busy:.1f} of {self.cores} cores busy"
        return f"others kept {busy} (load {self.load_after:.1f}){gpu}"


@dataclass(frozen=True)
class CoreSeconds:
    """Idle and total time of a core since boot."""

    idle: float
    total: float


def allowed_cores() -> Set[int]:
    """Numbers of the cores in the affinity of this process."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def core_seconds() -> dict[int, CoreSeconds]:
    """By core number; by position in the system's list if that does not match the cores that are online."""
    listed = psutil.cpu_times(percpu=True)
    online = _numbers(ONLINE.read_text()) if ONLINE.exists() else []
    return dict(zip(online if len(online) == len(listed) else range(len(listed)), map(_core, listed), strict=True))


def own_seconds() -> float:
    """CPU time of this process and its children, such as compilers."""
    total, this = 0.0, psutil.Process()
    for process in (this, *this.children(recursive=True)):
        with contextlib.suppress(
            psutil.NoSuchProcess
        ):  # a child that has ended counts in its parent's `children_` times
            times = process.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total


@dataclass(frozen=True)
class Counters:
    """What the watch reads; tests replace it."""

    allowed: Callable[[], Set[int]] = allowed_cores
    cores: Callable[[], Mapping[int, CoreSeconds]] = core_seconds
    own_s: Callable[[], float] = own_seconds


class InterferenceWatch:
    """Counts from construction to `read`, on the cores that this process may use.

    Two disturbances stay invisible. A cgroup quota (`docker run --cpus`) names no cores: without an affinity all cores of the
    machine count, and throttling by the quota is not seen. Nor is a neighbour on the sibling hardware thread of an allowed
    core, if this process may not use that thread.
    """

    def __init__(self, device: torch.device, threads: int, *, counters: Counters | None = None) -> None:
        self._uuid, self._threads, self._counters = gpu_uuid(device), threads, counters or Counters()
        cores = self._counters.cores()
        # Read now, before this process pins itself to some of them. A container that renumbers its cores lists none of them
        # under these numbers; then all listed cores are its own.
        self._allowed = self._counters.allowed() & cores.keys() or cores.keys()
        self._load = os.getloadavg()[0]
        self._start = self._seconds(cores)

    def read(self) -> Interference:
        now = self._seconds(self._counters.cores())
        idle, total, own = (after - before for after, before in zip(now, self._start, strict=True))
        cores = len(self._allowed)
        elapsed = total / cores
        others = max(total - idle - own, 0.0) / elapsed if elapsed > 0 else 0.0
        gpu_processes = read_gpu(self._uuid).other_processes
        crowded = others > NOTICEABLE_CORES and others + self._threads > cores
        suspected = crowded or bool(gpu_processes)
        return Interference(self._load, os.getloadavg()[0], others, cores, self._threads, gpu_processes, suspected)

    def _seconds(self, cores: Mapping[int, CoreSeconds]) -> tuple[float, float, float]:
        """Idle and total core-seconds of the allowed cores, and the CPU time of this process."""
        allowed = [cores[number] for number in self._allowed]
        return sum(core.idle for core in allowed), sum(core.total for core in allowed), self._counters.own_s()


def _core(times: Any) -> CoreSeconds:
    guests = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)  # already in user and nice
    return CoreSeconds(times.idle + getattr(times, "iowait", 0.0), sum(times) - guests)


def _numbers(text: str) -> list[int]:
    """The numbers in a list of ranges: 0, 1, 2, 3 and 8 for "0-3,8"."""
    ranges = [part.partition("-") for part in text.strip().split(",") if part]
    return [number for first, _, last in ranges for number in range(int(first), int(last or first) + 1)]
