"""A round: the study's command, run again after each interruption until it is finished, with the monkey beside it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import psutil

from tests.support.chaos.evidence import (
    CommandRun,
    CommitLog,
    Evidence,
    StoredTrial,
    TrackedRun,
    is_delivered,
    progress,
    reported,
)
from tests.support.chaos.lab import Lab
from tests.support.chaos.monkey import Monkey
from tests.support.chaos.places import Place
from tests.support.chaos.plan import Plan
from tests.support.chaos.processes import descendants, end_all, is_alive, reap, start, title_of

STUDY_NAME = "CHAOS_STUDY"  # the variable from which the recipe takes it: an MLflow experiment belongs to one folder
POLL_S = 0.05
# For a driver's own Ray to end after the driver. Where its head was killed, the raylet waits for it (20 s, see `lab`), and then
# the raylet's agents, which want to tell it of the raylet's end, wait as long again; on a busy machine that took over 40 s.
LEAVE_S = 120.0
MOST_RUNS_A_FAULT = 2


class Reader(Protocol):
    """Reads what a study keeps (`tests.support.chaos.reading`)."""

    def stored_trials(self, output: Path) -> tuple[StoredTrial, ...]: ...

    def outbox_runs(self, output: Path) -> tuple[TrackedRun, ...]: ...

    def mlflow_runs(self, uri: str, experiment: str) -> tuple[TrackedRun, ...]: ...


@dataclass(frozen=True)
class Subject:
    """What is disturbed: a command that can be run again, its recipe, and how many trials of each size it finishes."""

    name: str
    recipe: str
    budget: Mapping[str, int]
    reader: Reader
    program: tuple[str, ...] = (sys.executable, "-m", "study")


def name_of(subject: Subject, plan: Plan) -> str:
    """The study's name in this round, and its output's."""
    return f"{subject.name}-{plan.number}"


@dataclass
class Round:
    """One study under the faults of a plan.

    Args:
        place: of its output, which nothing has used.
        of: the undisturbed study's progress, to which the plan's faults refer.
        limit_s: after which a run of the command counts as hung.
    """

    plan: Plan
    lab: Lab
    subject: Subject
    place: Place
    of: int
    limit_s: float
    say: Callable[[str], None]
    commands: list[CommandRun] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.logs = self.lab.folder / f"logs-{self.plan.number}"
        self.logs.mkdir()
        self.monkey = Monkey(self.plan, self.lab, self.place, self.of, self._said)
        self._commits, self._started = CommitLog(self.place.committed), time.monotonic()

    def run(self) -> None:
        """Run the study to its end, or until it was tried too often."""
        most = 2 + MOST_RUNS_A_FAULT * len(self.plan.faults)
        while len(self.commands) < most:
            self.monkey.mend()
            self.commands.append(self._run_command())
            if self.commands[-1].code == 0:
                self.monkey.mend()
                if is_delivered(self.place.work):
                    return

    @property
    def progress(self) -> int:
        return progress(self.place.work, self.place.committed)

    def _run_command(self) -> CommandRun:
        log = self.logs / f"run-{len(self.commands) + 1}.log"
        with self.place.read() as stored:
            before = frozenset(f"{trial.size}/{trial.name}" for trial in self.subject.reader.stored_trials(stored))
        command = [*self.subject.program, "run", self.subject.recipe, "--output", self.place.output]
        command += [*(word for server in self.lab.servers for word in server.arguments())]
        if self.plan.on_cluster:
            command += ["--address", self.lab.cluster.address]
        started = time.monotonic()
        process = start(command, log, {**self.lab.environment, STUDY_NAME: name_of(self.subject, self.plan)})
        driver, hung = psutil.Process(process.pid), False
        while process.poll() is None:
            self._commits.look()
            self.monkey.look(driver, self.progress)
            if not hung and time.monotonic() - started > self.limit_s:
                hung = True
                self._said(f"run {len(self.commands) + 1} hangs; killed")
                end_all([driver, *self.own_processes(driver.pid)])
            time.sleep(POLL_S)
        self._commits.look()
        seconds = time.monotonic() - started
        left = self._left() if not hung else ()
        self._said(f"run {len(self.commands) + 1} ended with {process.returncode} after {seconds:.0f} s")
        said = log.read_text(encoding="utf-8", errors="replace")
        return CommandRun(process.returncode, seconds, before, reported(said), left, hung)

    def _left(self) -> tuple[str, ...]:
        """What a driver leaves of its own Ray; killed afterwards."""
        deadline = time.monotonic() + LEAVE_S
        while (left := self.own_processes()) and time.monotonic() < deadline:
            self.monkey.end_faults()
            # As init would: Ray's workers take a raylet for alive as long as somebody has not collected its status.
            reap()
            time.sleep(POLL_S)
        titles = tuple(title_of(process) for process in left)
        end_all(left)
        return titles

    def own_processes(self, driver: int | None = None) -> list[psutil.Process]:
        """The processes that the command started: no server's, no cluster's."""
        others = [*self.lab.cluster.pids(), *(s.process.pid for s in self.lab.servers if s.process is not None)]
        apart = {*others, driver} | {child.pid for pid in others for child in descendants(pid)}
        return [process for process in descendants() if process.pid not in apart and is_alive(process)]

    def evidence(self) -> Evidence:
        """What the round left."""
        read = self.subject.reader
        self.monkey.mend()
        with self.place.read() as stored:
            trials, outbox = read.stored_trials(stored), read.outbox_runs(stored)
        return Evidence(
            budget=self.subject.budget,
            commands=tuple(self.commands),
            commits={stage: tuple(commits) for stage, commits in self._commits.commits.items()},
            cut=dict(self.monkey.cut),
            trials=trials,
            outbox=outbox,
            mlflow=read.mlflow_runs(self.lab.servers[0].url, name_of(self.subject, self.plan)),
        )

    def _said(self, line: str) -> None:
        passed = time.monotonic() - self._started
        self.say(f"round {self.plan.number} {passed:6.1f} s, {self.progress}/{self.of or '?'}: {line}")
