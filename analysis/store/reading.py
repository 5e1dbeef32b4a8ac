"""Turns a study's MLflow runs into tidy tables."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd
from mlflow.entities import Experiment

from analysis.store.examples import Examples
from analysis.store.frames import (
    BENCH_BY_LANGUAGE,
    BENCH_METRICS,
    BENCHMARKS,
    CEILINGS,
    DIAGNOSTIC_SIGNALS,
    DIAGNOSTICS,
    EVALUATIONS,
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
from analysis.store.runs import ExampleFiles, StoredRun, deleted_runs, fetch_study

_LANGUAGE_OF = {"dev": MEAN, "test": MEAN, "test_without_english": MEAN_WITHOUT_ENGLISH}
_CEILING_OF = ["size", "task", "language"]  # it depends on the tokenizer and the tests, not on the trial
_CONTEXT = ("command", "hardware", "precision", "seed", "selection")
_CONTEXT_JSON = {
    **dict.fromkeys(("targets", "intermediates", "untrained"), list),
    **dict.fromkeys(("versions", "marks", "languages", "protocols", "data", "metrics", "pretraining", "arms"), dict),
}


def load(tracking_uri: str, experiment: str | None = None) -> StudyFrames:
    """Read one study; without `experiment`, the only one in the store.

    An experiment without runs gives tables with their columns and no rows.

    Raises:
        ValueError: the store or the experiment does not exist, several studies are possible, or a value does not parse.
    """
    client, chosen, runs = fetch_study(tracking_uri, experiment)
    deleted = deleted_runs(client, chosen)
    if deleted and not runs:
        raise ValueError(
            f"all {deleted} runs of the experiment {chosen.name!r} were deleted in MLflow; restore them there, or send them "
            "again: `python -m study sync DIR --again`"
        )
    by_kind: dict[str, list[StoredRun]] = {kind: [] for kind in ("size", "trial", "repeat", "benchmark")}
    for run in runs:
        by_kind.setdefault(run.tags.get("kind", ""), []).append(run)
    attempts, benchmarks = by_kind["trial"] + by_kind["repeat"], by_kind["benchmark"]
    counted = [run for run in attempts if not _was_retried(run)]

    sizes = frame((_size_row(run) for run in by_kind["size"]), SIZES).sort_values(["params_m", "size"], kind="stable")
    rank = {name: position for position, name in enumerate(sizes["size"])}
    return StudyFrames(
        sizes=sizes.reset_index(drop=True),
        trials=_by_size(_with_default_repeats(frame((_trial_row(run) for run in counted), TRIALS)), rank),
        scores=_by_size(frame((row for run in counted for row in _score_rows(run)), SCORES), rank),
        benchmarks=_by_size(frame((_benchmark_row(run) for run in benchmarks), BENCHMARKS), rank),
        context=_context(chosen) | {"deleted_runs": deleted},
        speed_by_language=_by_size(
            frame((row for run in benchmarks for row in _speed_rows(run)), SPEED_BY_LANGUAGE), rank
        ),
        examples=Examples(ExampleFiles(client, counted + benchmarks)),
        ceilings=_by_size(
            frame((row for run in counted for row in _ceiling_rows(run)), CEILINGS).drop_duplicates(_CEILING_OF), rank
        ),
        diagnostics=_by_size(frame((row for run in counted for row in _diagnostic_rows(run)), DIAGNOSTICS), rank),
        retried=_by_size(frame((_trial_row(run) for run in attempts if _was_retried(run)), TRIALS), rank),
        evaluations=_by_size(frame((row for run in counted for row in _evaluation_rows(run)), EVALUATIONS), rank),
    )


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


def _size_row(run: StoredRun) -> dict[str, Any]:
    tags, metrics = run.tags, run.metrics
    return {column: metrics.get(column) for column in SIZES} | {
        "size": tags.get("size", ""),
        "best_trial": tags.get("best_trial", ""),
        "reason": tags.get("reason", ""),
        "encoder": tags.get("encoder", ""),
        "seen": {str(target): str(what) for target, what in _json_object(run, "seen").items()},
        "seen_by_arm": _json_object(run, "seen_by_arm"),
        "search_ended": tags.get("search_ended", ""),
    }


def _json_object(run: StoredRun, tag: str) -> dict[str, Any]:
    """The value of a tag that holds a JSON object; empty without the tag."""
    text = run.tags.get(tag, "{}")
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        value = None
    if not isinstance(value, dict):
        raise ValueError(f"run {run.run_id}: tag {tag} must be a JSON object, got {text!r}")
    return value


def _was_retried(run: StoredRun) -> bool:
    """Whether this failed attempt was retried; the later run then stands for both."""
    return run.tags.get("retried") == "true"


def _trial_row(run: StoredRun) -> dict[str, Any]:
    tags, metrics = run.tags, run.metrics
    return {
        "size": tags.get("size", ""),
        "trial_id": tags.get("trial_id", ""),
        "kind": tags["kind"],
        "repeats": tags.get("repeats", ""),
        "intermediate": run.params.get("intermediate", ""),
        **{name: _number(run, name) for name in ("lr_intermediate", "lr_target", "rate_factor", "seed")},
        "outcome": tags.get("outcome", "unfinished"),
        "default_cell": tags.get("default_cell") == "true",
        "dev_score": metrics.get("dev/score"),
        "test_score": metrics.get("test/score"),
        "test_score_without_english": _without_english(run),
        "targets_finished": metrics.get("targets_finished"),
        "reason": tags.get("reason", ""),
        "constant": ", ".join(
            f"{name.removeprefix('constant/')} in {languages:.0f} languages"
            for name, languages in sorted(metrics.items())
            if name.startswith("constant/")
        ),
        "encoder_train_s": metrics.get("train_s/encoder"),
        "target_train_s": metrics.get("train_s/targets"),
        "in_place_of": tags.get("in_place_of", ""),
    }


def _without_english(run: StoredRun) -> float | None:
    """Mean over targets without English: as recorded, or computed where every scored target has its own."""
    for name in ("test_without_english/score", "test/score_without_english"):
        if name in run.metrics:
            return run.metrics[name]
    every, without = _task_scores(run, "test"), _task_scores(run, "test_without_english")
    return sum(without.values()) / len(without) if without and without.keys() == every.keys() else None


def _task_scores(run: StoredRun, prefix: str) -> dict[str, float]:
    """The scores `<prefix>/<task>` by task."""
    named = (name.rpartition("/") for name in run.metrics)
    return {
        task: run.metrics[f"{prefix}/{task}"]
        for before, _, task in named
        if before == prefix and not task.startswith("score")
    }


def _with_default_repeats(trials: pd.DataFrame) -> pd.DataFrame:
    """A repeat of a default cell is a default cell, whether or not its run says so."""
    default = set(trials.loc[trials["default_cell"], ["size", "trial_id"]].itertuples(index=False, name=None))
    inherited = [pair in default for pair in zip(trials["size"], trials["repeats"], strict=True)]
    return trials.assign(default_cell=trials["default_cell"] | pd.Series(inherited, index=trials.index, dtype=bool))


def _score_rows(run: StoredRun) -> Iterator[tuple[Any, ...]]:
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


def _ceiling_rows(run: StoredRun) -> Iterator[tuple[str, str, str, float]]:
    for name, value in run.metrics.items():
        prefix, _, rest = name.partition("/")
        task, _, language = rest.partition("/")
        if prefix == "ceiling" and language:
            yield run.tags.get("size", ""), task, language, value


def _diagnostic_rows(run: StoredRun) -> Iterator[tuple[str, str, str, str, float]]:
    for name, value in run.metrics.items():
        signal, _, task = name.partition("/")
        if signal in DIAGNOSTIC_SIGNALS and task:
            yield run.tags.get("size", ""), run.tags.get("trial_id", ""), task, signal, value


def _evaluation_rows(run: StoredRun) -> Iterator[tuple[str, str, str, str]]:
    text = run.tags.get("evaluations", "{}")
    try:
        stages = dict(json.loads(text))
    except (ValueError, TypeError) as error:
        raise ValueError(f"run {run.run_id}: tag evaluations must be a JSON object, got {text!r}") from error
    for task, stage in stages.items():
        yield run.tags.get("size", ""), run.tags.get("trial_id", ""), str(task), str(stage)


def _benchmark_row(run: StoredRun) -> dict[str, Any]:
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
        "baseline_test_score": metrics.get("baseline/test/score"),
        "baseline_test_score_without_english": metrics.get("baseline/test_without_english/score"),
        "baseline_task_scores": _task_scores(run, "baseline/test"),
        "baseline_task_scores_without_english": _task_scores(run, "baseline/test_without_english"),
        "cascade": _json_object(run, "cascade"),
        "unavailable": reasons,
        "results": results,
    }


def _speed_rows(run: StoredRun) -> Iterator[dict[str, Any]]:
    tags = run.tags
    by_language: dict[str, dict[str, float]] = {}
    for name, value in run.metrics.items():
        parts = name.split("/")
        if len(parts) == 3 and parts[0] == "bench" and parts[1] in BENCH_BY_LANGUAGE:
            by_language.setdefault(parts[2], {})[parts[1]] = value
    for language, values in by_language.items():
        row = {name: tags.get(name, "") for name in ("size", "variant", "trial_id", "hardware")}
        yield row | {"language": language} | values


def _number(run: StoredRun, name: str) -> float | None:
    text = run.params.get(name, NONE)
    try:
        return None if text.lower() == NONE else float(text)
    except ValueError as error:
        raise ValueError(f"run {run.run_id}: param {name} must be a number or {NONE!r}, got {text!r}") from error


def _by_size(table: pd.DataFrame, rank: Mapping[str, int]) -> pd.DataFrame:
    order = [rank.get(size, len(rank)) for size in table["size"]]
    return table.assign(_order=order).sort_values("_order", kind="stable").drop(columns="_order").reset_index(drop=True)
