"""One MLflow store that takes journal entries. Every delivery may be repeated: nothing is doubled.

Runs are found by their `key` tag before they are made. Metrics carry the step and time of what happened, and the store keeps
one of two equal points; tags, status and files are what was written last.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# A call must end: MLflow's default is four minutes with its repetitions.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
# MLflow's own repetition sends a request to make a run again whose answer was lost, and there are two. The courier looks first.
os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
# Else every finished run costs one more call and a line on standard output, with the password of the URI in it.
os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"

import requests
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException, RestException
from sqlalchemy.exc import SQLAlchemyError

from study.redact import redacted
from study.tracking.outbox import Entry, folder_id

FOLDER, JOURNAL = "study.folder", "study.journal."  # tags of the experiment: whose it is, and which journals it knows
METRICS_A_CALL, PARAMS_A_CALL, TAGS_A_CALL = 800, 100, 100  # the server takes 1,000 of all together
_REFUSALS = {"INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS"}
_REFUSING_STATUS = {400, 413, 415, 422}

logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)  # a line for every table it makes


class StoreUnavailable(RuntimeError):
    """The store does not answer, or lets nobody in; later it may."""


class Taken(RuntimeError):
    """The experiment of that name is another output folder's."""


class Refused(RuntimeError):
    """The store answered that it does not take this write, and would say so again."""


class MlflowStore:
    """Used by one thread at a time."""

    def __init__(self, uri: str, experiment: str, output: Path) -> None:
        self.uri, self._name, self._output = uri, experiment, output
        self._ids: dict[str, str] = {}
        self._doubtful: set[str] = set()
        self._fresh = False

    def open(self, journal: str) -> bool:
        """Connect, and make the experiment if it is new; whether it is marked with the journal's id.

        Runs are found by their keys, which two folders share whose studies have one name: an experiment belongs to one folder.

        Raises:
            StoreUnavailable: it does not answer, lets nobody in, or the experiment was deleted.
            Taken: the experiment is another folder's; nothing was written.
        """
        with _translated():
            folder = folder_id(self._output)
            self._client = MlflowClient(tracking_uri=self.uri)
            found = self._client.get_experiment_by_name(self._name)
            if found is not None and found.lifecycle_stage == "deleted":
                raise StoreUnavailable(f"its experiment {self._name!r} is deleted: restore it, or delete it for good")
            # A database of our own keeps artifacts beside it; a server decides where they go.
            place = (self._output / "artifacts").resolve().as_uri() if self.uri.startswith("sqlite:") else None
            self._fresh = found is None
            if found is None:
                self._id = self._client.create_experiment(self._name, place, tags={FOLDER: folder})
                return False
            known, owner = _mark(journal) in found.tags, found.tags.get(FOLDER)
            held = owner is not None or any(tag.startswith(JOURNAL) for tag in found.tags)
            if held and not known and owner != folder:
                raise Taken(
                    f"its experiment {self._name!r} holds the study of another output folder, and results of two would be "
                    "mixed. Give this study another name or another --tracking-uri, or rename that experiment or delete it "
                    "for good"
                )
            self._id = found.experiment_id
            if owner is None:
                self._client.set_experiment_tag(self._id, FOLDER, folder)
            return known

    def mark(self, journal: str) -> None:
        """Note that the experiment has what the journal's receipt says it has."""
        with _translated():
            self._client.set_experiment_tag(self._id, _mark(journal), "sent here")

    def deliver(self, entries: Sequence[Entry]) -> None:
        """Apply entries that go together: see `together`.

        Raises:
            StoreUnavailable: nothing is known of what was applied; deliver them again.
            Refused: some of them can never be applied.
        """
        first = entries[0]
        with _translated():
            match first["do"]:
                case "journal":
                    pass  # its first line, which says what it is
                case "describe":
                    for name, value in first["tags"].items():
                        self._client.set_experiment_tag(self._id, name, value)
                case "run" | "write":
                    self._write(entries)
                case "file":
                    self._attach(self._run_id(first["run"]), first)
                case "end":
                    run = self._run_id(first["run"])
                    self._client.set_terminated(run, status=first["status"], end_time=first["at"])

    def reconcile(self) -> None:
        """A run that was made twice, because the answer to the first request was lost, is left once."""
        with _translated():
            for key in sorted(self._doubtful):
                self._find(key)

    def _write(self, entries: Sequence[Entry]) -> None:
        tags: dict[str, str] = {}
        params: dict[str, str] = {}
        metrics: list[Metric] = []
        run = None
        for entry in entries:
            if entry["do"] == "run" and self._make(entry):
                run = self._ids[entry["run"]]  # made with its tags
            else:
                tags |= entry.get("tags", {})
            params = entry.get("params", {}) | params  # a parameter keeps its first value
            metrics += [Metric(name, v, entry["at"], entry["step"]) for name, v in entry.get("metrics", {}).items()]
        run = run or self._run_id(entries[0]["run"])
        pieces = [
            *({"params": some} for some in _cut([Param(*item) for item in params.items()], PARAMS_A_CALL)),
            *({"tags": some} for some in _cut([RunTag(*item) for item in tags.items()], TAGS_A_CALL)),
            *({"metrics": some} for some in _cut(metrics, METRICS_A_CALL)),
        ]
        whole = {name: some for piece in pieces for name, some in piece.items()}
        # One call for all, where that leaves out no piece.
        if len(whole) == len(pieces) > 1 and sum(len(some) for some in whole.values()) <= METRICS_A_CALL:
            pieces = [whole]
        for piece in pieces:
            self._client.log_batch(run, **piece)

    def _make(self, entry: Entry) -> bool:
        """Make the entry's run unless it is there; whether it was made."""
        key = entry["run"]
        # In an experiment that this process has made, what it has not made itself is not there.
        if key in self._ids or ((not self._fresh or key in self._doubtful) and self._find(key) is not None):
            return False
        parent = {} if entry["parent"] is None else {"mlflow.parentRunId": self._run_id(entry["parent"])}
        tags = {**entry["tags"], **parent, "key": key}
        try:
            created = self._client.create_run(self._id, start_time=entry["at"], run_name=entry["name"], tags=tags)
        except BaseException:
            self._doubtful.add(key)  # the request may have arrived, or may still
            raise
        self._ids[key] = created.info.run_id
        return True

    def _run_id(self, key: str) -> str:
        found = self._ids.get(key) or self._find(key)
        if found is None:
            raise Refused(f"its run ({key}) is not in the experiment any more")
        return found

    def _find(self, key: str) -> str | None:
        """The run with the key; of several the one in use or the first, and the others are deleted."""
        found = self._client.search_runs([self._id], f"tags.key = '{key}'")
        if not found:
            return None
        runs = sorted((run.info.start_time, run.info.run_id) for run in found)
        kept: str = self._ids.setdefault(key, runs[0][1])
        for _, run_id in runs:
            if run_id != kept:
                self._client.delete_run(run_id)
        return kept

    def _attach(self, run: str, entry: Entry) -> None:
        path = self._output / entry["path"]
        if not path.is_file():
            raise Refused(f"{path} is gone")
        self._client.log_artifact(run, str(path))


