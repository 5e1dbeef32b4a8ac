"""Percentiles and their early-stopping estimates."""

from __future__ import annotations

import math

import numpy as np
import pytest

from trainables.benchmark.scenarios.percentiles import (
    FEWEST,
    early_stopping_estimate,
    fewest_passing,
    interquartile_range,
    percentile,
)


@pytest.mark.parametrize(("percent", "fewest"), [(50, 11), (90, 64), (95, 130), (99, 662)])
def test_a_percentile_needs_as_many_queries_as_mlperfs_early_stopping(percent: int, fewest: int) -> None:
    values = [float(value) for value in range(fewest, 0, -1)]
    assert percentile(values[1:], percent) is None
    assert percentile(values, percent) is not None


def test_a_percentile_is_the_nearest_rank_and_so_one_of_the_values() -> None:
    values = [float(value) for value in range(100, 0, -1)]
    assert percentile(values, 50) == 50.0  # 50 of the 100 values are at most 50
    assert percentile(values, 90) == 90.0
    assert interquartile_range(values) == 50.0  # 75 - 25


@pytest.mark.parametrize("percent", [50, 90, 95, 99])
def test_the_fewest_queries_are_those_of_loadgen(percent: int) -> None:
    """LoadGen's message counts them with one query above the percentile."""
    assert fewest_passing(1, percent) + 1 == FEWEST[percent]


def test_the_early_stopping_estimate_is_above_the_percentile_and_converges_to_it() -> None:
    values = list(np.random.default_rng(0).exponential(1.0, 20_000))
    margins = []
    for count in (662, 5000, 20_000):
        rank, estimate = percentile(values[:count], 99), early_stopping_estimate(values[:count], 99)
        assert rank is not None
        assert estimate is not None
        assert estimate > rank
        margins.append(estimate / rank - 1)
    assert margins[0] > margins[2]
    assert margins[2] < 0.1
    assert early_stopping_estimate(values[:661], 99) is None


def test_the_early_stopping_estimate_is_an_upper_bound_at_99_percent() -> None:
    """In 2,000 samples of 200 values, the estimate of p90 falls below the true p90 in about 1%."""
    rng = np.random.default_rng(1)
    truth = -math.log(0.1)
    estimates = [early_stopping_estimate(list(rng.exponential(1.0, 200)), 90) for _ in range(2000)]
    below = sum(estimate is not None and estimate < truth for estimate in estimates)
    assert 0 < below <= 40
