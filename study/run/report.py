"""Writes the report of a study and attaches it to the study's MLflow experiment."""

from __future__ import annotations

import sys
from pathlib import Path

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

import analysis
from study.redact import redacted
from study.tracking.tracker import default_uri


class NoStudy(ValueError):
    """There is nothing to report on, or the request cannot be read; the message says what would be right."""


def report_on(
    source: str,
    experiment: str | None = None,
    *,
    to: Path | None = None,
    budget: str | None = None,
    compare: str | None = None,
    attach: bool = True,
) -> Path:
    """Write the report of a run's output folder or of a study at an MLflow URI; returns its path.

    Raises:
        NoStudy: no such study, or a budget that cannot be read.
    """
    try:
        frames = analysis.load(uri_of(source), experiment)
        other = None if compare is None else analysis.load(uri_of(compare.partition("#")[0]), _name_in(compare))
        path = to or (Path() if "://" in source else Path(source)) / "report.html"
        written = analysis.write_report(frames, path, budget=budget, other=other)
    except ValueError as error:
        raise NoStudy(str(error)) from error
    if attach:
        try:
            attach_report(uri_of(source), str(frames.context["experiment"]), written)
        except (MlflowException, OSError) as error:
            print(f"not attached to the MLflow experiment: {redacted(str(error))}", file=sys.stderr)
    return written


def attach_report(uri: str, experiment: str, report: Path) -> None:
    """The report and its charts and tables, as artifacts of the experiment's one run of kind "report": MLflow keeps artifacts
    with runs, and not with experiments. It is made of what MLflow holds, so it needs no journal: it is attached anew.

    Raises:
        MlflowException, OSError: the store does not take it.
    """
    client = MlflowClient(tracking_uri=uri)
    found = client.get_experiment_by_name(experiment)
    if found is None:
        return
    runs = client.search_runs([found.experiment_id], "tags.key = 'report'", max_results=1)
    tags = {"kind": "report", "key": "report"}
    run = runs[0] if runs else client.create_run(found.experiment_id, run_name="report", tags=tags)
    client.log_artifact(run.info.run_id, str(report))
    folder = analysis.exports_folder(report)
    if folder.is_dir():
        client.log_artifacts(run.info.run_id, str(folder), folder.name)
    client.set_terminated(run.info.run_id)


def uri_of(source: str) -> str:
    """The MLflow URI of an output folder, or the URI itself.

    Raises:
        NoStudy: a folder without a store.
    """
    if "://" in source:
        return source
    if not (Path(source) / "mlflow.db").is_file():
        raise NoStudy(f"{source}: no folder with an mlflow.db in it, and no URI")
    return default_uri(Path(source))


def _name_in(source: str) -> str | None:
    return source.partition("#")[2] or None
