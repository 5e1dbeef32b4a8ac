"""How MLflow's UI shows a study: as model training, and with saved views of the runs table.

A saved view is a tag of the experiment, in the UI's own format (MLflow 3.17): filter, order and columns of the runs table. The
menu *Views* above the table lists it, and a link can name it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

BEST_TAG = "best"  # of a size's best trial and its benchmarks: "true"
KIND_TAG, TRAINING = "mlflow.experimentKind", "custom_model_development"
VIEW_TAG = "mlflow.sharedViewState."  # the start of a tag that is a saved view; then the view's key


@dataclass(frozen=True)
class View:
    """A saved view of the runs table. Columns and the order's key are as in MLflow's filters: "metrics.`dev/score`"."""

    key: str
    name: str
    filter: str
    order_by: str
    columns: tuple[str, ...]

    def as_tag(self) -> dict[str, str]:
        """The experiment's tag, with fixed times: the same view is the same text."""
        state = {
            "searchFilter": self.filter,
            "orderByKey": self.order_by,
            "orderByAsc": False,
            "selectedColumns": list(self.columns),
        }
        view = {"name": self.name, "createdAt": 0, "updatedAt": 0, "state": json.dumps(state)}
        return {VIEW_TAG + self.key: json.dumps(view)}


def _columns(head: str, *names: str) -> tuple[str, ...]:
    return tuple(f"{head}.`{name}`" for name in names)


BEST_VIEW = View(
    "study-best",
    "Best trials and benchmarks",
    f"tags.{BEST_TAG} = 'true'",
    "metrics.`test/score`",
    (
        *_columns("tags", "size", "kind", "variant"),
        *_columns("metrics", "test/score", "params_m", "bench/p50_ms", "bench/p99_ms", "bench/throughput_sps"),
        *_columns("params", "intermediate", "lr_target"),
    ),
)
TRIAL_VIEW = View(
    "study-trials",
    "Trials",
    "tags.kind = 'trial'",
    "metrics.`dev/score`",
    (
        *_columns("tags", "size", "outcome"),
        *_columns("metrics", "dev/score", "test/score", "targets_finished"),
        *_columns("params", "intermediate", "lr_intermediate", "lr_target", "rate_factor", "epochs"),
    ),
)


def ui_tags() -> dict[str, str]:
    """The experiment's tags that only the UI reads."""
    return {KIND_TAG: TRAINING, **BEST_VIEW.as_tag(), **TRIAL_VIEW.as_tag()}
