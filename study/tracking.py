"""MLflow: one experiment a study, one parent run a size, trials and benchmarks its children. Only the driver writes.

Runs are found by tag before they are made, so that the same command run again adds nothing.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path

# A tracking server that does not answer must not hold a sweep for MLflow's default of four minutes a call.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.utils.time import get_current_time_millis

Value = str | float | int | None


def default_uri(output: Path) -> str:
    """A SQLite store in the output folder, by absolute path: Ray changes the working directory of its workers."""
    return f"sqlite:///{output.resolve() / 'mlflow.db'}"


class TrackingUnavailable(RuntimeError):
    """The tracking store cannot be reached or written."""


class Tracking:
    """Writes one study's runs; every method may be called again with the same values."""

    def __init__(self, uri: str, experiment: str, artifacts: Path) -> None:
        """Open the store and make the experiment if it is new.

        Raises:
            TrackingUnavailable: the store does not answer.
        """
        self.uri, self.experiment = uri, experiment
        try:
            self._client = MlflowClient(tracking_uri=uri)
            found = self._client.get_experiment_by_name(experiment)
            # A database of our own keeps artifacts beside it; a server decides where they go.
            place = artifacts.resolve().as_uri() if uri.startswith("sqlite:") else None
            self.experiment_id = found.experiment_id if found else self._client.create_experiment(experiment, place)
        except (MlflowException, OSError) as error:
            raise TrackingUnavailable(f"no MLflow store at {uri}: {error}") from error

    def describe(self, tags: Mapping[str, object]) -> None:
        """Tag the experiment: command, versions, hardware. Values that are no strings are written as JSON."""
        for name, value in tags.items():
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            self._client.set_experiment_tag(self.experiment_id, name, text)

    def size(self, name: str) -> str:
        """The parent run of a size."""
        return self._run(f"size:{name}", name, {"kind": "size", "size": name})

    def trial(self, size: str, trial_id: str, *, default_cell: bool, params: Mapping[str, Value]) -> str:
        """The run of a trial, a child of its size's run. Conditional parameters that do not apply read "none"."""
        tags = {
            "kind": "trial",
            "size": size,
            "trial_id": trial_id,
            "default_cell": str(default_cell).lower(),
            "mlflow.parentRunId": self.size(size),
        }
        run = self._run(f"trial:{size}:{trial_id}", f"{size} {params['intermediate']}", tags)
        known = self._client.get_run(run).data.params
        missing = [
            Param(name, "none" if value is None else str(value)) for name, value in params.items() if name not in known
        ]
        self._client.log_batch(run, params=missing)
        return run

    def benchmark(self, size: str, variant: str, tags: Mapping[str, str]) -> str:
        """The run of a benchmark, a child of its size's run."""
        everything = {
            "kind": "benchmark",
            "size": size,
            "variant": variant,
            "mlflow.parentRunId": self.size(size),
            **tags,
        }
        return self._run(f"benchmark:{size}:{variant}", f"{size} {variant}", everything)

    def report(self) -> str:
        """The run that holds the experiment's report: MLflow keeps artifacts with runs, and not with experiments."""
        return self._run("report", "report", {"kind": "report"})

    def metrics(self, run: str, metrics: Mapping[str, Value], step: int = 0) -> None:
        """Log finite numbers at a step; what is not finite becomes a tag `unavailable:<metric>`."""
        now = get_current_time_millis()
        finite = {name: float(v) for name, v in metrics.items() if isinstance(v, (int, float)) and math.isfinite(v)}
        broken = {name: str(v) for name, v in metrics.items() if isinstance(v, float) and not math.isfinite(v)}
        logged = [Metric(name, value, now, step) for name, value in finite.items()]
        for start in range(0, len(logged), 1000):  # the server takes 1,000 a batch
            self._client.log_batch(run, metrics=logged[start : start + 1000])
        self.tags(run, {f"unavailable:{name}": value for name, value in broken.items()})

    def holds(self, run: str, metric: str, value: Value) -> bool:
        """Whether the run's latest value of a metric is this one."""
        held: float | None = self._client.get_run(run).data.metrics.get(metric)
        return held is not None and held == value

    def tag(self, run: str, name: str) -> str | None:
        """The value of a tag."""
        value: str | None = self._client.get_run(run).data.tags.get(name)
        return value

    def tags(self, run: str, tags: Mapping[str, str]) -> None:
        if tags:
            self._client.log_batch(run, tags=[RunTag(name, value) for name, value in tags.items()])

    def finish(self, run: str, status: str = "FINISHED") -> None:
        """Close a run as FINISHED, FAILED or KILLED."""
        self._client.set_terminated(run, status=status)

    def artifact(self, run: str, path: Path) -> None:
        """Attach a file."""
        self._client.log_artifact(run, str(path))

    def artifacts(self, run: str, folder: Path) -> None:
        """Attach a folder's files, under its name."""
        self._client.log_artifacts(run, str(folder), folder.name)

    def runs(self) -> int:
        """How many runs the experiment holds."""
        token, count = None, 0
        while True:
            page = self._client.search_runs([self.experiment_id], max_results=1000, page_token=token)
            count, token = count + len(page), page.token
            if not token:
                return count

    def _run(self, key: str, name: str, tags: Mapping[str, str]) -> str:
        found = self._client.search_runs([self.experiment_id], f"tags.key = '{key}'", max_results=1)
        if found:
            run_id: str = found[0].info.run_id
            self.tags(run_id, tags)
            return run_id
        created = self._client.create_run(self.experiment_id, run_name=name, tags={**tags, "key": key})
        new_id: str = created.info.run_id
        return new_id
