"""All analyses of the report, each computed once and on demand."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import pandas as pd

from analysis.report.size_steps import SizeStep, size_steps
from analysis.store.counted import Cells
from analysis.store.frames import MEAN, MEAN_WITHOUT_ENGLISH, StudyFrames
from analysis.tables.averages import average_gains, break_even, split_averages, split_gains
from analysis.tables.budget import Budgets, Pick, parse_budget
from analysis.tables.cascades.served import cascade_curves, cascade_languages, served_cascades
from analysis.tables.chance import at_chance, collapsed_runs, targets_against_chance
from analysis.tables.choices import choices
from analysis.tables.comparison import Comparison, compare
from analysis.tables.gains import gains, gains_by_language
from analysis.tables.interactions import interactions
from analysis.tables.languages import associations, effects_by_script, language_table
from analysis.tables.literature import comparable, published
from analysis.tables.scaling import Fit, scaling, scaling_points
from analysis.tables.searches import importances, rung_agreement, savings
from analysis.tables.selection.costs import selection_costs
from analysis.tables.selection.per_target import per_target_choices
from analysis.tables.tradeoff import best_trials, configurations, hypervolumes


@dataclass(frozen=True)
class Findings:
    """The analyses of one study; `budget` and `other` as in `write_report`."""

    frames: StudyFrames
    budget: str | None = None
    other: StudyFrames | None = None

    @cached_property
    def served(self) -> pd.DataFrame:
        """`tradeoff.configurations`."""
        return configurations(self.frames)

    @cached_property
    def cascade_curves(self) -> pd.DataFrame:
        """`cascades.served.cascade_curves`."""
        return cascade_curves(self.frames, self.served)

    @cached_property
    def cascades(self) -> pd.DataFrame:
        """`cascades.served.served_cascades`."""
        return served_cascades(self.frames, self.served)

    @cached_property
    def cascade_languages(self) -> pd.DataFrame:
        """`cascades.served.cascade_languages`."""
        return cascade_languages(self.frames, self.served)

    @cached_property
    def hypervolumes(self) -> pd.DataFrame:
        return hypervolumes(self.frames)

    @cached_property
    def budgets(self) -> Budgets:
        return Budgets(self.frames)

    @cached_property
    def picks(self) -> list[Pick]:
        """What the budget buys on each kind of hardware; none without a budget."""
        if not self.budget:
            return []
        limits = parse_budget(self.budget)
        return [self.budgets.pick(limits, hardware=hardware) for hardware in self.budgets.hardware or [""]]

    @cached_property
    def best(self) -> pd.DataFrame:
        """`tradeoff.best_trials`."""
        return best_trials(self.frames)

    @cached_property
    def gained(self) -> pd.DataFrame:
        """Gains at the default learning rates."""
        return gains(self.frames)

    @cached_property
    def tuned(self) -> pd.DataFrame:
        """Gains with each side at its own best learning rates."""
        return gains(self.frames, cells="tuned")

    @property
    def tuned_has_more_seeds(self) -> bool:
        """Whether some tuned gain rests on more seeds than any gain at the default rates."""
        counts = [table.loc[table["mark"] == "", "n"].max() for table in (self.tuned, self.gained)]
        return bool(counts[0] > counts[1])

    @property
    def first_size(self) -> str:
        """Initial value of the page's size selector: the size with the most gains, the largest of several."""
        known = self.gained.loc[self.gained["gain"].notna(), "size"].value_counts()
        return max(reversed(self.frames.size_names), key=lambda name: int(known.get(name, 0)), default="")

    @property
    def first_language(self) -> str:
        """Initial value of the page's language selector: the aggregate that most targets are judged by."""
        means = list(self.frames.judged_by.values())
        return MEAN if means.count(MEAN) > means.count(MEAN_WITHOUT_ENGLISH) else MEAN_WITHOUT_ENGLISH

    @cached_property
    def by_language(self) -> pd.DataFrame:
        return gains_by_language(self.frames)

    @cached_property
    def averages(self) -> pd.DataFrame:
        return average_gains(self.frames)

    @cached_property
    def break_even(self) -> pd.DataFrame:
        """What choices gain for their training time; no rows where no time is recorded."""
        table = break_even(self.frames)
        return table[table["train_s"].notna()]

    @cached_property
    def targets(self) -> pd.DataFrame:
        """`chance.targets_against_chance`."""
        return targets_against_chance(self.frames)

    @cached_property
    def at_chance(self) -> list[str]:
        """`chance.at_chance`."""
        return at_chance(self.frames)

    @cached_property
    def collapsed(self) -> pd.DataFrame:
        """`chance.collapsed_runs`."""
        return collapsed_runs(self.frames)

    @property
    def scored_targets(self) -> list[str]:
        return list(self.targets["task"])

    @cached_property
    def headline_averages(self) -> pd.DataFrame:
        """Average gains without targets at chance, tuned where that has more seeds."""
        cells: Cells = "tuned" if self.tuned_has_more_seeds else "default"
        return average_gains(self.frames, cells=cells, above_chance=True)

    @cached_property
    def averages_above_chance(self) -> pd.DataFrame:
        return average_gains(self.frames, above_chance=True)

    @cached_property
    def split_gains(self) -> pd.DataFrame:
        """`averages.split_gains`."""
        return split_gains(self.frames)

    @cached_property
    def split_averages(self) -> pd.DataFrame:
        """`averages.split_averages`."""
        return split_averages(self.frames)

    @cached_property
    def choices(self) -> pd.DataFrame:
        return choices(self.frames)

    @cached_property
    def selection_costs(self) -> pd.DataFrame:
        return selection_costs(self.frames)

    @cached_property
    def per_target_choices(self) -> pd.DataFrame:
        return per_target_choices(self.frames)

    @cached_property
    def interactions(self) -> pd.DataFrame:
        return interactions(self.frames)

    @cached_property
    def points(self) -> pd.DataFrame:
        """`scaling.scaling_points`."""
        return scaling_points(self.frames)

    @cached_property
    def size_steps(self) -> list[SizeStep]:
        """`size_steps.size_steps`."""
        return size_steps(self.frames)

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
        """Published zero-shot scores on this study's targets."""
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
