"""Percentiles of service times, given only if there are enough of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

from scipy.special import betainc

# The fewest queries for which MLPerf's early stopping can estimate the percentile (LoadGen prints "would need to
# process at least 662 total queries" and so on); with fewer, a single outlier decides the value.
FEWEST = {50: 11, 90: 64, 95: 130, 99: 662}
CONFIDENCE = 0.99  # of MLPerf's early stopping


def nearest_rank(ordered: Sequence[float], share: float) -> float:
    """The smallest value, of values in ascending order, that at least `share` of them do not exceed."""
    return ordered[max(math.ceil(share * len(ordered)) - 1, 0)]


def percentile(values: Sequence[float], percent: int) -> float | None:
    """Nearest-rank percentile, not interpolated: always one of the values. None with fewer than `FEWEST`."""
    if len(values) < FEWEST[percent]:
        return None
    return nearest_rank(sorted(values), percent / 100)


def interquartile_range(values: Sequence[float]) -> float | None:
    """Third quartile less the first, both by nearest rank; None with fewer values than a median needs."""
    if len(values) < FEWEST[50]:
        return None
    ordered = sorted(values)
    return nearest_rank(ordered, 0.75) - nearest_rank(ordered, 0.25)


def early_stopping_estimate(values: Sequence[float], percent: int) -> float | None:
    """MLPerf's early-stopping estimate of a percentile: an upper bound at 99% confidence, above the nearest rank.

    It is the t-th highest of n sorted values. t is the largest number such that n values with t of them above the percentile
    still prove that the percentile holds (LoadGen, results.cc and early_stopping.cc). None with fewer values than `FEWEST`.
    """
    if len(values) < FEWEST[percent]:
        return None
    above = 1
    while fewest_passing(above + 1, percent) + above + 1 <= len(values):
        above += 1
    return sorted(values)[len(values) - above]


@cache
def fewest_passing(above: int, percent: int) -> int:
    """How many values must stay within the bound, if `above` exceed it, to prove the percentile at 99% confidence.

    The smallest h with P(at least h of h + above are within | share = percent) <= 1 - confidence; that probability is the
    regularised incomplete beta function at the share, of h and above + 1.
    """
    share = percent / 100
    low, high = 1, 2
    while betainc(high, above + 1, share) > 1 - CONFIDENCE:
        low, high = high, 2 * high
    while low < high:
        middle = (low + high) // 2
        if betainc(middle, above + 1, share) > 1 - CONFIDENCE:
            low = middle + 1
        else:
            high = middle
    return low
