"""Writes a study's report and attaches it to the study's MLflow experiment."""

from __future__ import annotations

import json
import sqlite3
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

import analysis
from study.evidence.bundle import is_bundle, read_bundle
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
    join: Sequence[str] = (),
    save: Path | None = None,
    attach: bool = True,
) -> Path:
    """Write the report of a run's output folder, of a study at an MLflow URI, or of saved tables; its path.

    Runs to `join` are of the same study, with other seeds or sizes. `save` is a file to write the tables to. Only the report of
    one run that MLflow holds is attached to it.

    Raises:
        NoStudy: no such study, or a budget that cannot be parsed.
    """
    try:
        frames = _load(source, experiment)
        if join:
            frames = analysis.joined([frames, *map(_load, join)])
        other = None if compare is None else load_study_frames(compare)
        path = to or _report_path(source)
        if path.is_dir():
            raise NoStudy(f"--to {path}: a folder; give the file to write")
        if save is not None:
            _save(frames, save)
        written = analysis.write_report(frames, path, budget=budget, other=other)
    except ValueError as error:
        raise NoStudy(str(error)) from error
    except OSError as error:
        raise NoStudy(f"{path} cannot be written: {error.strerror or error}; give another file with --to") from error
    attach = attach and not join and not _is_saved(source)
    if deleted := frames.context.get("deleted_runs"):
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


def _save(frames: analysis.StudyFrames, path: Path) -> None:
    """Write the tables to the file.

    Raises:
        NoStudy: it cannot be written.
    """
    try:
        analysis.save(frames, path)
    except OSError as error:
        raise NoStudy(f"--save {path}: cannot be written: {error.strerror or error}; give another file") from error


def load_study_frames(reference: str) -> analysis.StudyFrames:
    """The study in a folder, at a URI or URI#name, or in a file of saved tables or a bundle.

    Raises:
        ValueError: there is none (`NoStudy`), or it cannot be read.
    """
    source, _, name = reference.partition("#")
    return _load(source, name or None)


def _load(source: str, experiment: str | None = None) -> analysis.StudyFrames:
    """The study in a folder, at a URI, or in a file of saved tables or a bundle.

    Raises:
        NoStudy: there is none, or the file cannot be read.
    """
    if not _is_saved(source):
        return analysis.load(uri_of(source), experiment)
    read, wrote = (read_bundle, "export") if is_bundle(source) else (analysis.read_saved, "--save")
    try:
        return read(Path(source))
    except OSError as error:
        raise NoStudy(f"{source}: cannot be read: {error.strerror or error}; give a file that {wrote} wrote") from error


def _is_saved(source: str) -> bool:
    return is_bundle(source) or ("://" not in source and Path(source).suffix == ".json")


def _report_path(source: str) -> Path:
    """In the output folder, beside a file of saved tables, or here for a study at a URI."""
    if _is_saved(source):
        return Path(source).with_suffix(".html")
    return (Path() if "://" in source else Path(source)) / REPORT
