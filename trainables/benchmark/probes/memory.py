"""Memory used by serving: resident set size on the host, the allocator's count on a GPU."""

from __future__ import annotations

import gc
import resource
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import torch

MB = 1e6
STATUS, CLEAR_REFS, PAGEMAP = (Path("/proc/self", name) for name in ("status", "clear_refs", "pagemap"))
RESET_PEAK = "5"  # proc_pid_clear_refs(5): reset the peak resident set size to the current one


def release_models(device: torch.device) -> None:
    """Free what models that are no longer used still hold on a GPU: merged attention layers refer to themselves."""
    if device.type == "cuda":
        gc.collect()
        torch.cuda.empty_cache()


@dataclass(frozen=True)
class Peak:
    """A peak in MB (1e6 bytes) and how it was counted; on a GPU also what the allocator had reserved."""

    mb: float
    source: str
    reserved_mb: float | None = None


class PeakMemory:
    """The peak since construction.

    On a GPU it covers the bytes that torch's allocator gave out. On the host it is the resident set size of the whole process,
    interpreter and libraries included. If the kernel cannot reset that peak, it counts from the start of the process; `source`
    says so.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        if device.type == "cuda":
            torch.cuda.empty_cache()  # releases what an earlier, larger batch reserved
            torch.cuda.reset_peak_memory_stats(device)
        else:
            self._reset = reset_host_peak()

    def read(self) -> Peak:
        if self._device.type == "cuda":
            reserved_mb = torch.cuda.max_memory_reserved(self._device) / MB
            allocated_mb = torch.cuda.max_memory_allocated(self._device) / MB
            return Peak(allocated_mb, "torch.cuda.max_memory_allocated", reserved_mb)
        if self._reset:
            return Peak(_high_water_mb(), "peak resident set size while serving (VmHWM)")
        return Peak(host_peak_mb(), "peak resident set size since the process started (ru_maxrss)")


def host_rss_mb() -> float:
    """Current resident set size from psutil, in MB."""
    return psutil.Process().memory_info().rss / MB


def resident_mb(address: int, size: int) -> float:
    """MB of this process's memory from the address on that are resident, by pages; all of them if the kernel does not say.

    A page's entry in proc_pid_pagemap(5) is 8 bytes, and bit 63 says whether it is present.
    """
    page = resource.getpagesize()
    first, last = address // page, (address + max(size, 1) - 1) // page
    try:
        with PAGEMAP.open("rb", buffering=0) as file:
            file.seek(8 * first)
            entries = np.frombuffer(file.read(8 * (last - first + 1)), dtype=np.uint64)
    except OSError:
        return size / MB
    present = int((entries >> np.uint64(63)).sum())
    return size / MB * present / (last - first + 1)


def host_peak_mb() -> float:
    """Peak resident set size since the process started, from getrusage, in MB."""
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss: bytes on macOS, KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / MB


def reset_host_peak() -> bool:
    """Reset the peak of the resident set size; False if the kernel does not allow it."""
    try:
        CLEAR_REFS.write_text(RESET_PEAK)
        return _high_water_mb() > 0
    except (OSError, StopIteration):
        return False


def _high_water_mb() -> float:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024 / MB
