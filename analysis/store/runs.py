"""Fetches a study's runs from MLflow: tags, params, latest metrics and per-example files."""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import pandas as pd
from mlflow.entities import Experiment
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from analysis.store.examples import Key

EXAMPLES_FILE = "examples.parquet"


@dataclass
class StoredRun:
    """One MLflow run; `metrics` holds the latest values."""

    run_id: str
    artifact_uri: str
    started_ms: int  # since the epoch
    tags: dict[str, str] = field(default_factory=dict)
    params: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)

    @property
    def key(self) -> Key:
        """Size and id. A benchmark's id includes the serving variant, which may score differently from its trial."""
        trial = self.tags.get("trial_id", "")
        is_benchmark = self.tags.get("kind") == "benchmark"
        return self.tags.get("size", ""), f"{trial}/{self.tags.get('variant', '')}" if is_benchmark else trial


def fetch_study(tracking_uri: str, experiment: str | None) -> tuple[MlflowClient, Experiment, list[StoredRun]]:
    """A client, the experiment of that name (without one, the only study) and its active runs.

    Raises:
        ValueError: the store or the experiment does not exist, or several studies are possible.
    """
    try:
        client = MlflowClient(tracking_uri=_existing(tracking_uri))
        chosen = _choose(list(_pages(client.search_experiments)), experiment)
        return client, chosen, runs_of_experiment(client, tracking_uri, chosen.experiment_id)
    except (MlflowException, OSError) as error:
        raise ValueError(f"no MLflow store answers at {tracking_uri!r}: {error}") from error


def runs_of_experiment(client: MlflowClient, tracking_uri: str, experiment_id: str) -> list[StoredRun]:
    """The active runs, earliest first, then by their key tag.

    Run ids come last in the order because each store draws its own: a study must read the same from its journal and its server.
    """
    runs = _runs_as_stored(client, tracking_uri, experiment_id)
    return sorted(runs, key=lambda run: (run.started_ms, run.tags.get("key", ""), run.run_id))


def _runs_as_stored(client: MlflowClient, tracking_uri: str, experiment_id: str) -> list[StoredRun]:
    """The active runs in any order.

    An SQLite file is read with SQL. MLflow creates one object per metric, which takes 20 to 30 s instead of 1 s for 5,000 runs
    of 100 metrics. MLflow itself is asked where the tables differ from those expected, and for servers.
    """
    if tracking_uri.startswith("sqlite:///"):
        try:
            return runs_in_file(Path(tracking_uri.removeprefix("sqlite:///")), experiment_id)
        except sqlite3.Error:
            pass
    query = {"experiment_ids": [experiment_id], "max_results": 1000, "order_by": ["attributes.start_time ASC"]}
    return [
        StoredRun(
            run.info.run_id,
            str(run.info.artifact_uri),
            run.info.start_time or 0,
            run.data.tags,
            run.data.params,
            run.data.metrics,
        )
        for run in _pages(client.search_runs, **query)
    ]


def runs_in_file(path: Path, experiment_id: str) -> list[StoredRun]:
    """The active runs of an experiment in an SQLite store.

    Raises:
        sqlite3.Error: the file does not have MLflow's tables.
    """
    with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as database:
        active = "experiment_id = ? AND lifecycle_stage = 'active'"
        rows = database.execute(
            f"SELECT run_uuid, artifact_uri, start_time FROM runs WHERE {active}", (int(experiment_id),)
        )
        runs = {run_id: StoredRun(run_id, uri or "", started or 0) for run_id, uri, started in rows}
        for table, attribute in (("tags", "tags"), ("params", "params"), ("latest_metrics", "metrics")):
            is_known = " AND is_nan = 0" if attribute == "metrics" else ""
            rows = database.execute(
                f"SELECT run_uuid, key, value FROM {table} "
                f"WHERE run_uuid IN (SELECT run_uuid FROM runs WHERE {active}){is_known}",
                (int(experiment_id),),
            )
            for run_id, key, value in rows:
                getattr(runs[run_id], attribute)[key] = value
    return list(runs.values())


class ExampleFiles:
    """Reads a run's per-example file: directly where the artifacts are on this machine, else through MLflow."""

    def __init__(self, client: MlflowClient, runs: Iterable[StoredRun]) -> None:
        self._client = client
        self._runs: Mapping[Key, tuple[str, str]] = {run.key: (run.run_id, run.artifact_uri) for run in runs}

    def __call__(self, key: Key) -> pd.DataFrame | None:
        if key not in self._runs:
            return None
        run_id, uri = self._runs[key]
        parts = urlparse(uri)
        if parts.scheme in ("", "file"):
            path = Path(unquote(parts.path)) / EXAMPLES_FILE
            return pd.read_parquet(path) if path.is_file() else None
        try:
            if EXAMPLES_FILE not in {artifact.path for artifact in self._client.list_artifacts(run_id)}:
                return None
            with tempfile.TemporaryDirectory() as folder:
                return pd.read_parquet(self._client.download_artifacts(run_id, EXAMPLES_FILE, folder))
        except MlflowException as error:
            raise OSError(str(error)) from error


def _existing(tracking_uri: str) -> str:
    """The URI itself. MLflow would create a missing SQLite file, and a mistyped path would read as an empty study."""
    path = tracking_uri.removeprefix("sqlite:///")
    if path != tracking_uri and path and not Path(path).exists():
        raise ValueError(
            f"no MLflow store at {tracking_uri!r}: the file does not exist; pass the URI the study wrote to"
        )
    return tracking_uri


def _pages(search: Any, **query: Any) -> Iterator[Any]:
    token: str | None = None
    while True:
        page = search(**query, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _choose(experiments: list[Experiment], name: str | None) -> Experiment:
    names = ", ".join(sorted(repr(experiment.name) for experiment in experiments)) or "none"
    if name is not None:
        for experiment in experiments:
            if experiment.name == name:
                return experiment
        raise ValueError(f"no MLflow experiment named {name!r}; the store has {names}")
    studies = [experiment for experiment in experiments if any(tag.startswith("study.") for tag in experiment.tags)]
    if len(studies) == 1:
        return studies[0]
    if studies:
        named = ", ".join(repr(study.name) for study in studies)
        raise ValueError(f"{len(studies)} studies in the store; name one of {named}")
    raise ValueError(f"no study in the store (experiments: {names}); run one first")
