"""One MLflow store. No other file writes to MLflow.

Delivering an entry again duplicates nothing. Runs are looked up by their `key` tag before they are created. Metrics carry the
step and time of their entry, and a store keeps one of two equal points. Of tags, status and files the last write counts, except
that descriptions, and the experiment's kind and views, stay as somebody left them in MLflow's UI.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# MLflow's default is a call of up to four minutes, retries included.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
# MLflow's own retry creates a run twice if the first answer was lost. `Sender` retries, after a lookup.
os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
# Otherwise each finished run costs one more call, and prints the URI with its password to standard output.
os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"

import requests
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException, RestException
from mlflow.store.db.db_types import DATABASE_ENGINES
from sqlalchemy.exc import SQLAlchemyError

from analysis.store.database import check_readable, file_of
from study.redact import redacted
from study.tracking.folder_id import FILE, folder_id
from study.tracking.moved import follow_folder
from study.tracking.notes import NOTE_TAG, REPORT_NOTE
from study.tracking.outbox import Entry

FOLDER_TAG = "study.folder"  # of an experiment: the id of the output folder that it belongs to
OUTBOX_TAG = "study.journal."  # of an experiment: the start of a tag that names an outbox it has received
METRICS_A_CALL, PARAMS_A_CALL, TAGS_A_CALL = 800, 100, 100  # MLflow's limit is 1,000 of all together
_REFUSALS = {"INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS"}
_REFUSING_STATUS = {400, 413, 415, 422}

logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)  # it logs a line for every table it creates
logging.getLogger("psycopg").setLevel(
    logging.ERROR
)  # it warns of each row that PostgreSQL has already; MLflow takes care of them


def artifact_location(uri: str, output: Path) -> str | None:
    """Where the artifacts of a new experiment go: beside the stages for a database, None for a server, which has its own place.

    For a database MLflow would take `mlruns` in the current directory, which a submitted job loses with its end.
    """
    scheme = uri.partition(":")[0].partition("+")[0]
    return (output / "artifacts").resolve().as_uri() if scheme in DATABASE_ENGINES else None


class StoreUnavailable(RuntimeError):
    """The store does not answer, or denies access; it may work later."""


class ExperimentTaken(RuntimeError):
    """The experiment of this name belongs to another output folder."""


class WriteRefused(RuntimeError):
    """The store rejects this write, and would reject it again."""


class MlflowStore:
    """The experiment of one study in one store; for use by one thread at a time."""

    def __init__(self, uri: str, experiment: str, *, output: Path) -> None:
        self.uri, self._name, self._output = uri, experiment, output
        self._ids: dict[str, str] = {}
        self._doubtful: set[str] = set()  # keys of runs that a lost request may have created
        self._created_here = False
        self._editable: set[str] = set()  # the experiment's tags that MLflow's UI can edit, as found

    def open(self, outbox_id: str) -> bool:
        """Connect, and create the experiment if it is new; returns whether it is marked as having received the outbox.

        An experiment belongs to one output folder: two folders with studies of one name have runs with the same keys.

        Raises:
            StoreUnavailable: it does not answer, denies access, or the experiment was deleted.
            ExperimentTaken: the experiment is another folder's; nothing was written.
            FolderIdDamaged: whose the experiment is cannot be told; nothing was written.
        """
        with _translated_errors():
            _check_file(self.uri)
            follow_folder(self.uri, self._output)
            self._client = MlflowClient(tracking_uri=self.uri)
            experiment = self._client.get_experiment_by_name(self._name)
            if experiment is not None and experiment.lifecycle_stage == "deleted":
                raise StoreUnavailable(
                    f"its experiment {self._name!r} is deleted: restore it, or delete it permanently"
                )
            self._created_here = experiment is None
            if experiment is None:
                tags = {FOLDER_TAG: folder_id(self._output, None)}
                self._id = self._client.create_experiment(
                    self._name, artifact_location(self.uri, self._output), tags=tags
                )
                return False
            received, owner = _outbox_tag(outbox_id) in experiment.tags, experiment.tags.get(FOLDER_TAG)
            folder = folder_id(self._output, owner if received else None)
            has_study = owner is not None or any(tag.startswith(OUTBOX_TAG) for tag in experiment.tags)
            if has_study and not received and owner != folder:
                raise ExperimentTaken(
                    f"its experiment {self._name!r} belongs to another output folder (its tag {FOLDER_TAG} is not the id in "
                    f"{self._output / FILE}), and results of two would be mixed. Give this study another name "
                    "or another --tracking-uri, or rename that experiment or delete it permanently"
                )
            self._id = experiment.experiment_id
            self._editable = {tag for tag in experiment.tags if tag.startswith("mlflow.")}
            if owner is None:
                self._client.set_experiment_tag(self._id, FOLDER_TAG, folder)
            return received

    def mark(self, outbox_id: str) -> None:
        """Mark the experiment as having received the outbox, as far as the delivery offset says."""
        with _translated_errors():
            self._client.set_experiment_tag(self._id, _outbox_tag(outbox_id), "sent here")

    def deliver(self, batch: Sequence[Entry]) -> None:
        """Apply a batch of entries, as cut by `batch_length`.

        Raises:
            StoreUnavailable: any part of the batch may have been applied; deliver it again.
            WriteRefused: at least one entry can never be applied.
        """
        first = batch[0]
        with _translated_errors():
            match first["do"]:
                case "journal":
                    pass  # the header of the outbox
                case "describe":
                    for name, value in first["tags"].items():
                        if name not in self._editable:
                            self._client.set_experiment_tag(self._id, name, value)
                case "run" | "write":
                    self._write(batch)
                case "file":
                    self._attach(self._run_id(first["run"]), first)
                case "end":
                    run = self._run_id(first["run"])
                    self._client.set_terminated(run, status=first["status"], end_time=first["at"])

    def reconcile(self) -> None:
        """Delete the duplicates of runs that were created twice because the first answer was lost."""
        with _translated_errors():
            for key in sorted(self._doubtful):
                self._find(key)

    def _write(self, batch: Sequence[Entry]) -> None:
        """Create the batch's run if its first entry asks for that, and log all params, tags and metrics."""
        run = None
        tags: dict[str, str] = {}
        params: dict[str, str] = {}
        metrics: list[Metric] = []
        for entry in batch:
            if entry["do"] == "run" and self._create(entry):
                run = self._ids[entry["run"]]  # created with its tags
            else:
                tags |= {name: text for name, text in entry.get("tags", {}).items() if name != NOTE_TAG}
            params = entry.get("params", {}) | params  # MLflow refuses to change a parameter, so the first value stays
            metrics += [Metric(name, v, entry["at"], entry["step"]) for name, v in entry.get("metrics", {}).items()]
        run = run or self._run_id(batch[0]["run"])
        for call in _calls(
            params=[Param(*item) for item in params.items()],
            tags=[RunTag(*item) for item in tags.items()],
            metrics=metrics,
        ):
            self._client.log_batch(run, **call)

    def _create(self, entry: Entry) -> bool:
        """Create the entry's run unless it exists; returns whether it was created."""
        key = entry["run"]
        # An experiment that this process created has only this process's runs, so there is nothing to look up.
        if key in self._ids or ((not self._created_here or key in self._doubtful) and self._find(key) is not None):
            return False
        parent = {} if entry["parent"] is None else {"mlflow.parentRunId": self._run_id(entry["parent"])}
        tags = {**entry["tags"], **parent, "key": key}
        try:
            created = self._client.create_run(self._id, start_time=entry["at"], run_name=entry["name"], tags=tags)
        except BaseException:
            self._doubtful.add(key)  # the request may have arrived, or may arrive later
            raise
        self._ids[key] = created.info.run_id
        return True

    def _run_id(self, key: str) -> str:
        run_id = self._ids.get(key) or self._find(key)
        if run_id is None:
            raise WriteRefused(f"its run ({key}) was deleted from the experiment")
        return run_id

    def _find(self, key: str) -> str | None:
        """The run with the key. Of several, the one in use or else the first stays, and the others are deleted."""
        matches = self._client.search_runs([self._id], f"tags.key = '{key}'")
        if not matches:
            return None
        runs = sorted((run.info.start_time, run.info.run_id) for run in matches)
        kept: str = self._ids.setdefault(key, runs[0][1])
        for _, run_id in runs:
            if run_id != kept:
                self._client.delete_run(run_id)
        return kept

    def _attach(self, run: str, entry: Entry) -> None:
        path = self._output / entry["path"]
        if not path.is_file():
            raise WriteRefused(f"{path} no longer exists")
        _log_artifact(self._client, run, path)


