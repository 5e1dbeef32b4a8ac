"""Several measurements of the same thing as one: order, medians, and how far they can be trusted."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

import numpy as np

from trainables.benchmark.measurement import LANGUAGE_METRICS, METRICS

FEWEST_RESAMPLED = 6  # of fewer values the percentile bootstrap of the median is their range, or nearly
RESAMPLES = 10_000
INTERVAL = (2.5, 97.5)  # percent


def interleaved(names: Sequence[str], repeats: int) -> list[tuple[int, str]]:
    """Round by round, each beginning with another one: what drifts over time, or depends on what ran before, meets all."""
    return [(turn, names[(turn + place) % len(names)]) for turn in range(repeats) for place in range(len(names))]


def bootstrap_interval(values: Sequence[float]) -> tuple[float, float]:
    """95% percentile-bootstrap interval of the median (Efron 1979).

    The resamples depend on the number of values alone.
    """
    drawn = np.random.default_rng(len(values)).choice(np.asarray(values), size=(RESAMPLES, len(values)))
    low, high = np.percentile(np.median(drawn, axis=1), INTERVAL, method="closest_observation")
    return float(low), float(high)


def spread(values: Sequence[float]) -> tuple[float, float]:
    """The range of the values; from `FEWEST_RESAMPLED` of them on the bootstrap interval of their median."""
    return bootstrap_interval(values) if len(values) >= FEWEST_RESAMPLED else (min(values), max(values))


def spread_named(repeats: int) -> str:
    """What `spread` gives of so many values."""
    return "95% bootstrap interval" if repeats >= FEWEST_RESAMPLED else "range"


def combined(measured: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One document out of several repeats (`Measurement.as_dict` and whatever a subject adds to the first).

    A metric is the median over the repeats, with its `spread` under `intervals` if there are two or more (`intervals_are` names
    it); it is missing where any repeat lacks it. A scenario is valid if it was in every repeat. `by_repeat` holds each one's
    metrics, `samples`, and the state of its GPU under load (`gpu_in_use`, None for a CPU); `context` is the first's.
    """
    first = measured[0]
    many = len(measured) > 1
    intervals: dict[str, list[float]] = {}
    found: dict[str, Any] = {}
    reasons: dict[str, str] = {}
    for name in METRICS:
        values = [one[name] for one in measured]
        missing = [one["unavailable"].get(name, "") for one in measured if one[name] is None]
        if missing:
            found[name], reasons[name] = None, missing[0]
            continue
        found[name] = median(values)
        if many:
            intervals[name] = list(spread(values))
    if found["batch_size"] is not None:  # a size that was used
        found["batch_size"] = sorted(one["batch_size"] for one in measured)[len(measured) // 2]
    for one in measured:
        reasons |= {name: why for name, why in one["unavailable"].items() if name.startswith("languages/")}
    problems = {
        scenario: [
            f"repeat {turn + 1}: {why}" if many else why
            for turn, one in enumerate(measured)
            for why in one["problems"].get(scenario, [])
        ]
        for scenario in {scenario for one in measured for scenario in one["problems"]}
    }
    suspected = [one["interference"] for one in measured if one["interference"]["suspected"]]
    return {
        **first,
        **found,
        "samples": sum(one["samples"] for one in measured),
        "languages": _languages(measured),
        "valid": {
            name: all(one["valid"].get(name, False) for one in measured)
            for name in dict.fromkeys(name for one in measured for name in one["valid"])
        },
        "problems": problems,
        "unavailable": reasons,
        "interference": suspected[0] if suspected else first["interference"],
        "interference_seen": len(suspected),
        "repeats": len(measured),
        "intervals": intervals,
        "intervals_are": spread_named(len(measured)),
        "by_repeat": [
            {name: one[name] for name in (*METRICS, "samples")} | {"gpu_in_use": one["context"].get("gpu_in_use")}
            for one in measured
        ],
    }


def _languages(measured: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Medians by language, of what every repeat has."""
    return {
        language: {
            name: median(one["languages"][language][name] for one in measured)
            for name in LANGUAGE_METRICS
            if all(name in one["languages"].get(language, {}) for one in measured)
        }
        for language in measured[0]["languages"]
    }
