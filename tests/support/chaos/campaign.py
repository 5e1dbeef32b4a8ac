"""Rounds with one seed, and the document on what they found."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.chaos import reading, recipe
from tests.support.chaos.evidence import Evidence
from tests.support.chaos.invariants import violations
from tests.support.chaos.lab import DISK_BYTES, Lab
from tests.support.chaos.places import Bucket, Folder, Place
from tests.support.chaos.plan import KINDS, NOT_INJECTED, NOT_INJECTED_IN_BUCKETS, Kind, Plan, StudyName, planned
from tests.support.chaos.rounds import Round, Subject, name_of
from tests.support.chaos.servers import MlflowServer, StorageServer
from trainables.benchmark.probes.hardware import hardware
from trainables.store.versions import versions

LIMIT_S, TIMES_UNDISTURBED = 180.0, 6.0  # the longest that a run of the command may take, whichever is more
FIRST_LIMIT_S = 3600.0  # for the undisturbed study
MOST_SHOWN = 20  # violations in the document

Say = Callable[[str], None]


def run_campaign(folder: Path, options: Options, say: Say) -> dict[str, Any]:
    """The undisturbed study, then disturbed ones until the time is over; returns the document.

    Raises:
        SystemExit: the undisturbed study already violates an invariant.
    """
    lab = Lab(folder, servers=(MlflowServer, StorageServer) if options.bucket else (MlflowServer,))
    not_injected = NOT_INJECTED | (NOT_INJECTED_IN_BUCKETS if options.bucket else {})
    if not lab.disk_can_fill:
        not_injected["disk filled"] = "needs root, for a file system of its own"
    kinds = tuple(kind for kind in KINDS if kind not in not_injected)
    campaign = Campaign(options, kinds, lab, _subject(options.study), say)
    try:
        campaign.run()
    finally:
        lab.end()
    return campaign.document() | {
        "not_injected": not_injected,
        "disk_bytes": DISK_BYTES if lab.disk_can_fill else None,
        "load_average": os.getloadavg(),
        "hardware": hardware().as_dict(),
        "versions": versions(),
        "command": " ".join(["python", "-m", "tests.benchmarks.chaos", *sys.argv[1:]]),
    }


@dataclass(frozen=True)
class Options:
    """What the command was asked for; `keep` is the folder for the rounds with violations."""

    minutes: float
    seed: int
    study: StudyName
    first: int
    keep: Path | None
    bucket: bool = False


def _subject(name: StudyName) -> Subject:
    study = getattr(recipe, name)()
    budget = {size.name: study.budget(size) for size in study.sizes}
    return Subject(name, f"tests/support/chaos/recipe.py:{name}", budget, reading)


@dataclass
class Campaign:
    """The undisturbed study and the rounds after it."""

    options: Options
    kinds: tuple[Kind, ...]
    lab: Lab
    subject: Subject
    say: Say
    struck: Counter[str] = field(default_factory=Counter)
    found: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    undisturbed_s: float = 0.0
    interrupted: int = 0  # runs of the command that did not end with 0

    def run(self) -> None:
        """Raises SystemExit: the undisturbed study violates an invariant."""
        started = time.monotonic()
        expected, of = self._undisturbed()
        limit_s = max(LIMIT_S, TIMES_UNDISTURBED * self.undisturbed_s)
        number = self.options.first
        while True:
            self._disturbed(number, expected, of=of, limit_s=limit_s)
            if time.monotonic() - started >= 60 * self.options.minutes:
                return
            number += 1

    def document(self) -> dict[str, Any]:
        return {
            "rounds": len(self.seconds),
            "faults": {kind: self.struck[kind] for kind in self.kinds},
            "interrupted": self.interrupted,
            "violations": len(self.found),
            "found": self.found[:MOST_SHOWN],
            "seed": self.options.seed,
            "study": self.options.study,
            "output": "bucket" if self.options.bucket else "folder",
            "first_round": self.options.first,
            "undisturbed_s": round(self.undisturbed_s, 1),
            "round_s": [round(seconds) for seconds in self.seconds],
        }

    def _undisturbed(self) -> tuple[Evidence, int]:
        """What the study leaves without faults, and its progress."""
        plan = Plan(0, False, ())
        calm = Round(plan, self.lab, self.subject, self._place(plan), 0, FIRST_LIMIT_S, self.say)
        calm.run()
        evidence, of = calm.evidence(), calm.progress
        self.undisturbed_s = evidence.commands[-1].seconds
        problems = violations(evidence, evidence)
        if evidence.commands[0].reported != {f"{trial.size}/{trial.name}" for trial in evidence.trials}:
            problems.append("its command does not print the scores of its trials as `evidence.reported` expects")
        if problems:
            self._keep(calm)
            raise SystemExit(f"the undisturbed study violates invariants: {'; '.join(problems)}")
        calm.place.remove()
        return evidence, of

    def _place(self, plan: Plan) -> Place:
        """Where a round's study keeps its output."""
        name = name_of(self.subject, plan)
        for server in self.lab.servers:
            if isinstance(server, StorageServer):
                return Bucket(self.lab.disk, name, server.objects)
        return Folder(self.lab.disk, name)

    def _disturbed(self, number: int, expected: Evidence, *, of: int, limit_s: float) -> None:
        plan, started = planned(self.options.seed, number, self.kinds), time.monotonic()
        where = "a cluster" if plan.on_cluster else "the driver's own Ray"
        faults = ", ".join(fault.kind for fault in plan.faults)
        self.say(f"round {number} of seed {self.options.seed} on {where}: {faults}")
        current = Round(plan, self.lab, self.subject, self._place(plan), of, limit_s, self.say)
        current.run()
        evidence = current.evidence()
        problems = violations(evidence, expected)
        for problem in problems:
            self.say(f"VIOLATION in round {number} of seed {self.options.seed}: {problem}")
        if problems:
            self._keep(current)
        self.seconds.append(time.monotonic() - started)
        self.struck += current.monkey.struck
        self.found += [f"round {number}: {problem}" for problem in problems]
        self.interrupted += sum(run.code != 0 for run in evidence.commands)
        self.say(f"round {number}: {len(problems)} violations, {self.seconds[-1]:.0f} s")
        current.place.remove()
        shutil.rmtree(current.logs)

    def _keep(self, current: Round) -> None:
        """Copy the folders of a round that needs to be looked at."""
        if self.options.keep is not None:
            to = self.options.keep / f"seed-{self.options.seed}-round-{current.plan.number}"
            for place in dict.fromkeys((current.place.committed, current.place.work)):
                if place.is_dir():
                    shutil.copytree(place, to / "output", symlinks=True, dirs_exist_ok=True)
            shutil.copytree(current.logs, to / "logs", dirs_exist_ok=True)
