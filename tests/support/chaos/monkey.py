"""Strikes a running study with the faults of a plan, mends what does not mend itself, and says each with time and victim."""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import psutil

from tests.support.chaos.damage import cut_files, stage_of
from tests.support.chaos.lab import Lab
from tests.support.chaos.places import Place
from tests.support.chaos.plan import Fault, Kind, Plan
from tests.support.chaos.processes import (
    GONE,
    Role,
    descendants,
    end_all,
    is_alive,
    processes,
    role_of,
    title_of,
)

Say = Callable[[str], None]
# Whom a fault of a single process can hit.
VICTIMS: dict[Kind, tuple[Role, ...]] = {
    "driver killed": ("driver",),
    "driver terminated": ("driver",),
    "trial actor killed": ("trial actor",),
    "group worker killed": ("group worker",),
    "other worker killed": ("other worker",),
    "head killed": ("head",),
    "raylet killed": ("raylet",),
    "server killed": ("server",),
    "process stopped": ("driver", "trial actor", "group worker", "other worker", "head", "raylet", "server"),
}


@dataclass
class Monkey:
    """The faults of one round against the study in `place`; `look` is called many times a second while its command runs.

    `of` is the undisturbed study's whole progress. `struck` counts the faults that found a victim, and `cut` the files of each
    stage that were cut.
    """

    plan: Plan
    lab: Lab
    place: Place
    of: int
    say: Say
    clock: Callable[[], float] = time.monotonic
    struck: Counter[str] = field(default_factory=Counter)
    cut: Counter[str] = field(default_factory=Counter)
    _due: list[Fault] = field(init=False)
    _armed: dict[int, float] = field(default_factory=dict)  # when a fault that is due strikes, by its `id`
    _endings: list[tuple[float, Callable[[], None]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._due = list(self.plan.faults)

    def look(self, driver: psutil.Process, progress: int) -> None:
        """Strike with what is due, and end what has lasted long enough."""
        now = self.clock()
        for fault in list(self._due):
            if progress >= fault.at * self.of:
                when = self._armed.setdefault(id(fault), now + fault.wait_s)
                if now >= when and self._strike(fault, driver):
                    self._due.remove(fault)
                    self.struck[fault.kind] += 1
        self.end_faults()
        if self.plan.on_cluster:
            self.lab.cluster.tend()

    def end_faults(self, *, all_of_them: bool = False) -> None:
        """End what has lasted long enough: stopped processes go on, servers start again, the disk has space."""
        for ending in list(self._endings):
            if all_of_them or self.clock() >= ending[0]:
                self._endings.remove(ending)
                ending[1]()

    def mend(self) -> None:
        """End every fault, and make the lab as it was."""
        self.end_faults(all_of_them=True)
        self.lab.prepare(on_cluster=self.plan.on_cluster)

    def _strike(self, fault: Fault, driver: psutil.Process) -> bool:
        """Cause the fault; False where nobody can be its victim at the moment."""
        if fault.kind == "machine lost":
            self._kill_machine(driver)
            self.say(f"machine lost: every process of the study killed{self.place.lose_machine()}")
        elif fault.kind == "files cut":
            self._kill_machine(driver)
            work = self.place.work
            paths = cut_files(work, random.Random(fault.salt))
            if self.place.work_is_all:
                self.cut.update(stage for path in paths if (stage := stage_of(path, work)) is not None)
            names = ", ".join(str(path.relative_to(work)) for path in paths) or "none were there"
            self.say(f"machine killed, and files cut: {names}")
        elif fault.kind == "disk filled":
            self.lab.fill_disk()
            self.say(f"disk filled, for {fault.last_s:.1f} s")
            self._later(fault.last_s, self.lab.free_disk)
        else:
            victim = self._victim(fault, driver)
            if victim is None:
                return False
            self._hit(victim, fault)
        return True

    def _kill_machine(self, driver: psutil.Process) -> None:
        """Kill the driver with its Ray, and the cluster; servers are on another machine."""
        end_all([driver, *self._of_study(driver)])
        if self.plan.on_cluster:
            self.lab.cluster.end()

    def _of_study(self, driver: psutil.Process) -> list[psutil.Process]:
        """All processes that are no server's, the driver apart."""
        servers = [server.process.pid for server in self.lab.servers if server.process is not None]
        apart = {driver.pid, *servers} | {child.pid for pid in servers for child in descendants(pid)}
        return [process for process in descendants() if process.pid not in apart]

    def _victim(self, fault: Fault, driver: psutil.Process) -> psutil.Process | None:
        roles = VICTIMS[fault.kind]
        candidates: list[psutil.Process] = [driver] if "driver" in roles and is_alive(driver) else []
        candidates += [process for process in self._of_study(driver) if role_of(process) in roles]
        if "server" in roles:
            candidates += processes([s.process.pid for s in self.lab.servers if s.running and s.process is not None])
        return picked(candidates, fault.pick)

    def _hit(self, victim: psutil.Process, fault: Fault) -> None:
        title = f"process {victim.pid} ({title_of(victim)})"
        with suppress(*GONE):
            if fault.kind == "process stopped":
                victim.suspend()
                self.say(f"{fault.kind}: {title}, for {fault.last_s:.1f} s")
                self._later(fault.last_s, lambda: _resume(victim))
                return
            self.say(f"{fault.kind}: {title}")
            if fault.kind == "driver terminated":
                victim.send_signal(signal.SIGTERM)
                return
            server = next((s for s in self.lab.servers if s.process is not None and s.process.pid == victim.pid), None)
            if server is not None:
                server.end()
                self._later(fault.last_s, server.start)
                return
            if self.plan.on_cluster and fault.kind in ("head killed", "raylet killed"):
                self.lab.cluster.note_loss(victim)
            victim.kill()

    def _later(self, after_s: float, mend: Callable[[], None]) -> None:
        self._endings.append((self.clock() + after_s, mend))


def picked(candidates: Sequence[psutil.Process], pick: float) -> psutil.Process | None:
    """The candidate at this share of the list, in [0, 1)."""
    return candidates[int(pick * len(candidates))] if candidates else None


def _resume(process: psutil.Process) -> None:
    with suppress(*GONE):
        process.resume()
