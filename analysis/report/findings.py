"""Everything that the report says about a study, computed once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import pandas as pd

from analysis.store.frames import MEAN, MEAN_WITHOUT_ENGLISH, StudyFrames
from analysis.tables.budget import Choice, best_for_budget
from analysis.tables.choices import average_gains, choices, interactions
from analysis.tables.comparison import Comparison, compare
from analysis.tables.gains import gains, gains_by_language
from analysis.tables.languages import associations, effects_by_script, language_table
from analysis.tables.literature import comparable, published
from analysis.tables.scaling import Fit, scaling, scaling_points
from analysis.tables.searches import importances, rung_agreement, savings
from analysis.tables.tradeoff import best_trials, configurations, hypervolumes


@dataclass(frozen=True)
class Findings:
    """The analyses of one study; `budget` and `other` as given to the report."""

    frames: StudyFrames
    budget: str | None = None
    other: StudyFrames | None = None

    @cached_property
    def served(self) -> pd.DataFrame:
        """`tradeoff.configurations`."""
        return configurations(self.frames)

    @cached_property
    def hypervolumes(self) -> pd.DataFrame:
        return hypervolumes(self.frames)

    @cached_property
    def choice(self) -> Choice | None:
        """What the budget buys."""
        return best_for_budget(self.frames, self.budget) if self.budget else None

    @cached_property
    def best(self) -> pd.DataFrame:
        """`tradeoff.best_trials`."""
        return best_trials(self.frames)

    @cached_property
    def gained(self) -> pd.DataFrame:
        """Gains at the default rates."""
        return gains(self.frames)

    @cached_property
    def tuned(self) -> pd.DataFrame:
        """Gains at the rates that suit each."""
        return gains(self.frames, cells="tuned")

    @property
    def tuned_tells_more(self) -> bool:
        """Whether some gain at the rates that suit each rests on more seeds than any at the default rates."""
        counts = [table.loc[table["mark"] == "", "n"].max() for table in (self.tuned, self.gained)]
        return bool(counts[0] > counts[1])

    @property
    def first_size(self) -> str:
        """What the page's selector of sizes starts with: the largest that has a gain, else the largest."""
        known = set(self.gained.loc[self.gained["gain"].notna(), "size"])
        names = self.frames.size_names
        return next((name for name in reversed(names) if name in known), names[-1] if names else "")

    @property
    def first_language(self) -> str:
        """What the page's selector of languages starts with: the mean that most targets are judged by."""
        means = list(self.frames.judged_by.values())
        return MEAN if means.count(MEAN) > means.count(MEAN_WITHOUT_ENGLISH) else MEAN_WITHOUT_ENGLISH

    @cached_property
    def by_language(self) -> pd.DataFrame:
        return gains_by_language(self.frames)

    @cached_property
    def averages(self) -> pd.DataFrame:
        return average_gains(self.frames)

    @cached_property
    def tuned_averages(self) -> pd.DataFrame:
        return average_gains(self.frames, cells="tuned")

    @cached_property
    def choices(self) -> pd.DataFrame:
        return choices(self.frames)

    @cached_property
    def interactions(self) -> pd.DataFrame:
        return interactions(self.frames)

    @cached_property
    def points(self) -> pd.DataFrame:
        """`scaling.scaling_points`."""
        return scaling_points(self.frames)

    @cached_property
    def fits(self) -> dict[tuple[str, str, str], Fit]:
        return scaling(self.frames)

    @cached_property
    def fits_over_flops(self) -> dict[tuple[str, str, str], Fit]:
        return scaling(self.frames, over="gflops_per_sample")

    @cached_property
    def languages(self) -> pd.DataFrame:
        return language_table(self.frames)

    @cached_property
    def associations(self) -> pd.DataFrame:
        return associations(self.languages)

    @cached_property
    def scripts(self) -> pd.DataFrame:
        return effects_by_script(self.languages)

    @cached_property
    def literature(self) -> pd.DataFrame:
        """Published zero-shot figures for this study's targets."""
        return comparable(published(), self.frames.targets)

    @cached_property
    def importances(self) -> pd.DataFrame:
        return importances(self.frames)

    @cached_property
    def agreement(self) -> pd.DataFrame:
        return rung_agreement(self.frames)

    @cached_property
    def savings(self) -> pd.DataFrame:
        return savings(self.frames)

    @cached_property
    def comparison(self) -> Comparison | None:
        return compare(self.frames, self.other) if self.other is not None else None
