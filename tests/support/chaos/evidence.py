"""What shows how a study got to its end: its commands, its stages as they were committed, its trials in three places."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from trainables.store.manifests import MANIFEST, read_manifest

JOURNAL, OUTBOX = "optuna.journal", "outbox"  # of an output folder, as users know them
Metrics = Mapping[str, float]
# A line that a run prints for a trial that scored a target: size, trial and its intermediate task.
_REPORTED = re.compile(r"^\[\d+:\d+\]   (\S+) (t\d+) \([^)]*\): ", re.MULTILINE)


@dataclass(frozen=True)
class CommandRun:
    """One run of the study's command, from its start to its end.

    `finished_before` are the trials that were finished when it started, and `reported` those that scored a target in it; each
    as `size/trial`. `left` are processes that it started and that did not end.
    """

    code: int
    seconds: float
    finished_before: frozenset[str] = frozenset()
    reported: frozenset[str] = frozenset()
    left: tuple[str, ...] = ()
    hung: bool = False


@dataclass(frozen=True)
class StoredTrial:
    """A trial in the trial store; `choice` as JSON, scores by their names in MLflow."""

    size: str
    name: str
    choice: str
    outcome: str
    scores: Metrics

    @property
    def key(self) -> str:
        return f"trial:{self.size}:{self.name}"


@dataclass(frozen=True)
class TrackedRun:
    """A run in MLflow, or in the outbox, where it has no scores. `key` identifies what it is the run of."""

    key: str
    kind: str
    outcome: str
    scores: Metrics = field(default_factory=dict)


@dataclass(frozen=True)
class Evidence:
    """A round's evidence.

    Attributes:
        budget: trials of each size.
        commands: every run of the command, in order.
        commits: digests of the manifests that each stage's folder had, in order.
        cut: how often files of a finished stage were cut; it may be trained that often again.
        trials, outbox, mlflow: the trials in the trial store; the runs in the outbox and MLflow.
    """

    budget: Mapping[str, int]
    commands: tuple[CommandRun, ...] = ()
    commits: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    cut: Mapping[str, int] = field(default_factory=dict)
    trials: tuple[StoredTrial, ...] = ()
    outbox: tuple[TrackedRun, ...] = ()
    mlflow: tuple[TrackedRun, ...] = ()

    @property
    def scores(self) -> dict[str, Metrics]:
        """The scores of every trial by size and choice."""
        return {f"{trial.size} {trial.choice}": trial.scores for trial in self.trials}


class CommitLog:
    """The manifests of an output folder, as they appear; `look` is called many times a second."""

    def __init__(self, output: Path) -> None:
        self._output = output
        self._seen: dict[Path, tuple[int, int]] = {}
        self.commits: dict[str, list[str]] = {}

    def look(self) -> None:
        for path in self._output.glob(f"stages/*/{MANIFEST}"):
            try:
                status = path.stat()
            except OSError:  # it is being replaced
                continue
            version = (status.st_ino, status.st_mtime_ns)
            if self._seen.get(path) == version:
                continue
            self._seen[path] = version
            if (manifest := read_manifest(path.parent)) is None:  # cut by the monkey
                continue
            digest = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
            known = self.commits.setdefault(path.parent.name, [])
            if digest not in known:
                known.append(digest)


def progress(work: Path, committed: Path) -> int:
    """How far a study is: stages that are committed, and lines of the trial store, which may be on another disk."""
    journal = work / JOURNAL
    lines = journal.read_bytes().count(b"\n") if journal.exists() else 0
    return lines + sum(1 for _ in committed.glob(f"stages/*/{MANIFEST}"))


def reported(log: str) -> frozenset[str]:
    """The trials that scored a target, by what a run printed."""
    return frozenset(f"{size}/{trial}" for size, trial in _REPORTED.findall(log))


def is_delivered(output: Path) -> bool:
    """Whether some store has everything that the outbox holds."""
    journal = output / OUTBOX / "journal.jsonl"
    offsets = [json.loads(path.read_bytes())["offset"] for path in (output / OUTBOX).glob("receipt-*.json")]
    return bool(offsets) and max(offsets) == journal.stat().st_size
