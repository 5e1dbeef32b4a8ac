"""Reads what MLflow holds of a study, nothing else: tidy tables, trade-off, gains, scaling, languages, one HTML report.

In a notebook:

    from analysis import best_for_budget, gains, load

    frames = load("sqlite:////path/to/runs/quickstart/mlflow.db")
    gains(frames)                                # intermediate by target against "none", with intervals and Holm's p
    best_for_budget(frames, "p50_ms<=15").best   # what a latency budget buys, and how sure that is
"""

from analysis.report.write import exports_folder, write_report
from analysis.store.frames import StudyFrames
from analysis.store.reading import load
from analysis.tables.budget import BadBudget, best_for_budget
from analysis.tables.choices import average_gains, choices, interactions
from analysis.tables.comparison import compare
from analysis.tables.gains import gains, gains_by_language
from analysis.tables.inference import holm
from analysis.tables.languages import language_table
from analysis.tables.literature import published
from analysis.tables.scaling import scaling, scaling_points
from analysis.tables.searches import importances, rung_agreement, savings, stages
from analysis.tables.tradeoff import configurations, front, hypervolume, hypervolumes, pareto_front

__all__ = [
    "BadBudget",
    "StudyFrames",
    "average_gains",
    "best_for_budget",
    "choices",
    "compare",
    "configurations",
    "exports_folder",
    "front",
    "gains",
    "gains_by_language",
    "holm",
    "hypervolume",
    "hypervolumes",
    "importances",
    "interactions",
    "language_table",
    "load",
    "pareto_front",
    "published",
    "rung_agreement",
    "savings",
    "scaling",
    "scaling_points",
    "stages",
    "write_report",
]