def together(entries: Sequence[Entry]) -> int:
    """How many of the entries, from the first on, one delivery takes: a run's making and writes that follow each other."""
    first = entries[0]
    if first["do"] not in ("run", "write"):
        return 1
    count = 1
    while count < len(entries) and entries[count]["do"] == "write" and entries[count]["run"] == first["run"]:
        count += 1
    return count


def _mark(journal: str) -> str:
    return f"{JOURNAL}{journal[:12]}"


def _cut(items: Sequence[Any], size: int) -> Iterable[Sequence[Any]]:
    return (items[start : start + size] for start in range(0, len(items), size))


@contextmanager
def _translated() -> Iterator[None]:
    """MLflow's errors as ours. Their texts may hold the password of the URI, so they are redacted and the cause is dropped."""
    try:
        yield
    except MlflowException as error:
        refused = error.error_code in _REFUSALS or (
            isinstance(error, RestException) and error.get_http_status_code() in _REFUSING_STATUS
        )
        raise (Refused if refused else StoreUnavailable)(_brief(error)) from None
    except requests.HTTPError as error:
        status = None if error.response is None else error.response.status_code
        raise (Refused if status in _REFUSING_STATUS else StoreUnavailable)(_brief(error)) from None
    except (SQLAlchemyError, OSError) as error:
        raise StoreUnavailable(_brief(error)) from None


def _brief(error: Exception) -> str:
    text = " ".join(str(error).split())
    _, nested, cause = text.partition("(Caused by ")  # urllib3's own reason, inside requests', inside MLflow's
    return redacted(cause.removesuffix(")") if nested else text)[:400]
