"""One study's MLflow runs as tidy tables."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.entities import Experiment, Run
from mlflow.tracking import MlflowClient

NONE = "none"
MEAN = "mean"
MEAN_WITHOUT_ENGLISH = "mean without en"
AGGREGATES = (MEAN, MEAN_WITHOUT_ENGLISH)

BENCH_METRICS = ("p50_ms", "p90_ms", "p99_ms", "throughput_sps", "peak_memory_mb", "energy_j_per_sample")

_SIZES = {
    "size": "str",
    "params_m": "float64",
    "params_body_m": "float64",
    "trials": "Int64",
    "pruned": "Int64",
    "failed": "Int64",
    "wall_s": "float64",
    "best_trial": "str",
}
_TRIALS = {
    "size": "str",
    "trial_id": "str",
    "intermediate": "str",
    "lr_intermediate": "float64",
    "lr_target": "float64",
    "seed": "Int64",
    "outcome": "str",
    "default_cell": "bool",
    "dev_score": "float64",
    "test_score": "float64",
    "targets_finished": "Int64",
    "reason": "str",
}
_SCORES = {
    "size": "str",
    "trial_id": "str",
    "intermediate": "str",
    "default_cell": "bool",
    "outcome": "str",
    "task": "str",
    "split": "str",
    "language": "str",
    "value": "float64",
    "chance": "float64",
}
_BENCHMARKS = {
    "size": "str",
    "variant": "str",
    "trial_id": "str",
    "hardware": "str",
    **dict.fromkeys(BENCH_METRICS, "float64"),
    "test_score": "float64",
    "params_m": "float64",
    "params_body_m": "float64",
    "task_scores": "object",
    "unavailable": "object",
    "interference": "str",
}
_CONTEXT = ("command", "hardware", "precision", "seed", "selection")
_CONTEXT_JSON = {
    **dict.fromkeys(("targets", "intermediates"), list),
    **dict.fromkeys(("versions", "marks", "languages", "protocols", "data"), dict),
}


@dataclass(frozen=True)
class StudyFrames:
    """One study. Scores are percent, latencies milliseconds, memory megabytes, energy joules a sample, sizes millions.

    `sizes`: a row a size, smallest first. `trials`: a row a trial; `outcome` is "complete", "stopped_early", "failed"
    or "unfinished", and `dev_score`/`test_score` are means over the `targets_finished`. `scores`: a row a trial, task,
    split and language; `language` is a code, or one of `AGGREGATES` for a mean over languages (every dev row is such a
    mean). `benchmarks`: a row a benchmark; `task_scores` maps task to percent, `unavailable` maps metric to reason.
    `context`: what the study recorded of itself, None or empty where it recorded nothing.
    """

    sizes: pd.DataFrame
    trials: pd.DataFrame
    scores: pd.DataFrame
    benchmarks: pd.DataFrame
    context: dict[str, Any]

    @property
    def size_names(self) -> list[str]:
        """Every size that any table names, smallest first."""
        return _unique([*self.sizes["size"], *self.trials["size"], *self.benchmarks["size"]])

    @property
    def targets(self) -> list[str]:
        """Target tasks in the study's order, then any that were scored without being announced."""
        return _unique([*self.context["targets"], *self.scores["task"]])

    def mark(self, intermediate: str, target: str) -> str:
        """ "same data" or "leak" where a gain of that pair is no transfer, else ""."""
        return str(self.context["marks"].get(intermediate, {}).get(target, ""))

    @property
    def intermediates(self) -> list[str]:
        """Intermediate tasks in the study's order, "none" included where it was tried."""
        return _unique([*self.context["intermediates"], *self.trials["intermediate"]])


def load(tracking_uri: str, experiment: str | None = None) -> StudyFrames:
    """Read one study; without `experiment`, the only one there is.

    Raises ValueError when the store or the experiment does not exist, when several could be meant, or when a recorded
    value does not parse. An experiment without runs gives tables with their columns and no rows.
    """
    client = MlflowClient(tracking_uri=_existing(tracking_uri))
    chosen = _choose(list(_pages(client.search_experiments)), experiment)
    runs = _pages(
        client.search_runs,
        experiment_ids=[chosen.experiment_id],
        max_results=1000,
        order_by=["attributes.start_time ASC"],
    )
    by_kind: dict[str, list[Run]] = {"size": [], "trial": [], "benchmark": []}
    for run in runs:
        by_kind.setdefault(run.data.tags.get("kind", ""), []).append(run)

    sizes = _frame((_size_row(run) for run in by_kind["size"]), _SIZES).sort_values(["params_m", "size"], kind="stable")
    rank = {name: position for position, name in enumerate(sizes["size"])}
    tables = (
        _frame((_trial_row(run) for run in by_kind["trial"]), _TRIALS),
        _frame((row for run in by_kind["trial"] for row in _score_rows(run)), _SCORES),
        _frame((_benchmark_row(run) for run in by_kind["benchmark"]), _BENCHMARKS),
    )
    trials, scores, benchmarks = (_by_size(table, rank) for table in tables)
    return StudyFrames(
        sizes=sizes.reset_index(drop=True),
        trials=trials,
        scores=scores,
        benchmarks=benchmarks,
        context=_context(chosen),
    )


