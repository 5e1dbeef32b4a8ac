"""Warming up until service times are stable, instead of a fixed number of queries."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

Clock = Callable[[], float]


@dataclass(frozen=True)
class WarmUpRule:
    """Stable: the median of the last `window` queries is within `tolerance` (a share) of that of the window before."""

    window: int = 10
    tolerance: float = 0.05
    max_s: float = 10.0

    def __post_init__(self) -> None:
        if self.window < 1 or self.tolerance < 0 or self.max_s <= 0:
            raise ValueError(f"{self}: a window of at least 1, a tolerance of at least 0, a positive cap in seconds")


@dataclass(frozen=True)
class WarmUp:
    """What warming up took, the last median (an estimate of the service time), and whether it ended stable."""

    queries: int
    seconds: float
    median_s: float
    stable: bool


def warm_up(serve: Callable[[int], object], rule: WarmUpRule, clock: Clock) -> WarmUp:
    """Serve the first `window` queries over and over, so that windows have equal lengths, until stable or the cap."""
    times: list[float] = []
    start = now = clock()
    while True:
        serve(len(times) % rule.window)
        before, now = now, clock()
        times.append(now - before)
        last = median(times[-rule.window :])
        if len(times) >= 2 * rule.window:
            previous = median(times[-2 * rule.window : -rule.window])
            if abs(last - previous) <= rule.tolerance * previous:
                return WarmUp(len(times), now - start, last, stable=True)
        if now - start >= rule.max_s:
            return WarmUp(len(times), now - start, last, stable=False)
