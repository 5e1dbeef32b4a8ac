"""Reads trials and runs where a study keeps them: trial store, outbox, MLflow."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from mlflow import MlflowClient

from study.search.callback import mlflow_metrics
from study.search.journal import JOURNAL, open_journal
from study.search.trial_store import stored_searches
from study.tracking.outbox import FOLDER, read_tags
from tests.support.chaos.evidence import StoredTrial, TrackedRun


def stored_trials(output: Path) -> tuple[StoredTrial, ...]:
    """The finished trials of the trial store. Reads a copy: opening a trial store mends it."""
    if not (output / JOURNAL).exists():
        return ()
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(output / JOURNAL, folder)
        searches = stored_searches(open_journal(Path(folder)))
    return tuple(
        StoredTrial(
            *(size, trial.trial_id, json.dumps(asdict(trial.choice), sort_keys=True), trial.outcome.tag),
            scores={name: value for name, value in mlflow_metrics(trial.metrics).items() if "/" in name},
        )
        for size, search in searches.items()
        for trial in search.trials
    )


def outbox_runs(output: Path) -> tuple[TrackedRun, ...]:
    return tuple(TrackedRun(_key(tags), tags["kind"], tags.get("outcome", "")) for tags in read_tags(output / FOLDER))


def mlflow_runs(uri: str, experiment: str) -> tuple[TrackedRun, ...]:
    """The runs that are not deleted."""
    client = MlflowClient(tracking_uri=uri)
    found = client.get_experiment_by_name(experiment)
    runs = [] if found is None else client.search_runs([found.experiment_id], max_results=1000)
    return tuple(
        TrackedRun(
            *(run.data.tags["key"], run.data.tags["kind"], run.data.tags.get("outcome", "")),
            scores=dict(run.data.metrics),
        )
        for run in runs
    )


def _key(tags: Mapping[str, str]) -> str:
    return ":".join([tags["kind"], tags["size"], *([tags["trial_id"]] if tags["kind"] == "trial" else [])])
