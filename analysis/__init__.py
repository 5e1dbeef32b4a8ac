"""Reads what MLflow holds of a study, nothing else: tidy tables, trade-off, gains, charts, one HTML report."""

from analysis.frames import StudyFrames, load
from analysis.gains import gains
from analysis.report import write_report
from analysis.tradeoff import pareto_front

__all__ = ["StudyFrames", "gains", "load", "pareto_front", "write_report"]
