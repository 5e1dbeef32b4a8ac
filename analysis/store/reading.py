"""Reads one study's MLflow runs into tidy tables."""

from __future__ import annotations

import json
import sqlite3
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import pandas as pd
from mlflow.entities import Experiment
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from analysis.store.examples import Examples, Key
from analysis.store.frames import (
    BENCH_BY_LANGUAGE,
    BENCH_METRICS,
    BENCHMARKS,
    MEAN,
    MEAN_WITHOUT_ENGLISH,
    NONE,
    SCORES,
    SIZES,
    SPEED_BY_LANGUAGE,
    TRIALS,
    StudyFrames,
    frame,
)

EXAMPLES_FILE = "examples.parquet"
_LANGUAGE_OF = {"dev": MEAN, "test": MEAN, "test_without_english": MEAN_WITHOUT_ENGLISH}
_CONTEXT = ("command", "hardware", "precision", "seed", "selection")
_CONTEXT_JSON = {
    **dict.fromkeys(("targets", "intermediates"), list),
    **dict.fromkeys(("versions", "marks", "languages", "protocols", "data", "metrics", "pretraining"), dict),
}


def load(tracking_uri: str, experiment: str | None = None) -> StudyFrames:
    """Read one study; without `experiment`, the only one there is.

    Raises ValueError when the store or the experiment does not exist, when several could be meant, or when a recorded
    value does not parse. An experiment without runs gives tables with their columns and no rows.
    """
    try:
        client = MlflowClient(tracking_uri=_existing(tracking_uri))
        chosen = _choose(list(_pages(client.search_experiments)), experiment)
        runs = _runs(client, tracking_uri, chosen.experiment_id)
    except (MlflowException, OSError) as error:
        raise ValueError(f"no MLflow store that answers at {tracking_uri!r}: {error}") from error
    by_kind: dict[str, list[_Run]] = {kind: [] for kind in ("size", "trial", "repeat", "benchmark")}
    for run in runs:
        by_kind.setdefault(run.tags.get("kind", ""), []).append(run)
    attempts = by_kind["trial"] + by_kind["repeat"]
    trained = [run for run in attempts if not _made_good(run)]

    sizes = frame((_size_row(run) for run in by_kind["size"]), SIZES).sort_values(["params_m", "size"], kind="stable")
    rank = {name: position for position, name in enumerate(sizes["size"])}
    return StudyFrames(
        sizes=sizes.reset_index(drop=True),
        trials=_by_size(_with_default_repeats(frame((_trial_row(run) for run in trained), TRIALS)), rank),
        scores=_by_size(frame((row for run in trained for row in _score_rows(run)), SCORES), rank),
        benchmarks=_by_size(frame((_benchmark_row(run) for run in by_kind["benchmark"]), BENCHMARKS), rank),
        context=_context(chosen),
        speed_by_language=_by_size(
            frame((row for run in by_kind["benchmark"] for row in _speed_rows(run)), SPEED_BY_LANGUAGE), rank
        ),
        examples=Examples(_ExamplesOfRuns(client, {_key(run): run for run in trained + by_kind["benchmark"]})),
        made_good=_by_size(frame((_trial_row(run) for run in attempts if _made_good(run)), TRIALS), rank),
    )


@dataclass
class _Run:
    """What is read of a run; `metrics` are the latest values."""

    run_id: str
    artifact_uri: str
    started: int  # milliseconds since the epoch
    tags: dict[str, str] = field(default_factory=dict)
    params: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)


def _runs(client: MlflowClient, tracking_uri: str, experiment_id: str) -> list[_Run]:
    """The active runs of an experiment, earliest first, and by their key where several began in one millisecond.

    Their ids, which each store draws anew, come last: a study reads the same from its journal and from its server.
    """
    found = _runs_as_stored(client, tracking_uri, experiment_id)
    return sorted(found, key=lambda run: (run.started, run.tags.get("key", ""), run.run_id))


