"""Two studies side by side: scores, speeds and settings that both have."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.store.frames import MEAN, StudyFrames, frame, unique
from analysis.tables.inference import LEVEL, example_variance, holm, infer
from analysis.tables.tradeoff import valid

_SCORES = {
    "size": "str",
    "intermediate": "str",
    "task": "str",
    "judged_by": "str",
    "score": "float64",
    "score_other": "float64",
    "difference": "float64",
    "low": "float64",
    "high": "float64",
    "p_holm": "float64",
    "n": "int64",
    "verdict": "str",
}
_SPEEDS = {
    "size": "str",
    "variant": "str",
    "metric": "str",
    "value": "float64",
    "value_other": "float64",
    "ratio": "float64",
    "same_hardware": "bool",
}
SPEED_METRICS = ("p50_ms", "server_qps", "throughput_sps", "peak_memory_mb", "energy_j_per_sample")


@dataclass(frozen=True)
class Comparison:
    """What two studies share.

    `scores`: default cells in both, other minus this. `speeds`: benchmarks in both. `settings`: recorded settings that differ
    (name, this, other).
    """

    other: str
    scores: pd.DataFrame
    speeds: pd.DataFrame
    settings: pd.DataFrame


def compare(frames: StudyFrames, other: StudyFrames) -> Comparison:
    """Compare what two studies have in common.

    Cells are matched by size, intermediate task and target, and paired by seed and learning rates; `n` counts the paired
    seeds. Each target is judged by the mean over languages other than English where both studies judge it so
    (`StudyFrames.judged_by`), else by the mean over all; `judged_by` says which. `difference` is in points, other minus this.
    Interval and corrected p-value are as in `gains.gains`.
    """
    return Comparison(
        str(other.context["experiment"]), _scores(frames, other), _speeds(frames, other), _settings(frames, other)
    )


def _scores(frames: StudyFrames, other: StudyFrames) -> pd.DataFrame:
    by = {
        task: mean if other.judged_by.get(task) == mean else MEAN
        for task, mean in frames.judged_by.items()
        if task in other.judged_by
    }
    pairs = _default(frames, by).merge(
        _default(other, by),
        on=["size", "intermediate", "lr_intermediate", "lr_target", "seed", "task"],
        suffixes=("", "_other"),
    )
    keys = ["size", "intermediate", "task"]
    groups = [group.drop_duplicates("seed") for _, group in pairs.groupby(keys, sort=False)]
    rows = [_score_row(frames, other, group, language=by[group["task"].iloc[0]]) for group in groups]
    table = pd.DataFrame(rows, columns=[*_SCORES, "variance", "example_variance"])
    inferred = infer(
        table["difference"].astype("float64"),
        table["variance"].astype("float64"),
        df=table["n"].astype("float64") - 1,
        seeds=table["n"].astype("float64"),
        example_variances=table["example_variance"].astype("float64"),
    )
    table = table.assign(low=inferred.low, high=inferred.high, p_holm=holm(inferred.p))
    table["verdict"] = [_verdict(row) for row in table.to_dict("records")]
    return table[list(_SCORES)].astype(_SCORES)


def _score_row(frames: StudyFrames, other: StudyFrames, pairs: pd.DataFrame, *, language: str) -> dict[str, Any]:
    """One cell of both studies; `pairs`: a row per shared seed."""
    size, intermediate, task = (str(pairs[name].iloc[0]) for name in ("size", "intermediate", "task"))
    differences = pairs["value_other"] - pairs["value"]
    draws = []
    for row in pairs.to_dict("records"):
        own = frames.examples.draws((size, row["trial_id"]), task, language)
        theirs = other.examples.draws((size, row["trial_id_other"]), task, language)
        draws.append(None if own is None or theirs is None else theirs - own)
    known = [drawn for drawn in draws if drawn is not None]
    return {
        "size": size,
        "intermediate": intermediate,
        "task": task,
        "judged_by": language,
        "score": pairs["value"].mean(),
        "score_other": pairs["value_other"].mean(),
        "difference": differences.mean(),
        "variance": differences.var(ddof=1),
        "example_variance": example_variance(np.stack(known)) if len(known) == len(draws) else math.nan,
        "n": len(pairs),
        "verdict": "",
    }


def _verdict(row: dict[Any, Any]) -> str:
    if row["n"] == 1:
        return "one seed"
    if row["p_holm"] < 1 - LEVEL:
        return "higher" if row["difference"] > 0 else "lower"
    return "unclear"


def _default(frames: StudyFrames, by: Mapping[str, str]) -> pd.DataFrame:
    trials = frames.trials[frames.trials["default_cell"]]
    columns = ["size", "trial_id", "lr_intermediate", "lr_target", "seed"]
    trials = trials[columns].fillna({"lr_intermediate": -1.0, "lr_target": -1.0, "seed": -1})
    means = frames.judged(by=by).dropna(subset=["value"])
    return means[["size", "trial_id", "intermediate", "task", "value"]].merge(trials, on=["size", "trial_id"])


def _speeds(frames: StudyFrames, other: StudyFrames) -> pd.DataFrame:
    """Values that are VALID in both studies. Loads within different latency bounds do not compare."""
    pairs = valid(frames.benchmarks).merge(valid(other.benchmarks), on=["size", "variant"], suffixes=("", "_other"))
    rows = [
        {
            "size": row["size"],
            "variant": row["variant"],
            "metric": metric,
            "value": row[metric],
            "value_other": row[f"{metric}_other"],
            "ratio": row[f"{metric}_other"] / row[metric],
            "same_hardware": row["hardware"] == row["hardware_other"],
        }
        for row in pairs.to_dict("records")
        for metric in SPEED_METRICS
        if row[metric] > 0 and row[f"{metric}_other"] > 0
        if metric != "server_qps" or row["server_bound_ms"] == row["server_bound_ms_other"]
    ]
    return frame(rows, _SPEEDS)


def _settings(frames: StudyFrames, other: StudyFrames) -> pd.DataFrame:
    rows = []
    for name in unique([*frames.context, *other.context]):
        own, theirs = frames.context.get(name), other.context.get(name)
        if own != theirs:
            rows.append((name, _setting_text(own, theirs), _setting_text(theirs, own)))
    return frame(rows, {"setting": "str", "this": "str", "other": "str"})


def _setting_text(value: Any, against: Any) -> str:
    """A setting as text; of two mappings only the entries that differ."""
    if isinstance(value, dict):
        against = against if isinstance(against, dict) else {}
        entries = (f"{name}: {entry}" for name, entry in value.items() if against.get(name) != entry)
        return ", ".join(entries) or "not recorded"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "not recorded"
    return str(value) if value not in (None, "") else "not recorded"