def _log_artifact(client: MlflowClient, run: str, path: Path) -> None:
    """Raises MlflowException, OSError: the store does not take the file."""
    try:
        client.log_artifact(run, str(path))
    except RuntimeError as error:
        if not str(error).startswith("Symlink loop"):  # pathlib's before Python 3.13; from then on it is an OSError
            raise
        raise OSError(str(error)) from error


def _check_file(uri: str) -> None:
    """Refuse the file of an SQLite store that cannot be opened: MLflow itself would try for almost two minutes.

    Raises:
        OSError, StoreUnavailable: it is damaged, locked or no file.
    """
    file = file_of(uri)
    if file is None:
        return
    try:
        file.stat()
    except FileNotFoundError:
        return  # MLflow creates it
    try:
        check_readable(file)
    except ValueError as error:
        raise StoreUnavailable(str(error)) from None


def attach_report(
    uri: str, experiment: str, *, report: Path, exports: Path, source: Mapping[str, str] | None = None
) -> None:
    """Attach the report and the folder of its charts and tables to the experiment's one run of kind "report".

    MLflow keeps artifacts with runs, not with experiments. The report is made from what MLflow holds, so it does not go through
    the outbox. `source` are tags of the run, if it is new. Does nothing where the experiment does not exist.

    Raises:
        MlflowException, OSError: the store does not take it.
    """
    client = MlflowClient(tracking_uri=uri)
    stored = client.get_experiment_by_name(experiment)
    if stored is None:
        return
    runs = client.search_runs([stored.experiment_id], "tags.key = 'report'", max_results=1)
    tags = {"kind": "report", "key": "report", NOTE_TAG: REPORT_NOTE}
    tags |= {name: redacted(value) for name, value in (source or {}).items()}
    run = runs[0] if runs else client.create_run(stored.experiment_id, run_name="report", tags=tags)
    _log_artifact(client, run.info.run_id, report)
    if exports.is_dir():
        client.log_artifacts(run.info.run_id, str(exports), exports.name)
    client.set_terminated(run.info.run_id)