def _runs_as_stored(client: MlflowClient, tracking_uri: str, experiment_id: str) -> list[_Run]:
    """The active runs of an experiment, in any order.

    A store in an SQLite file is read with SQL: MLflow's own way makes an object of every metric, and 5,000 runs of 100
    metrics then take 20 to 30 s instead of one. Where its tables are not those expected, and for servers, MLflow is asked.
    """
    if tracking_uri.startswith("sqlite:///"):
        try:
            return _runs_of_file(Path(tracking_uri.removeprefix("sqlite:///")), experiment_id)
        except sqlite3.Error:
            pass
    query = {"experiment_ids": [experiment_id], "max_results": 1000, "order_by": ["attributes.start_time ASC"]}
    return [
        _Run(
            run.info.run_id,
            str(run.info.artifact_uri),
            run.info.start_time or 0,
            run.data.tags,
            run.data.params,
            run.data.metrics,
        )
        for run in _pages(client.search_runs, **query)
    ]


def _runs_of_file(path: Path, experiment_id: str) -> list[_Run]:
    with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as database:
        ours = "run_uuid IN (SELECT run_uuid FROM runs WHERE experiment_id = ? AND lifecycle_stage = 'active')"
        chosen = database.execute(
            "SELECT run_uuid, artifact_uri, start_time FROM runs WHERE experiment_id = ? AND lifecycle_stage = 'active'",
            (int(experiment_id),),
        )
        runs = {run_id: _Run(run_id, place or "", started or 0) for run_id, place, started in chosen}
        for table, held in (("tags", "tags"), ("params", "params"), ("latest_metrics", "metrics")):
            known = " AND is_nan = 0" if held == "metrics" else ""
            rows = database.execute(
                f"SELECT run_uuid, key, value FROM {table} WHERE {ours}{known}", (int(experiment_id),)
            )
            for run_id, key, value in rows:
                getattr(runs[run_id], held)[key] = value
    return list(runs.values())


class _ExamplesOfRuns:
    """Reads a run's per-example artifact: in place where the store is on this machine, else through MLflow."""

    def __init__(self, client: MlflowClient, runs: Mapping[Key, _Run]) -> None:
        self._client = client
        self._runs = {key: (run.run_id, run.artifact_uri) for key, run in runs.items()}

    def __call__(self, key: Key) -> pd.DataFrame | None:
        if key not in self._runs:
            return None
        run_id, place = self._runs[key]
        parts = urlparse(place)
        if parts.scheme in ("", "file"):
            path = Path(unquote(parts.path)) / EXAMPLES_FILE
            return pd.read_parquet(path) if path.is_file() else None
        try:
            if EXAMPLES_FILE not in {held.path for held in self._client.list_artifacts(run_id)}:
                return None
            with tempfile.TemporaryDirectory() as folder:
                return pd.read_parquet(self._client.download_artifacts(run_id, EXAMPLES_FILE, folder))
        except MlflowException as error:
            raise OSError(str(error)) from error


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


def _key(run: _Run) -> Key:
    """Trials and repeats by their id; a benchmark, whose variant may score otherwise than its trial, by variant too."""
    tags = run.tags
    trial = tags.get("trial_id", "")
    return tags.get("size", ""), f"{trial}/{tags.get('variant', '')}" if tags.get("kind") == "benchmark" else trial


def _size_row(run: _Run) -> dict[str, Any]:
    tags, metrics = run.tags, run.metrics
    return {column: metrics.get(column) for column in SIZES} | {
        "size": tags.get("size", ""),
        "best_trial": tags.get("best_trial", ""),
        "reason": tags.get("reason", ""),
    }


def _made_good(run: _Run) -> bool:
    """Whether it is a failed attempt that was tried again: the later one's run stands for both."""
    return run.tags.get("retried") == "true"


def _trial_row(run: _Run) -> dict[str, Any]:
    tags, metrics = run.tags, run.metrics
    return {
        "size": tags.get("size", ""),
        "trial_id": tags.get("trial_id", ""),
        "kind": tags["kind"],
        "repeats": tags.get("repeats", ""),
        "intermediate": run.params.get("intermediate", ""),
        **{name: _number(run, name) for name in ("lr_intermediate", "lr_target", "seed")},
        "outcome": tags.get("outcome", "unfinished"),
        "default_cell": tags.get("default_cell") == "true",
        "dev_score": metrics.get("dev/score"),
        "test_score": metrics.get("test/score"),
        "test_score_without_english": _without_english(run),
        "targets_finished": metrics.get("targets_finished"),
        "reason": tags.get("reason", ""),
    }


