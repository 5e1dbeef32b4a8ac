"""Reads a study from MLflow: tidy tables, Pareto fronts, gains, scaling, languages, and one HTML report.

In a notebook:

    from analysis import best_for_budget, gains, load, per_target_choices, selection_costs

    frames = load("sqlite:////path/to/runs/quickstart/mlflow.db")
    gains(frames)                                # each intermediate task against none, with intervals and Holm's p
    best_for_budget(frames, "p50_ms<=15").best   # the best configuration within a latency budget
    selection_costs(frames)                      # what choosing on English dev loses to the target languages' own labels
    per_target_choices(frames)                   # a trial for each target beside one trial for all
"""

from typing import TYPE_CHECKING, Any

from analysis.store.frames import StudyFrames
from analysis.store.reading import load
from analysis.store.saved import joined, read_saved, save
from analysis.tables.averages import average_gains, break_even
from analysis.tables.budget import BadBudget, best_for_budget
from analysis.tables.chance import collapsed_runs, targets_against_chance
from analysis.tables.choices import choices
from analysis.tables.comparison import changes, compare
from analysis.tables.estimates.grades import grades, measured_scores
from analysis.tables.gains import gains, gains_by_language, spreads
from analysis.tables.inference import detectable, examples_factor, holm, power_of, seeds_needed
from analysis.tables.interactions import interactions
from analysis.tables.languages import language_table
from analysis.tables.literature import published
from analysis.tables.scaling import scaling, scaling_points
from analysis.tables.searches import importances, rung_agreement, savings, stages
from analysis.tables.selection.costs import selection_costs
from analysis.tables.selection.per_target import per_target_choices
from analysis.tables.tradeoff import configurations, front, hypervolume, hypervolumes, pareto_front

if TYPE_CHECKING:
    from analysis.report.write import exports_folder, report_with_tables, write_report

_FROM_REPORT = ("exports_folder", "report_with_tables", "write_report")

__all__ = [
    "BadBudget",
    "StudyFrames",
    "average_gains",
    "best_for_budget",
    "break_even",
    "changes",
    "choices",
    "collapsed_runs",
    "compare",
    "configurations",
    "detectable",
    "examples_factor",
    "exports_folder",
    "front",
    "gains",
    "gains_by_language",
    "grades",
    "holm",
    "hypervolume",
    "hypervolumes",
    "importances",
    "interactions",
    "joined",
    "language_table",
    "load",
    "measured_scores",
    "pareto_front",
    "per_target_choices",
    "power_of",
    "published",
    "read_saved",
    "report_with_tables",
    "rung_agreement",
    "save",
    "savings",
    "scaling",
    "scaling_points",
    "seeds_needed",
    "selection_costs",
    "spreads",
    "stages",
    "targets_against_chance",
    "write_report",
]


def __getattr__(name: str) -> Any:
    """The report's functions, imported on first use: tables alone need no Altair."""
    if name in _FROM_REPORT:
        from analysis.report import write

        return getattr(write, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
