"""Whether others disturbed a measurement, by counters that are made up here; and that the real ones are read rightly."""

from __future__ import annotations

import os
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
    """64 cores, of which this process may use some; nothing happens but what `passes` says."""

    def __init__(self, allowed: Iterable[int] = ALLOWED) -> None:
        self._allowed, self._own_s = set(allowed), 100.0
        self._cores = dict.fromkeys(MACHINE, CoreSeconds(idle=1000.0, total=5000.0))

    @property
    def counters(self) -> Counters:
        return Counters(allowed=lambda: self._allowed, cores=lambda: dict(self._cores), own_s=lambda: self._own_s)

    def passes(self, seconds: float, *, busy: Mapping[int, float], own_s: float) -> None:
        """Time, in which cores were busy by so much of it with whatever, and this process took some of that."""
        for number, one in self._cores.items():
            idle = seconds * (1 - busy.get(number, 0.0))
            self._cores[number] = CoreSeconds(one.idle + idle, one.total + seconds)
        self._own_s += own_s


def watched(machine: Machine, *, threads: int, busy: Mapping[int, float], own_s: float) -> Interference:
    watch = InterferenceWatch(CPU, threads, counters=machine.counters)
    machine.passes(10.0, busy=busy, own_s=own_s)
    return watch.read()


def test_a_neighbour_on_a_core_that_this_process_uses_is_suspected() -> None:
    seen = watched(Machine(), threads=4, busy=dict.fromkeys(ALLOWED, 1.0), own_s=32.0)
    assert seen.other_cores_busy == pytest.approx(0.8)  # 4 cores were busy for 10 s, 32 core-seconds of them with ours
    assert seen.suspected
    assert str(seen).startswith("others kept 0.8 of 4 cores busy")
    # A thread that leaves three cores to others is not disturbed by one that takes one of them, but by four.
    assert not watched(Machine(), threads=1, busy={8: 1.0, 9: 1.0}, own_s=10.0).suspected
    assert watched(Machine(), threads=1, busy=dict.fromkeys(ALLOWED, 1.0), own_s=9.0).suspected


def test_neighbours_on_cores_that_this_process_may_not_use_are_none_of_its_business() -> None:
    """A shared host of 64 cores is always busy somewhere."""
    busy = dict.fromkeys(set(MACHINE) - ALLOWED, 1.0) | dict.fromkeys(ALLOWED, 0.5)
    seen = watched(Machine(), threads=4, busy=busy, own_s=20.0)
    assert seen.other_cores_busy == pytest.approx(0.0)
    assert (seen.suspected, str(seen)) == (False, "none seen")


def test_without_an_affinity_all_cores_count() -> None:
    """Also under a cgroup's quota, which names none: others are suspected where the machine has nothing left."""
    anywhere = Machine(allowed=MACHINE)
    assert not watched(anywhere, threads=4, busy=dict.fromkeys(range(40), 1.0), own_s=40.0).suspected
    assert watched(anywhere, threads=4, busy=dict.fromkeys(MACHINE, 1.0), own_s=30.0).suspected


def test_nothing_is_suspected_where_nothing_was() -> None:
    seen = watched(Machine(), threads=4, busy=dict.fromkeys(ALLOWED, 1.0), own_s=40.0)
    assert (seen.suspected, seen.other_gpu_processes) == (False, None)
    system = watched(Machine(), threads=4, busy=dict.fromkeys(ALLOWED, 1.0), own_s=39.0)
    assert system.other_cores_busy == pytest.approx(0.1)
    assert not system.suspected, "an idle system's own work"
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


def test_cores_go_by_their_numbers_also_where_some_are_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    listed = [SimpleNamespace(idle=float(place), iowait=0.0) for place in range(4)]
    monkeypatch.setattr(psutil, "cpu_times", lambda percpu: listed)
    monkeypatch.setattr(interference, "_core", lambda times: CoreSeconds(times.idle, 10.0))
    monkeypatch.setattr(interference, "ONLINE", SimpleNamespace(exists=lambda: True, read_text=lambda: "0-1,6,8\n"))
    assert {number: one.idle for number, one in core_seconds().items()} == {0: 0.0, 1: 1.0, 6: 2.0, 8: 3.0}
    monkeypatch.setattr(interference, "ONLINE", SimpleNamespace(exists=lambda: True, read_text=lambda: "0-63\n"))
    assert list(core_seconds()) == [0, 1, 2, 3], "a container that shows its own cores alone"


def test_a_container_that_renumbers_its_cores_has_no_others() -> None:
    machine = Machine(allowed={70, 71})
    assert watched(machine, threads=4, busy=dict.fromkeys(MACHINE, 1.0), own_s=30.0).suspected


def test_the_machine_has_counters_of_all_cores_that_this_process_may_use() -> None:
    found = core_seconds()
    assert set(found) >= set(os.sched_getaffinity(0))
    assert all(one.total >= one.idle >= 0 for one in found.values())
    before = own_seconds()
    sum(range(10**6))
    assert own_seconds() >= before > 0
