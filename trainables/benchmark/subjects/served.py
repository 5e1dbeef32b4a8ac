"""Targets as a serving variant serves them: scores in summary and by example, and their means."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from trainables.benchmark.flips import Flips
from trainables.store.answers import ANSWERS
from trainables.store.bucket.folder import hand_over
from trainables.store.examples import joined_tests, write_example_scores


@dataclass(frozen=True)
class Served:
    """A target as a variant serves it: its scores in summary and by example, and what the batch changes."""

    task: str
    summary: dict[str, Any]
    examples: pd.DataFrame
    answers: pd.DataFrame | None  # what the examples count for; earlier versions stored none
    flips: Flips | None


def summary_of(served: Sequence[Served]) -> dict[str, Any]:
    """A summary per target, and their means with and without English."""
    targets = [answers.summary for answers in served]
    others = [mean for target in targets if (mean := target["test_mean_without_english"]) is not None]
    return {
        "scores": {target["task"]: target for target in targets},
        "test_score": sum(target["test_mean"] for target in targets) / len(targets),
        "test_score_without_english": sum(others) / len(others) if others else None,
    }


def write_served(served: Sequence[Served], path: Path) -> None:
    """Write the scores by example, and beside them the answers that they are counted from, if all targets have them."""
    write_example_scores(joined_tests((target.task, target.examples) for target in served), path)
    answers = [(target.task, target.answers) for target in served if target.answers is not None]
    if len(answers) == len(served):
        write_example_scores(joined_tests(answers), path.with_name(ANSWERS))
    else:  # of an earlier measurement
        path.with_name(ANSWERS).unlink(missing_ok=True)
    for file in (path, path.with_name(ANSWERS)):  # the driver may be on another node
        hand_over(file)