def _existing(tracking_uri: str) -> str:
    """The URI itself; MLflow would create an SQLite file that is not there, and the mistake would read as "empty"."""
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
    names = sorted(repr(found.name) for found in experiments)
    if name is not None:
        for found in experiments:
            if found.name == name:
                return found
        raise ValueError(f"no MLflow experiment named {name!r}; the store has {', '.join(names) or 'none'}")
    studies = [found for found in experiments if any(tag.startswith("study.") for tag in found.tags)]
    if len(studies) == 1:
        return studies[0]
    if studies:
        raise ValueError(f"{len(studies)} studies in the store, name one of {', '.join(repr(s.name) for s in studies)}")
    raise ValueError(f"no study in the store (its experiments: {', '.join(names) or 'none'}); run one first")


def _context(experiment: Experiment) -> dict[str, Any]:
    tags = experiment.tags
    context: dict[str, Any] = {"experiment": experiment.name}
    context |= {key: tags.get(f"study.{key}") for key in _CONTEXT}
    for key, kind in _CONTEXT_JSON.items():
        text = tags.get(f"study.{key}")
        try:
            value = kind() if text is None else json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"experiment tag study.{key} of {experiment.name!r} is not JSON: {text!r}") from error
        if not isinstance(value, kind):
            raise ValueError(
                f"experiment tag study.{key} of {experiment.name!r} must be a JSON {kind.__name__}: {text!r}"
            )
        context[key] = value
    return context


def _size_row(run: Run) -> dict[str, Any]:
    tags, metrics = run.data.tags, run.data.metrics
    return {column: metrics.get(column) for column in _SIZES} | {
        "size": tags.get("size", ""),
        "best_trial": tags.get("best_trial", ""),
    }


def _trial_key(run: Run) -> dict[str, Any]:
    tags = run.data.tags
    return {
        "size": tags.get("size", ""),
        "trial_id": tags.get("trial_id", ""),
        "intermediate": run.data.params.get("intermediate", ""),
        "default_cell": tags.get("default_cell") == "true",
        "outcome": tags.get("outcome", "unfinished"),
    }


def _trial_row(run: Run) -> dict[str, Any]:
    metrics = run.data.metrics
    numbers = {name: _number(run, name) for name in ("lr_intermediate", "lr_target", "seed")}
    return (
        _trial_key(run)
        | numbers
        | {
            "dev_score": metrics.get("dev/score"),
            "test_score": metrics.get("test/score"),
            "targets_finished": metrics.get("targets_finished"),
            "reason": run.data.tags.get("reason", ""),
        }
    )


def _score_rows(run: Run) -> Iterator[dict[str, Any]]:
    key, metrics = _trial_key(run), run.data.metrics
    for name, value in metrics.items():
        split, _, rest = name.partition("/")
        if split not in ("dev", "test", "test_without_english") or rest in ("", "score"):
            continue
        task, _, language = rest.partition("/")
        if split == "test_without_english":
            split, language = "test", MEAN_WITHOUT_ENGLISH
        yield key | {
            "task": task,
            "split": split,
            "language": language or MEAN,
            "value": value,
            "chance": metrics.get(f"chance/{task}"),
        }


def _benchmark_row(run: Run) -> dict[str, Any]:
    tags, metrics = run.data.tags, run.data.metrics
    tasks = {
        name.removeprefix("test/"): value
        for name, value in metrics.items()
        if name.startswith("test/") and name != "test/score" and name.count("/") == 1
    }
    reasons = {
        name.removeprefix("unavailable:").removeprefix("bench/"): reason
        for name, reason in tags.items()
        if name.startswith("unavailable:")
    }
    return (
        {name: tags.get(name, "") for name in ("size", "variant", "trial_id", "hardware", "interference")}
        | {name: metrics.get(f"bench/{name}") for name in BENCH_METRICS}
        | {name: metrics.get(name) for name in ("params_m", "params_body_m")}
        | {"test_score": metrics.get("test/score"), "task_scores": tasks, "unavailable": reasons}
    )


def _number(run: Run, name: str) -> float | None:
    text = run.data.params.get(name, NONE)
    try:
        return None if text.lower() == NONE else float(text)
    except ValueError as error:
        raise ValueError(f"run {run.info.run_id}: param {name} must be a number or {NONE!r}, got {text!r}") from error


def _frame(rows: Iterable[Mapping[str, Any]], dtypes: Mapping[str, str]) -> pd.DataFrame:
    return pd.DataFrame(list(rows), columns=list(dtypes)).astype(dict(dtypes))


def _by_size(table: pd.DataFrame, rank: Mapping[str, int]) -> pd.DataFrame:
    order = [rank.get(size, len(rank)) for size in table["size"]]
    return table.assign(_order=order).sort_values("_order", kind="stable").drop(columns="_order").reset_index(drop=True)


def _unique(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))
