"""Reads what MLflow holds of a study, nothing else: tidy tables, trade-off, gains, scaling, languages, one HTML report.

In a notebook:

    from analysis import best_for_budget, gains, load

    frames = load("sqlite:////path/to/runs/quickstart/mlflow.db")
    gains(frames)                                # intermediate by target against "none", with intervals and Holm's p
    best_for_budget(frames, "p50_ms<=15").best   # what a latency budget buys, and how sure that is
"""

from analysis.budget import BadBudget, best_for_budget
from analysis.choices import average_gains, choices, interactions
from analysis.compare import compare
from analysis.frames import StudyFrames
from analysis.gains import gains, gains_by_language
from analysis.inference import holm
from analysis.languages import language_table
from analysis.literature import published
from analysis.reading import load
from analysis.report import exports_folder, write_report
from analysis.scaling import scaling, scaling_points
from analysis.searches import importances, rung_agreement, savings, stages
from analysis.tradeoff import configurations, front, hypervolume, hypervolumes, pareto_front

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
