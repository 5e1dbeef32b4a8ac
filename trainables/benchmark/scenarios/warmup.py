"""Warming up until service times are stable, instead of for a fixed number of queries."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from trainables.benchmark.scenarios.timing import Clock, timed_calls


@dataclass(frozen=True)
class WarmUpRule:
    """Service is stable when the median of the last `window` queries is within `tolerance` (a share) of the window before."""

    window: int = 10
    tolerance: float = 0.05
    max_s: float = 10.0

    def __post_init__(self) -> None:
        if self.window < 1 or self.tolerance < 0 or self.max_s <= 0:
            raise ValueError(f"{self}: window must be at least 1, tolerance at least 0, max_s positive")


@dataclass(frozen=True)
class WarmUp:
    """Queries and seconds of a warm-up, its last median (an estimate of the service time), and whether it ended stable."""

    queries: int
    seconds: float
    median_s: float
    stable: bool


def warm_up(serve: Callable[[int], object], rule: WarmUpRule, clock: Clock) -> WarmUp:
    """Serve the first `window` queries over and over, until service is stable or `max_s` has passed.

    Every window serves the same queries: otherwise different lengths would look like instability.
    """
    times: list[float] = []
    elapsed_s, stable = 0.0, False
    for call in timed_calls(lambda number: serve(number % rule.window), clock):
        times.append(call.seconds)
        elapsed_s += call.seconds
        stable = _is_stable(times[-2 * rule.window :], rule)
        if stable or elapsed_s >= rule.max_s:
            break
    return WarmUp(len(times), elapsed_s, median(times[-rule.window :]), stable)


def _is_stable(recent: Sequence[float], rule: WarmUpRule) -> bool:
    """Of the times of the last two windows."""
    if len(recent) < 2 * rule.window:
        return False
    previous, last = median(recent[: rule.window]), median(recent[rule.window :])
    return abs(last - previous) <= rule.tolerance * previous
