"""What a search leaves behind: every trial's choice, outcome and scores, and the trials of a size together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from study.spec.space import NONE, Choice

DEV_SCORE = "dev_score"  # what a search maximises: the mean English dev score of the finished targets, in percent
TARGETS_FINISHED = "targets_finished"  # the number of targets that a trial has trained and scored; ASHA's unit of rungs

# How the reason of a diverged trial starts: its only mark in optuna.journal and MLflow, which know it as failed.
DIVERGED_REASON = "diverged: "


class TrialOutcome(StrEnum):
    """How a trial ended; `study.search.trial.outcome_of` decides it."""

    COMPLETE = "complete"
    STOPPED_EARLY = "stopped_early"  # by ASHA
    FAILED = "failed"  # may succeed when it runs again
    DIVERGED = "diverged"  # its loss became NaN or infinite, and would again

    @property
    def failed(self) -> bool:
        """Whether the trial has no result."""
        return self in (TrialOutcome.FAILED, TrialOutcome.DIVERGED)

    @property
    def tag(self) -> str:
        """The value of MLflow's `outcome` tag, which is "failed" for a diverged trial as well."""
        return str(TrialOutcome.FAILED if self.failed else self)


@dataclass(frozen=True)
class TrialRecord:
    """How a trial ended; scores in percent.

    `partial_scores` holds its mean English dev score by number of finished targets. `retried` marks a failed trial whose choice
    a later trial runs again. `in_place_of`: of a further run, the collapsed runs that it is for (`study.search.collapsed`).
    """

    trial_id: str
    choice: Choice
    outcome: TrialOutcome
    metrics: Mapping[str, Any]
    reason: str | None = None
    partial_scores: Mapping[int, float] = field(default_factory=dict)
    retried: bool = False
    in_place_of: tuple[str, ...] = ()

    @property
    def dev_score(self) -> float | None:
        """The dev score over all targets; None unless the trial is complete."""
        return self.metrics.get(DEV_SCORE) if self.outcome is TrialOutcome.COMPLETE else None

    @property
    def retriable(self) -> bool:
        """Whether `--retry-failed` runs it again: it failed without diverging, and was not retried yet."""
        return self.outcome is TrialOutcome.FAILED and not self.retried


def repeat_id(of: TrialRecord, seed: int) -> str:
    """The name of a trial's repeat with a seed."""
    return f"{of.trial_id}-s{seed}"


def repeated_id(trial_id: str) -> str | None:
    """The name of the trial that a repeat repeats; None for a trial of the search itself."""
    repeated, separator, _ = trial_id.partition("-s")
    return repeated if separator else None


def seed_of_repeat(trial_id: str) -> int | None:
    """The seed in the name of a repeat; None for a trial of the search itself."""
    _, separator, seed = trial_id.partition("-s")
    return int(seed.partition("-")[0]) if separator else None


@dataclass(frozen=True)
class SearchResult:
    """The finished trials of a size, and the repeats of its winners; `ended` is why the search did not use its budget."""

    size: str
    trials: tuple[TrialRecord, ...]
    repeats: tuple[TrialRecord, ...] = ()
    ended: str | None = None

    @property
    def best(self) -> TrialRecord | None:
        """The complete trial with the highest English dev score; the earliest of equals."""
        return next(iter(self.ranked), None)

    @property
    def baseline(self) -> TrialRecord | None:
        """The best trial without an intermediate task, which may be `best` itself; None if no such trial is complete."""
        return next((trial for trial in self.ranked if trial.choice.intermediate == NONE), None)

    @property
    def ranked(self) -> list[TrialRecord]:
        """The complete trials by English dev score, best first; the earlier of equals first."""
        complete = [trial for trial in self.trials if trial.dev_score is not None]
        return sorted(complete, key=lambda trial: -(trial.dev_score or 0.0))

    def count(self, outcome: TrialOutcome) -> int:
        """Trials with this outcome; repeats do not count."""
        return sum(trial.outcome is outcome for trial in self.trials)

    @property
    def failed_count(self) -> int:
        """Trials that failed or diverged, without those that were retried; repeats do not count."""
        return sum(trial.outcome.failed and not trial.retried for trial in self.trials)

    @property
    def failures(self) -> list[TrialRecord]:
        """Failed and diverged trials and repeats, without those that were retried."""
        return [trial for trial in (*self.trials, *self.repeats) if trial.outcome.failed and not trial.retried]
