"""Placement of a measurement on the cores of its machine."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

TOPOLOGY = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"


def serving_cores(count: int) -> tuple[int, ...]:
    """Cores for the serving threads: one hardware thread per physical core, siblings only if these are too few.

    It takes the last ones, since interrupts mostly go to the first; the rest is for LoadGen's thread. Empty if the system
    cannot pin threads.
    """
    if not hasattr(os, "sched_getaffinity"):
        return ()
    allowed = sorted(os.sched_getaffinity(0), reverse=True)
    first_of_core: dict[str, int] = {}
    for core in allowed:
        first_of_core.setdefault(_siblings(core), core)
    preferred = list(first_of_core.values())
    return tuple(sorted([*preferred, *(core for core in allowed if core not in preferred)][:count]))


def pin(cores: Sequence[int]) -> None:
    """Restrict this thread, and those it starts, to these cores; no effect without cores."""
    if cores:
        os.sched_setaffinity(0, cores)


@contextmanager
def pinned(threads: int, cores: Sequence[int]) -> Iterator[None]:
    """Compute with this many threads of torch on these cores; the former state is restored afterwards."""
    threads_before = torch.get_num_threads()
    cores_before = os.sched_getaffinity(0) if cores else set()
    torch.set_num_threads(threads)
    pin(cores)
    try:
        yield
    finally:
        pin(sorted(cores_before))
        torch.set_num_threads(threads_before)


def _siblings(core: int) -> str:
    path = Path(TOPOLOGY.format(core))
    return path.read_text().strip() if path.exists() else str(core)
