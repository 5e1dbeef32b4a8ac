"""Benchmarks of two studies side by side."""

from __future__ import annotations

from typing import Any

import pandas as pd

from analysis.store.frames import StudyFrames, frame
from analysis.tables.comparison.scores import other_cascades
from analysis.tables.tradeoff import valid

_SPEEDS = {
    "size": "str",
    "variant": "str",
    "metric": "str",
    "value": "float64",
    "value_other": "float64",
    "ratio": "float64",
    "same_hardware": "bool",
    "why_not": "str",
    "verdict": "str",
}
SPEED_METRICS = ("p50_ms", "server_qps", "throughput_sps", "peak_memory_mb", "energy_j_per_sample")
_MORE_IS_BETTER = ("server_qps", "throughput_sps")
FEWEST_REPEATS = 5  # ranges of five repeats each are apart by chance once in 126 comparisons: 2 / binomial(10, 5)
BETTER, WORSE, OVERLAP = "better", "worse", "overlap"


def speeds(frames: StudyFrames, other: StudyFrames) -> pd.DataFrame:
    """Values that are VALID in both studies. Loads within different latency bounds do not compare.

    `why_not`: why two values are not of one machine with one set of versions. Elsewhere `verdict` is "better" or "worse" where
    the spreads of the repeats do not overlap, "overlap" where they do, and "" with too few repeats. It is not corrected for the
    number of comparisons, and repeats of one run do not show what changes from day to day.
    """
    pairs = _pairs(valid(frames.benchmarks), valid(other.benchmarks))
    versions, cascades = _differing_versions(frames, other), other_cascades(frames, other)
    rows = [
        {
            "size": row["size"],
            "variant": row["variant"],
            "metric": metric,
            "value": row[metric],
            "value_other": row[f"{metric}_other"],
            "ratio": row[f"{metric}_other"] / row[metric],
            "same_hardware": row["hardware"] == row["hardware_other"],
            "why_not": why_not,
            "verdict": "" if why_not else _verdict(row, metric),
        }
        for row in pairs.to_dict("records")
        for why_not in [_why_not(row, versions, cascades.get((row["size"], row["variant"])))]
        for metric in SPEED_METRICS
        if row[metric] > 0 and row[f"{metric}_other"] > 0
        if metric != "server_qps" or row["server_bound_ms"] == row["server_bound_ms_other"]
    ]
    return frame(rows, _SPEEDS)


def _pairs(own: pd.DataFrame, theirs: pd.DataFrame) -> pd.DataFrame:
    """Measurements of one size and variant: on hardware of both studies, or else on whatever each has."""
    pairs = own.merge(theirs, on=["size", "variant"], suffixes=("", "_other"))
    same = pairs["hardware"] == pairs["hardware_other"]
    return pairs[same | ~same.groupby([pairs["size"], pairs["variant"]]).transform("any")]


def _differing_versions(frames: StudyFrames, other: StudyFrames) -> str:
    own, theirs = (study.context.get("versions") or {} for study in (frames, other))
    names = sorted(name for name in own.keys() | theirs.keys() if own.get(name) != theirs.get(name))
    return ", ".join(f"{name} {own.get(name, 'absent')}; {theirs.get(name, 'absent')}" for name in names)


def _why_not(row: dict[Any, Any], versions: str, cascades: tuple[str, str] | None) -> str:
    if cascades is not None:
        return f"other models ({cascades[0]}; {cascades[1]})"
    for name in ("hardware", "mig", "driver"):
        own, theirs = (str(row[column] or "not recorded") for column in (name, f"{name}_other"))
        if own != theirs:
            return f"other {name} ({own}; {theirs})"
    return f"other versions ({versions})" if versions else ""


def _verdict(row: dict[Any, Any], metric: str) -> str:
    if not min(row["repeats"], row["repeats_other"]) >= FEWEST_REPEATS:  # also where the number is unknown
        return ""
    low, high = row[f"{metric}_low"], row[f"{metric}_high"]
    low_other, high_other = row[f"{metric}_low_other"], row[f"{metric}_high_other"]
    if low_other > high:
        return BETTER if metric in _MORE_IS_BETTER else WORSE
    if high_other < low:
        return WORSE if metric in _MORE_IS_BETTER else BETTER
    return "" if any(map(pd.isna, (low, high, low_other, high_other))) else OVERLAP
