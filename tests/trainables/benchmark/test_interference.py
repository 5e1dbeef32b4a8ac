"""Interference by other processes, from made-up counters; and the reading of the real ones."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from types import SimpleNamespace

import psutil
import pynvml
import pytest
import torch

from trainables.benchmark.probes import interference
from trainables.benchmark.probes.interference import (
    CoreSeconds,
    Counters,
    Interference,
    InterferenceWatch,
    core_seconds,
    own_seconds,
)

CPU = torch.device("cpu")
MACHINE = range(64)
ALLOWED = {8, 9, 10, 11}


class Machine:
    """64 cores, of which this process may use some; time passes only in `passes`."""

    def __init__(self, allowed: Iterable[int] = ALLOWED) -> None:
        self._allowed, self._own_s = set(allowed), 100.0
        self._cores = dict.fromkeys(MACHINE, CoreSeconds(idle=1000.0, total=5000.0))

    @property
    def counters(self) -> Counters:
        return Counters(allowed=lambda: self._allowed, cores=lambda: dict(self._cores), own_s=lambda: self._own_s)

    def passes(self, seconds: float, *, busy: Mapping[int, float], own_s: float) -> None:
        """Let time pass: `busy` is the busy share of cores, and this process accounts for `own_s` core-seconds of it."""
        for number, core in self._cores.items():
            idle = seconds * (1 - busy.get(number, 0.0))
            self._cores[number] = CoreSeconds(core.idle + idle, core.total + seconds)
        self._own_s += own_s


def watched(machine: Machine, *, threads: int, busy: Mapping[int, float], own_s: float) -> Interference:
    watch = InterferenceWatch(CPU, threads, counters=machine.counters)
    machine.passes(10.0, busy=busy, own_s=own_s)
    return watch.read()


def test_a_neighbour_on_a_core_that_this_process_uses_is_suspected() -> None:
    seen = watched(Machine(), threads=4, busy=dict.fromkeys(ALLOWED, 1.0), own_s=32.0)
    assert seen.other_cores_busy == pytest.approx(
        0.8
    )  # 4 cores were busy for 10 s, 32 core-seconds of it with this process
    assert seen.suspected
    assert str(seen).startswith("others kept 0.8 of 4 cores busy")
    # One thread leaves three cores to others: two busy cores do not disturb it, four do.
    assert not watched(Machine(), threads=1, busy={8: 1.0, 9: 1.0}, own_s=10.0).suspected
    assert watched(Machine(), threads=1, busy=dict.fromkeys(ALLOWED, 1.0), own_s=9.0).suspected


def test_neighbours_on_cores_that_this_process_may_not_use_do_not_count() -> None:
    """A shared host of 64 cores is always busy somewhere."""
    busy = dict.fromkeys(set(MACHINE) - ALLOWED, 1.0) | dict.fromkeys(ALLOWED, 0.5)
    seen = watched(Machine(), threads=4, busy=busy, own_s=20.0)
    assert seen.other_cores_busy == pytest.approx(0.0)
    assert (seen.suspected, str(seen)) == (False, "none seen")


def test_without_an_affinity_all_cores_count() -> None:
    """So too under a cgroup quota, which names no cores: others are suspected if the machine has no idle core left."""
    anywhere = Machine(allowed=MACHINE)
    assert not watched(anywhere, threads=4, busy=dict.fromkeys(range(40), 1.0), own_s=40.0).suspected
    assert watched(anywhere, threads=4, busy=dict.fromkeys(MACHINE, 1.0), own_s=30.0).suspected


def test_nothing_is_suspected_without_interference() -> None:
    seen = watched(Machine(), threads=4, busy=dict.fromkeys(ALLOWED, 1.0), own_s=40.0)
    assert (seen.suspected, seen.other_gpu_processes) == (False, None)
    system = watched(Machine(), threads=4, busy=dict.fromkeys(ALLOWED, 1.0), own_s=39.0)
    assert system.other_cores_busy == pytest.approx(0.1)
    assert not system.suspected, "background work of an idle system"
    assert not InterferenceWatch(CPU, 1, counters=Machine().counters).read().suspected, "no time passed"


@pytest.mark.parametrize(("others", "suspected"), [(1, True), (0, False)])
def test_another_process_on_the_gpu_is_suspected(others: int, suspected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    pids = [os.getpid(), *range(1_000_000_000, 1_000_000_000 + others)]
    fakes = {
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlDeviceGetHandleByUUID": lambda uuid: uuid,
        "nvmlDeviceGetComputeRunningProcesses": lambda handle: [
            SimpleNamespace(pid=pid, usedGpuMemory=1) for pid in pids
        ],
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(pynvml, name, fake)
    monkeypatch.setattr(interference, "gpu_uuid", lambda device: f"GPU of {device}")
    seen = InterferenceWatch(torch.device("cuda"), 1, counters=Machine().counters).read()
    assert (seen.other_gpu_processes, seen.suspected) == (others, suspected)
    assert ("1 other GPU processes" in str(seen)) == suspected


def test_cores_keep_their_numbers_if_some_are_offline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    listed = [SimpleNamespace(idle=float(position), iowait=0.0) for position in range(4)]
    monkeypatch.setattr(psutil, "cpu_times", lambda percpu: listed)
    monkeypatch.setattr(interference, "_core", lambda times: CoreSeconds(times.idle, 10.0))
    monkeypatch.setattr(interference, "ONLINE", SimpleNamespace(exists=lambda: True, read_text=lambda: "0-1,6,8\n"))
    assert {number: core.idle for number, core in core_seconds().items()} == {0: 0.0, 1: 1.0, 6: 2.0, 8: 3.0}
    monkeypatch.setattr(interference, "ONLINE", SimpleNamespace(exists=lambda: True, read_text=lambda: "0-63\n"))
    assert list(core_seconds()) == [0, 1, 2, 3], "a container that shows only its own cores"


def test_in_a_container_that_renumbers_its_cores_all_count() -> None:
    machine = Machine(allowed={70, 71})
    assert watched(machine, threads=4, busy=dict.fromkeys(MACHINE, 1.0), own_s=30.0).suspected


def test_the_machine_has_counters_of_all_cores_that_this_process_may_use() -> None:
    cores = core_seconds()
    assert set(cores) >= set(os.sched_getaffinity(0))
    assert all(core.total > core.idle >= 0 for core in cores.values())


def test_the_cpu_time_of_this_process_advances_as_it_works() -> None:
    before, start = own_seconds(), time.process_time()
    while time.process_time() - start < 0.2:
        pass
    assert 0.1 < own_seconds() - before < 10  # ticks of 10 ms; other threads and children may work too
