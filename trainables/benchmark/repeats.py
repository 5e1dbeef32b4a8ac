"""Repeats of a measurement: their order, their medians, and the spread of these."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

import numpy as np

from trainables.benchmark.measurement import LANGUAGE_METRICS, METRICS, Measured

FEWEST_RESAMPLED = 6  # with fewer values the percentile bootstrap of the median is (nearly) their range
RESAMPLES = 10_000
INTERVAL = (2.5, 97.5)  # percent


def interleaved(names: Sequence[str], repeats: int) -> list[tuple[int, str]]:
    """The order of measurement: each round starts with another name, so that drift and carry-over affect all alike."""
    return [(turn, names[(turn + offset) % len(names)]) for turn in range(repeats) for offset in range(len(names))]


def bootstrap_interval(values: Sequence[float]) -> tuple[float, float]:
    """95% percentile-bootstrap interval of the median (Efron 1979).

    The resamples depend on the number of values alone.
    """
    drawn = np.random.default_rng(len(values)).choice(np.asarray(values), size=(RESAMPLES, len(values)))
    low, high = np.percentile(np.median(drawn, axis=1), INTERVAL, method="closest_observation")
    return float(low), float(high)


def spread(values: Sequence[float]) -> tuple[float, float]:
    """The bootstrap interval of the median; the range of the values if there are fewer than `FEWEST_RESAMPLED`."""
    return bootstrap_interval(values) if len(values) >= FEWEST_RESAMPLED else (min(values), max(values))


def spread_named(repeats: int) -> str:
    """What `spread` returns for so many values."""
    return "95% bootstrap interval" if repeats >= FEWEST_RESAMPLED else "range"


def combined(repeats: Sequence[Measured]) -> Measured:
    """Several repeats as one measurement; what a subject adds is taken from the first.

    A metric is the median over the repeats, and None if any repeat lacks it. With two or more repeats `intervals` holds its
    `spread`, and `intervals_are` names the kind. A scenario is valid if it is valid in every repeat. `by_repeat` lists the
    metrics of each repeat, its `samples`, and the state of its GPU under load (`gpu_in_use`, None for a CPU). `context` is that
    of the first repeat. `mean_ms` is the mean service time of SingleStream; None if some repeat is of an earlier version.
    """
    first = repeats[0]
    intervals: dict[str, list[float]] = {}
    medians: dict[str, Any] = {}
    reasons: dict[str, str] = {}
    for name in METRICS:
        lacking = [repeat["unavailable"].get(name, "") for repeat in repeats if repeat[name] is None]
        if lacking:
            medians[name], reasons[name] = None, lacking[0]
            continue
        values = [repeat[name] for repeat in repeats]
        medians[name] = median(values)
        if len(repeats) > 1:
            intervals[name] = list(spread(values))
    if medians["batch_size"] is not None:  # a size that was used, not the mean of two
        medians["batch_size"] = sorted(repeat["batch_size"] for repeat in repeats)[len(repeats) // 2]
    for repeat in repeats:
        reasons |= {name: why for name, why in repeat["unavailable"].items() if name.startswith("languages/")}
    disturbed = [repeat["interference"] for repeat in repeats if repeat.disturbed]
    return Measured(
        {
            **first.values,
            **medians,
            "samples": sum(repeat["samples"] for repeat in repeats),
            "languages": _languages(repeats),
            "valid": {
                name: all(repeat["valid"].get(name, False) for repeat in repeats)
                for name in dict.fromkeys(name for repeat in repeats for name in repeat["valid"])
            },
            "problems": _problems(repeats),
            "unavailable": reasons,
            "interference": disturbed[0] if disturbed else first["interference"],
            "interference_seen": len(disturbed),
            "mean_ms": _mean_ms(repeats),
            "repeats": len(repeats),
            "intervals": intervals,
            "intervals_are": spread_named(len(repeats)),
            "by_repeat": [
                {name: repeat[name] for name in (*METRICS, "samples")}
                | {"gpu_in_use": repeat["context"].get("gpu_in_use")}
                for repeat in repeats
            ],
        }
    )


def _mean_ms(repeats: Sequence[Measured]) -> float | None:
    means = [repeat["context"].get("mean_ms") for repeat in repeats]
    return None if None in means else float(median(means))


def _problems(repeats: Sequence[Measured]) -> dict[str, list[str]]:
    return {
        scenario: [
            f"repeat {turn + 1}: {why}" if len(repeats) > 1 else why
            for turn, repeat in enumerate(repeats)
            for why in repeat["problems"].get(scenario, [])
        ]
        for scenario in dict.fromkeys(scenario for repeat in repeats for scenario in repeat["problems"])
    }


def _languages(repeats: Sequence[Measured]) -> dict[str, dict[str, float]]:
    """Medians by language of the metrics that every repeat has."""
    return {
        language: {
            name: median(repeat["languages"][language][name] for repeat in repeats)
            for name in LANGUAGE_METRICS
            if all(name in repeat["languages"].get(language, {}) for repeat in repeats)
        }
        for language in repeats[0]["languages"]
    }
