"""Writes a study's report and attaches it to the study's MLflow experiment."""

from __future__ import annotations

import json
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

import analysis
from study.redact import redacted
from study.tracking.mlflow_store import attach_report
from study.tracking.moved import follow_folder
from study.tracking.tracker import Tracker, default_uri

REPORT = "report.html"


class NoStudy(ValueError):
    """There is no study to report on, or a budget cannot be parsed. The message says how to correct it."""


def report_on(
    source: str,
    experiment: str | None = None,
    *,
    to: Path | None = None,
    budget: str | None = None,
    compare: str | None = None,
    attach: bool = True,
) -> Path:
    """Write the report of a run's output folder, or of a study at an MLflow URI; its path.

    Raises:
        NoStudy: no such study, or a budget that cannot be parsed.
    """
    try:
        frames = analysis.load(uri_of(source), experiment)
        other = None if compare is None else _load_other(compare)
        path = to or (Path() if "://" in source else Path(source)) / REPORT
        if path.is_dir():
            raise NoStudy(f"--to {path}: a folder; give the file to write")
        written = analysis.write_report(frames, path, budget=budget, other=other)
    except ValueError as error:
        raise NoStudy(str(error)) from error
    except OSError as error:
        raise NoStudy(f"{path} cannot be written: {error.strerror or error}; give another file with --to") from error
    if deleted := frames.context["deleted_runs"]:
        print(
            f"{deleted} runs were deleted in MLflow and are not in the report; `python -m study sync DIR --again` sends them "
            "again",
            file=sys.stderr,
        )
    if attach:
        try:
            if "://" not in source:
                follow_folder(uri_of(source), Path(source))
            attach_report(
                uri_of(source),
                str(frames.context["experiment"]),
                report=written,
                exports=analysis.exports_folder(written),
            )
        except (MlflowException, SQLAlchemyError, sqlite3.Error, OSError) as error:
            print(_not_attached(error), file=sys.stderr)
    return written


def report_run(
    experiment: str, tracker: Tracker, *, attach: bool, say: Callable[[str], object]
) -> tuple[Path, list[dict[str, Any]]]:
    """Write the report at the end of a run; its path, and its front of score against latency.

    While MLflow lacks something, the report is built from the run's journal.
    """
    frames = tracker.read(lambda uri: analysis.load(uri, experiment))
    report = analysis.write_report(frames, tracker.output / REPORT)
    if attach:
        try:
            attach_report(
                tracker.uri,
                experiment,
                report=report,
                exports=analysis.exports_folder(report),
                source=tracker.source,
            )
        except (MlflowException, OSError) as error:
            say(_not_attached(error))
    return report, front_points(frames)


def front_points(frames: analysis.StudyFrames) -> list[dict[str, Any]]:
    """The front as JSON. A baseline shares its size and variant with another point, and alone names its intermediate task."""
    points: list[dict[str, Any]] = json.loads(analysis.front(frames).to_json(orient="records"))
    for point in points:
        if not point.pop("baseline"):
            del point["intermediate"]
    return points


def _not_attached(error: Exception) -> str:
    return redacted(
        f"the report could not be attached to the MLflow experiment: {error}; `python -m study report` tries again"
    )


def uri_of(source: str) -> str:
    """The MLflow URI of an output folder, or the URI itself.

    Raises:
        NoStudy: the folder has no MLflow store.
    """
    if "://" in source:
        return source
    if not (Path(source) / "mlflow.db").is_file():
        raise NoStudy(f"{source}: neither a folder with an mlflow.db nor an MLflow URI; give a run's output folder")
    return default_uri(Path(source))


def _load_other(compare: str) -> analysis.StudyFrames:
    """The study to compare with: a folder, a URI, or URI#name."""
    source, _, name = compare.partition("#")
    return analysis.load(uri_of(source), name or None)
