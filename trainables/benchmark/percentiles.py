"""Percentiles of service times, given only where there are enough of them."""

from __future__ import annotations

import math
from collections.abc import Sequence

# The fewest queries for which MLPerf's early stopping can estimate the percentile (LoadGen prints "would need to
# process at least 662 total queries" and so on); below it one outlier decides the value.
FEWEST = {50: 11, 90: 64, 95: 130, 99: 662}


def nearest_rank(ordered: Sequence[float], share: float) -> float:
    """The smallest of the values (in ascending order) that at least that share of them does not exceed."""
    return ordered[max(math.ceil(share * len(ordered)) - 1, 0)]


def percentile(values: Sequence[float], percent: int) -> float | None:
    """Nearest-rank percentile, without interpolation: always a value that occurred. None with fewer than `FEWEST`."""
    if len(values) < FEWEST[percent]:
        return None
    return nearest_rank(sorted(values), percent / 100)


def interquartile_range(values: Sequence[float]) -> float | None:
    """Third less first quartile by nearest rank; None with fewer than the median needs."""
    if len(values) < FEWEST[50]:
        return None
    ordered = sorted(values)
    return nearest_rank(ordered, 0.75) - nearest_rank(ordered, 0.25)
