"""Two studies side by side: scores, speeds and settings that both have, and what only one has.

Differences are other minus this throughout. A table of scores is one family of comparisons (`inference.holm`).
"""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from analysis.store.frames import StudyFrames
from analysis.tables.comparison.scope import Scope, settings
from analysis.tables.comparison.scores import SAME, TOLD, by_language, cells, served
from analysis.tables.comparison.speeds import speeds

_NOT_SETTINGS = ("experiment", "command", "joined", "deleted_runs")  # name and place of a run


@dataclass(frozen=True)
class Comparison:
    """What two studies share.

    `scores`: default cells in both. `speeds`: benchmarks in both. `settings`: recorded settings that differ (name, this,
    other).
    """

    other: str
    scores: pd.DataFrame
    speeds: pd.DataFrame
    settings: pd.DataFrame


@dataclass(frozen=True)
class Changes(Comparison):
    """A comparison in full.

    `by_language`: the cells of `scores` in each language. `served`: benchmarked models by serving variant. `only`: what one
    study alone has (where: "this" or "other", kind, names). `incomparable`: what both have and cannot be compared (what,
    reason).
    """

    by_language: pd.DataFrame
    served: pd.DataFrame
    only: pd.DataFrame
    incomparable: pd.DataFrame

    @property
    def families(self) -> dict[str, pd.DataFrame]:
        """The tables of scores, by what a row of them is."""
        return {"cell": self.scores, "cell by language": self.by_language, "served model": self.served}

    def told(self, verdict: str) -> int:
        """How many rows of all families are told "higher" or "lower"."""
        return sum(int((table["verdict"] == verdict).sum()) for table in self.families.values())

    @property
    def identical(self) -> bool:
        """Whether both have the same cells with the same seeds and scores, in the same settings."""
        same = all((table["verdict"] == SAME).all() for table in self.families.values())
        differing = set(self.settings["setting"]) - set(_NOT_SETTINGS)
        return same and len(self.scores) > 0 and not (differing or len(self.only) or len(self.incomparable))


def compare(frames: StudyFrames, other: StudyFrames) -> Comparison:
    """Compare what two studies have in common.

    Cells are default cells, matched by size, intermediate task and target, and paired by seed and learning rates; `n` counts
    the paired seeds. Cells with fewer than two such pairs are compared unpaired (Welch), as `pairing` says, unless both have
    that one seed alone. Each target is judged by the mean over languages other than English where both studies judge it so
    (`StudyFrames.judged_by`), else by the mean over all; `judged_by` says which. Intervals and corrected p-values are as in
    `gains.gains`; where one seed stands against one, they are about these two trained models alone (`basis`). What has other
    test data is left out (`changes` lists it).
    """
    scope = Scope.of(frames, other)
    return Comparison(str(other.context["experiment"]), cells(scope)[0], speeds(frames, other), settings(frames, other))


def changes(frames: StudyFrames, other: StudyFrames) -> Changes:
    """Compare two studies in full: also by language and serving variant, with what only one has and what cannot be compared."""
    scope = Scope.of(frames, other)
    found = cells(scope), by_language(scope), served(scope)
    tables = [table for table, _ in found]
    return Changes(
        str(other.context["experiment"]),
        tables[0],
        speeds(frames, other),
        settings(frames, other),
        by_language=tables[1],
        served=tables[2],
        only=scope.only,
        incomparable=scope.incomparable(refused for _, refused in found),
    )


__all__ = ["TOLD", "Changes", "Comparison", "changes", "compare"]
