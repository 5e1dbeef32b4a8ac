"""Fetches a study's runs from MLflow: tags, params, latest metrics and per-example files."""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from mlflow.entities import Experiment, ViewType
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from sqlalchemy.exc import SQLAlchemyError

from analysis.store.database import artifacts_beside, check_readable, file_of
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
    if (file := file_of(tracking_uri)) is not None:
        check_readable(file)
    try:
        client = MlflowClient(tracking_uri=tracking_uri)
        chosen = _choose(client, experiment)
        return client, chosen, runs_of_experiment(client, tracking_uri, chosen.experiment_id)
    except (MlflowException, SQLAlchemyError, OSError, ImportError) as error:  # the last for a missing driver
        raise ValueError(
            f"no MLflow store answers at {tracking_uri!r}: {str(error).strip().splitlines()[0]}"
        ) from error


def deleted_runs(client: MlflowClient, experiment: Experiment) -> int:
    """How many of the experiment's runs were deleted in MLflow."""
    query = {"experiment_ids": [experiment.experiment_id], "run_view_type": ViewType.DELETED_ONLY}
    return sum(1 for _ in _pages(client.search_runs, **query))


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
    if (file := file_of(tracking_uri)) is not None:
        with suppress(sqlite3.Error):
            return runs_in_file(file, experiment_id)
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
        runs = {
            run_id: StoredRun(run_id, artifacts_beside(path, uri or ""), started or 0) for run_id, uri, started in rows
        }
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
            return _read_examples(path) if path.is_file() else None
        try:
            if EXAMPLES_FILE not in {artifact.path for artifact in self._client.list_artifacts(run_id)}:
                return None
            with tempfile.TemporaryDirectory() as folder:
                return _read_examples(Path(self._client.download_artifacts(run_id, EXAMPLES_FILE, folder)))
        except MlflowException as error:
            raise OSError(str(error)) from error


def _read_examples(path: Path) -> pd.DataFrame:
    """A table of scores by example, its checksums verified where it has some.

    Raises:
        OSError: it is damaged.
    """
    try:
        # Without pandas' own metadata: damage in them makes pandas raise errors of many kinds.
        return pq.read_table(path, page_checksum_verification=True).to_pandas(ignore_metadata=True)
    except (ValueError, pa.ArrowException) as error:
        raise OSError(f"{path} is damaged ({' '.join(str(error).split())})") from error


def _pages(search: Any, **query: Any) -> Iterator[Any]:
    token: str | None = None
    while True:
        page = search(**query, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _choose(client: MlflowClient, name: str | None) -> Experiment:
    experiments = list(_pages(client.search_experiments))
    names = ", ".join(sorted(repr(experiment.name) for experiment in experiments)) or "none"
    if name is not None:
        for experiment in experiments:
            if experiment.name == name:
                return experiment
        advice = [f"the store has {names}", _deleted(client)]
        raise ValueError(f"no MLflow experiment named {name!r}; {'; '.join(filter(None, advice))}")
    studies = list(filter(_is_study, experiments))
    if len(studies) == 1:
        return studies[0]
    if studies:
        named = ", ".join(repr(study.name) for study in studies)
        raise ValueError(f"{len(studies)} studies in the store; name one of {named}")
    raise ValueError(f"no study in the store (experiments: {names}); {_deleted(client) or 'run one first'}")


def _is_study(experiment: Experiment) -> bool:
    return any(tag.startswith("study.") for tag in experiment.tags)


def _deleted(client: MlflowClient) -> str:
    """Which studies were deleted, and how to restore them; "" if none was."""
    deleted = list(filter(_is_study, _pages(client.search_experiments, view_type=ViewType.DELETED_ONLY)))
    return "; ".join(
        f"the experiment {experiment.name!r} was deleted: `mlflow experiments restore --experiment-id "
        f"{experiment.experiment_id}` with its store in MLFLOW_TRACKING_URI brings it back"
        for experiment in deleted
    )