def _without_english(run: _Run) -> float | None:
    """The mean over targets without English: as recorded, or of the targets' own where each scored one has it."""
    for name in ("test_without_english/score", "test/score_without_english"):
        if name in run.metrics:
            return run.metrics[name]
    every, without = _task_scores(run, "test"), _task_scores(run, "test_without_english")
    return sum(without.values()) / len(without) if without and without.keys() == every.keys() else None


def _task_scores(run: _Run, prefix: str) -> dict[str, float]:
    named = (name.split("/") for name in run.metrics)
    return {
        parts[1]: run.metrics["/".join(parts)]
        for parts in named
        if len(parts) == 2 and parts[0] == prefix and not parts[1].startswith("score")
    }


def _with_default_repeats(trials: pd.DataFrame) -> pd.DataFrame:
    """A repeat of a default cell is one too, whether or not its own run says so."""
    default = set(trials.loc[trials["default_cell"], ["size", "trial_id"]].itertuples(index=False, name=None))
    inherited = [pair in default for pair in zip(trials["size"], trials["repeats"], strict=True)]
    return trials.assign(default_cell=trials["default_cell"] | pd.Series(inherited, index=trials.index, dtype=bool))


def _score_rows(run: _Run) -> Iterator[tuple[Any, ...]]:
    tags, metrics = run.tags, run.metrics
    key = (
        tags.get("size", ""),
        tags.get("trial_id", ""),
        run.params.get("intermediate", ""),
        tags.get("default_cell") == "true",
        tags.get("outcome", "unfinished"),
    )
    for name, value in metrics.items():
        split, _, rest = name.partition("/")
        if split not in _LANGUAGE_OF or rest in ("", "score"):
            continue
        task, _, language = rest.partition("/")
        split_name = "dev" if split == "dev" else "test"
        yield *key, task, split_name, language or _LANGUAGE_OF[split], value, metrics.get(f"chance/{task}")


def _benchmark_row(run: _Run) -> dict[str, Any]:
    tags, metrics = run.tags, run.metrics
    reasons = {
        name.removeprefix("unavailable:").removeprefix("bench/"): reason
        for name, reason in tags.items()
        if name.startswith("unavailable:")
    }
    row: dict[str, Any] = {name: tags.get(name, "") for name, kind in BENCHMARKS.items() if kind == "str"}
    row |= {name: metrics.get(f"bench/{name}") for name in BENCHMARKS if name.startswith(BENCH_METRICS)}
    row |= {name: metrics.get(name) for name in ("params_m", "params_body_m")}
    results = {name.removeprefix("result:"): value for name, value in tags.items() if name.startswith("result:")}
    return row | {
        "test_score": metrics.get("test/score"),
        "test_score_without_english": _without_english(run),
        "task_scores": _task_scores(run, "test"),
        "task_scores_without_english": _task_scores(run, "test_without_english"),
        "unavailable": reasons,
        "results": results,
    }


def _speed_rows(run: _Run) -> Iterator[dict[str, Any]]:
    tags = run.tags
    found: dict[str, dict[str, float]] = {}
    for name, value in run.metrics.items():
        parts = name.split("/")
        if len(parts) == 3 and parts[0] == "bench" and parts[1] in BENCH_BY_LANGUAGE:
            found.setdefault(parts[2], {})[parts[1]] = value
    for language, values in found.items():
        row = {name: tags.get(name, "") for name in ("size", "variant", "trial_id", "hardware")}
        yield row | {"language": language} | values


def _number(run: _Run, name: str) -> float | None:
    text = run.params.get(name, NONE)
    try:
        return None if text.lower() == NONE else float(text)
    except ValueError as error:
        raise ValueError(f"run {run.run_id}: param {name} must be a number or {NONE!r}, got {text!r}") from error


def _by_size(table: pd.DataFrame, rank: Mapping[str, int]) -> pd.DataFrame:
    order = [rank.get(size, len(rank)) for size in table["size"]]
    return table.assign(_order=order).sort_values("_order", kind="stable").drop(columns="_order").reset_index(drop=True)
