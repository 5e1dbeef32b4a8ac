"""Links into MLflow's UI: the runs table in a saved view, and the page that compares the benchmarks."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from urllib.parse import urlencode

from analysis.store.runs import StoredRun, fetch_study
from study.tracking.views import BEST_VIEW, TRIAL_VIEW, VIEW_TAG, View

# MLflow 3.17 ignores the experiment's kind: it opens GenAI pages unless the link, or the switch in its menu, says otherwise.
TRAINING_PAGES = {"workflowType": "machine_learning"}


def links(uri: str, *, address: str) -> dict[str, str]:
    """Links into the UI at the address, by what they show, for the study in the store; none if there is no such study."""
    try:
        _, experiment, runs = fetch_study(uri, None)
    except ValueError:
        return {}
    found = {view.name: runs_page(experiment.experiment_id, experiment.tags, view) for view in (BEST_VIEW, TRIAL_VIEW)}
    best = best_runs(runs)
    if len(best) > 1:
        found[f"The {best[0].tags['kind']}s side by side"] = compare_page(experiment.experiment_id, best)
    return {shown: f"{address}/#{page}" for shown, page in found.items()}


def runs_page(experiment_id: str, tags: Mapping[str, str], view: View) -> str:
    """The experiment's runs table in a view. A store of an earlier version lacks the view: it gets a filter, but no columns."""
    if VIEW_TAG + view.key in tags:
        query = {"viewStateShareKey": view.key}
    else:
        kind = "benchmark" if view is BEST_VIEW else "trial"
        query = {"searchFilter": f"tags.kind = '{kind}'", "orderByKey": view.order_by, "orderByAsc": "false"}
    return f"/experiments/{experiment_id}/runs?{urlencode({**query, **TRAINING_PAGES})}"


def compare_page(experiment_id: str, runs: Sequence[StoredRun]) -> str:
    """The page that compares runs."""
    query = {"runs": json.dumps([run.run_id for run in runs]), "experiments": json.dumps([experiment_id])}
    return f"/compare-runs?{urlencode({**query, **TRAINING_PAGES})}"


def best_runs(runs: Sequence[StoredRun]) -> list[StoredRun]:
    """The benchmarks of the sizes' best models, which hold their scores too; without any, the best trials."""
    by_key = {run.tags.get("key", ""): run for run in runs if run.metrics}
    sizes = [run.tags for run in runs if run.tags.get("kind") == "size"]
    benchmarks = [key for tags in sizes for tag, key in tags.items() if tag.startswith("benchmark:")]
    trials = [f"trial:{tags['size']}:{tags.get('best_trial')}" for tags in sizes]
    return _known(by_key, benchmarks) or _known(by_key, trials)


def _known(runs: Mapping[str, StoredRun], keys: Sequence[str]) -> list[StoredRun]:
    return [runs[key] for key in keys if key in runs]
