"""Counts scores again from predictions and references, with the metrics' own code and without any model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from trainables.metrics import METRICS, Counts
from trainables.store.answers import COLUMNS, count_again

KEY = ["split", "language", "example"]
SHOWN = 60  # characters of a prediction in a message
MALFORMED = (ValueError, KeyError, TypeError, AttributeError)  # what a metric raises for a value that is not its own
Totals = dict[tuple[str, str], tuple[Counts, int]]  # sums and number of examples by split and language


def recount_faults(answers: pd.DataFrame, sums: pd.DataFrame, metrics: Mapping[str, Any]) -> Iterator[str]:
    """Where predictions and references give other sums than those stored by example, or other scores than `metrics`.

    Args:
        answers: a table of `trainables.store.answers`.
        sums: the scores by example of the same examples.
        metrics: what the evaluation recorded: the metric's name, and its scores.
    """
    if lacking := [name for name in COLUMNS if name not in answers]:
        yield f"lacks the columns {', '.join(lacking)}"
    elif metrics.get("metric") not in METRICS:
        yield f"is of a metric that this version does not know: {metrics.get('metric')!r}"
    elif not answers[KEY].reset_index(drop=True).equals(sums[KEY].reset_index(drop=True)):
        yield "has other examples than the scores by example"
    else:
        totals: Totals = {}
        yield from _example_faults(answers, sums, metric=metrics["metric"], totals=totals)
        yield from _score_faults(totals, metrics)


def _example_faults(answers: pd.DataFrame, sums: pd.DataFrame, *, metric: str, totals: Totals) -> Iterator[str]:
    """Examples that count otherwise than stored; what all count for is added to `totals`."""
    for row, stored in zip(answers.to_dict("records"), sums.to_dict("records"), strict=True):
        where = f"{row['split']}/{row['language']} example {row['example']} (id {row['id']})"
        try:
            counts = count_again(
                metric, prediction=row["prediction"], reference=row["reference"], language=row["language"]
            )
        except MALFORMED as error:
            yield f"{where}: not an answer that {metric} can count ({error})"
            continue
        if any(not close(stored.get(name), value) for name, value in counts.sums.items()):
            kept = {name: stored.get(name) for name in counts.sums}
            pair = f"{_cut(row['prediction'])} against {_cut(row['reference'])}"
            yield f"{where}: {pair} counts as {_named(counts.sums)}; {_named(kept)} is stored"
        before, examples = totals.get((row["split"], row["language"]), (Counts(), 0))
        totals[row["split"], row["language"]] = before + counts, examples + 1


def _score_faults(totals: Totals, metrics: Mapping[str, Any]) -> Iterator[str]:
    """Scores that the sums do not give. Without dev examples, as for a serving variant, the dev score is not compared."""
    metric = METRICS[metrics["metric"]]
    tests = {language: total for (split, language), total in totals.items() if split == "test"}
    values = {language: metric.value(counts) for language, (counts, _) in tests.items()}
    others = [value for language, value in values.items() if language != "en"]
    expected: dict[str, Any] = {
        **{f"test/{language}": value for language, value in values.items()},
        **{
            f"parts/{language}/{name}": part
            for language, (counts, _) in tests.items()
            for name, part in metric.parts(counts).items()
        },
        **{f"examples/{language}": examples for language, (_, examples) in tests.items()},
        "test_mean": sum(values.values()) / len(values) if values else None,
        "test_mean_without_english": sum(others) / len(others) if others else None,
    }
    if ("dev", "en") in totals:
        expected["dev"] = metric.value(totals["dev", "en"][0])
    recorded: dict[str, Any] = {
        **{f"test/{language}": value for language, value in _mapping(metrics.get("test")).items()},
        **{
            f"parts/{language}/{name}": part
            for language, parts in _mapping(metrics.get("parts")).items()
            for name, part in _mapping(parts).items()
        },
        **{f"examples/{language}": count for language, count in _mapping(metrics.get("examples")).items()},
        **{name: metrics.get(name) for name in ("test_mean", "test_mean_without_english", "dev") if name in expected},
    }
    for name in sorted({*expected, *recorded}):
        if not close(recorded.get(name), expected.get(name)):
            yield f"{name}: the predictions give {_number(expected.get(name))}; {_number(recorded.get(name))} is recorded"


def close(first: object, second: object, tolerance: float = 1e-9) -> bool:
    """Whether two numbers are equal up to rounding, or both are missing."""
    a, b = _float(first), _float(second)
    if a is None or b is None:
        return a is b
    return math.isclose(a, b, rel_tol=tolerance, abs_tol=tolerance)


def _float(value: object) -> float | None:
    """The number; None for what is missing or none."""
    if isinstance(value, (int, float)) and not math.isnan(value):
        return float(value)
    return None


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _named(sums: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {_number(value)}" for name, value in sorted(sums.items()))


def _number(value: object) -> str:
    number = _float(value)
    return "nothing" if number is None else f"{number:.6g}"


def _cut(text: object) -> str:
    return str(text) if len(str(text)) <= SHOWN else f"{str(text)[:SHOWN]}..."
