"""Repeats: their order, medians and intervals."""

from __future__ import annotations

import torch

from trainables.benchmark.measurement import METRICS, Measured
from trainables.benchmark.repeats import bootstrap_interval, combined, interleaved


def test_variants_take_turns_and_each_round_starts_with_another() -> None:
    order = interleaved(("a", "b", "c"), 3)
    assert [name for _, name in order] == ["a", "b", "c", "b", "c", "a", "c", "a", "b"]
    assert [turn for turn, _ in order] == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def _repeat(p50_ms: float | None, *, valid: bool = True, suspected: bool = False) -> Measured:
    return Measured(
        {
            **dict.fromkeys(METRICS, 1.0),
            "p50_ms": p50_ms,
            "batch_size": 8,
            "samples": 100,
            "languages": {"en": {"p50_ms": 2.0 if p50_ms is None else p50_ms, "mean_pieces": 30.0}},
            "valid": {"SingleStream": valid},
            "problems": {} if valid else {"SingleStream": ["too short"]},
            "unavailable": {} if p50_ms is not None else {"p50_ms": "few queries"},
            "interference": {"suspected": suspected, "text": "busy" if suspected else "none seen"},
            "context": {},
        }
    )


def test_repeats_have_a_median_with_its_interval_and_the_problems_of_each() -> None:
    measured = combined(
        [_repeat(1.0), _repeat(9.0, valid=False), _repeat(3.0, suspected=True), _repeat(2.0), _repeat(4.0)]
    )
    assert measured["p50_ms"] == 3.0
    assert measured["intervals"]["p50_ms"] == [1.0, 9.0]
    assert measured["intervals_are"] == "range"
    assert measured["languages"]["en"]["p50_ms"] == 3.0
    assert measured["valid"] == {"SingleStream": False}
    assert measured["problems"] == {"SingleStream": ["repeat 2: too short"]}
    assert measured["interference"]["text"] == "busy"
    assert (measured["repeats"], measured["interference_seen"], measured["samples"]) == (5, 1, 500)
    assert [repeat["p50_ms"] for repeat in measured["by_repeat"]] == [1.0, 9.0, 3.0, 2.0, 4.0]


def test_a_single_repeat_has_no_interval_and_a_metric_missing_in_one_repeat_is_missing() -> None:
    assert combined([_repeat(1.0)])["intervals"] == {}
    measured = combined([_repeat(1.0), _repeat(None)])
    assert measured["p50_ms"] is None
    assert measured["unavailable"] == {"p50_ms": "few queries"}


def test_the_bootstrap_interval_covers_the_median_in_95_percent() -> None:
    """Intervals of 25 normal values. The percentile bootstrap of a median is slightly too narrow: 90% is enough here."""
    rng = torch.Generator().manual_seed(0)
    draws = torch.randn((100, 25), generator=rng).tolist()
    intervals = [bootstrap_interval(values) for values in draws]
    assert sum(low <= 0 <= high for low, high in intervals) >= 90
    assert bootstrap_interval([5.0, 5.0, 5.0]) == (5.0, 5.0)


def test_few_repeats_have_a_range_and_many_a_bootstrap_interval() -> None:
    three = combined([_repeat(value) for value in (2.0, 1.0, 4.0)])
    assert (three["intervals"]["p50_ms"], three["intervals_are"]) == ([1.0, 4.0], "range")
    values = [float(value) for value in range(25)]
    many = combined([_repeat(value) for value in values])
    assert many["intervals"]["p50_ms"] == list(bootstrap_interval(values))
    assert many["intervals_are"] == "95% bootstrap interval"
    low, high = many["intervals"]["p50_ms"]
    assert 3 <= low <= 9  # the binomial 95% interval of the median of 25 lies between the 8th and the 18th value
    assert 15 <= high <= 21


def test_a_scenario_missing_in_one_repeat_is_not_valid() -> None:
    served = Measured({**_repeat(1.0).values, "valid": {"SingleStream": True, "Server": True}})
    assert combined([_repeat(1.0), served])["valid"] == {"SingleStream": True, "Server": False}