def batch_length(entries: Sequence[Entry]) -> int:
    """How many of the entries, from the first on, are delivered together: the creation of a run and writes to it."""
    first = entries[0]
    if first["do"] not in ("run", "write"):
        return 1
    length = 1
    while length < len(entries) and entries[length]["do"] == "write" and entries[length]["run"] == first["run"]:
        length += 1
    return length


def _calls(
    *, params: Sequence[Param], tags: Sequence[RunTag], metrics: Sequence[Metric]
) -> list[dict[str, Sequence[Any]]]:
    """The arguments of as few `log_batch` calls as MLflow's limits allow."""
    calls: list[dict[str, Sequence[Any]]] = [
        *({"params": part} for part in _cut(params, PARAMS_A_CALL)),
        *({"tags": part} for part in _cut(tags, TAGS_A_CALL)),
        *({"metrics": part} for part in _cut(metrics, METRICS_A_CALL)),
    ]
    merged = {name: part for call in calls for name, part in call.items()}
    all_in_one = len(merged) == len(calls) > 1 and sum(len(part) for part in merged.values()) <= METRICS_A_CALL
    return [merged] if all_in_one else calls


def _cut(items: Sequence[Any], size: int) -> Iterable[Sequence[Any]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def _outbox_tag(outbox_id: str) -> str:
    return f"{OUTBOX_TAG}{outbox_id[:12]}"


@contextmanager
def _translated_errors() -> Iterator[None]:
    """Raise MLflow's errors as this module's. Their texts may contain the URI's password: they are redacted, without cause."""
    try:
        yield
    except MlflowException as error:
        refused = error.error_code in _REFUSALS or (
            isinstance(error, RestException) and error.get_http_status_code() in _REFUSING_STATUS
        )
        raise (WriteRefused if refused else StoreUnavailable)(_summary(error)) from None
    except requests.HTTPError as error:
        status = None if error.response is None else error.response.status_code
        raise (WriteRefused if status in _REFUSING_STATUS else StoreUnavailable)(_summary(error)) from None
    except (
        SQLAlchemyError,
        sqlite3.Error,
        OSError,
        ImportError,
    ) as error:  # the last for a database without its driver
        raise StoreUnavailable(_summary(error)) from None


def _summary(error: Exception) -> str:
    text = " ".join(str(error).split())
    _, nested, cause = text.partition("(Caused by ")  # urllib3's reason, inside requests' message, inside MLflow's
    return redacted(cause.removesuffix(")") if nested else text)[:400]
