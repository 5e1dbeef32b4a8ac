"""Links into MLflow's UI: the runs table in a saved view, and the page that compares the benchmarks."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from urllib.parse import urlencode

from mlflow import MlflowClient
from mlflow.entities import Experiment, Run
from mlflow.exceptions import MlflowException

from study.tracking.views import BEST_VIEW, TRIAL_VIEW, VIEW_TAG, View

# MLflow 3.17 ignores the experiment's kind: it opens GenAI pages unless the link, or the switch in its menu, says otherwise.
TRAINING_PAGES = {"workflowType": "machine_learning"}


def links(uri: str, *, address: str) -> dict[str, str]:
    """Links into the UI at the address, by what they show, for every study in the store; none if it cannot be read."""
    client = MlflowClient(tracking_uri=uri)
    try:
        found: dict[str, str] = {}
        for experiment in client.search_experiments():
            if any(tag.startswith("study.") for tag in experiment.tags):
                found |= _links(client, experiment, address)
    except MlflowException:
        return {}
    return found


def _links(client: MlflowClient, experiment: Experiment, address: str) -> dict[str, str]:
    found = {
        f"{experiment.name}: {view.name.lower()}": f"{address}/#{runs_page(experiment, view)}"
        for view in (BEST_VIEW, TRIAL_VIEW)
    }
    best = best_runs(client, experiment.experiment_id)
    if len(best) > 1:
        runs = [run.info.run_id for run in best]
        what = f"{experiment.name}: {best[0].data.tags['kind']}s side by side"
        found[what] = f"{address}/#{compare_page(experiment.experiment_id, runs)}"
    return found


def runs_page(experiment: Experiment, view: View) -> str:
    """The experiment's runs table in a view. A store of an earlier version lacks the view: it gets a filter, but no columns."""
    if VIEW_TAG + view.key in experiment.tags:
        query = {"viewStateShareKey": view.key}
    else:
        kind = "benchmark" if view is BEST_VIEW else "trial"
        query = {"searchFilter": f"tags.kind = '{kind}'", "orderByKey": view.order_by, "orderByAsc": "false"}
    return f"/experiments/{experiment.experiment_id}/runs?{urlencode({**query, **TRAINING_PAGES})}"


def compare_page(experiment_id: str, runs: Sequence[str]) -> str:
    """The page that compares runs."""
    query = {"runs": json.dumps(runs), "experiments": json.dumps([experiment_id])}
    return f"/compare-runs?{urlencode({**query, **TRAINING_PAGES})}"


def best_runs(client: MlflowClient, experiment_id: str) -> list[Run]:
    """The benchmarks of the sizes' best models, which hold their scores too; without any, the best trials."""
    sizes = client.search_runs([experiment_id], "tags.kind = 'size'", order_by=["attributes.start_time ASC"])
    for keys in ([key for run in sizes for key in _benchmarks(run)], [_best_trial(run) for run in sizes]):
        matches = [client.search_runs([experiment_id], f"tags.key = '{key}'") for key in keys]
        if runs := [run for match in matches for run in match if run.data.metrics]:
            return runs
    return []


def _benchmarks(size: Run) -> Iterator[str]:
    return (key for tag, key in size.data.tags.items() if tag.startswith("benchmark:"))


def _best_trial(size: Run) -> str:
    return f"trial:{size.data.tags['size']}:{size.data.tags.get('best_trial')}"
