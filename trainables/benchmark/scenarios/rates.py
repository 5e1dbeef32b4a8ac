"""Search for the highest arrival rate that a server answers within a bound."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from trainables.benchmark.scenarios.loadgen import ServerResult

FINE = 1.03  # closer rates are not distinguished: response times vary more than this near saturation
STEP = 2.0  # until the search has a rate that meets the bound and one that misses it
BACK_OFF, CONFIRMATIONS = 0.95, 4


@dataclass(frozen=True)
class RateSearch:
    """The run of full length at the highest rate, or the probe at the lowest rate if no rate met the bound.

    `probes` holds every probed rate and whether it met the bound.
    """

    result: ServerResult
    probes: tuple[tuple[float, bool], ...]


def highest_rate(
    probe: Callable[[float], ServerResult],
    confirm: Callable[[float], ServerResult],
    *,
    start: float,
    probes: int,
    lowest: float = 0.0,
) -> RateSearch:
    """Bisect between a rate that meets the bound and one that misses it, then confirm by a run of full length.

    A probe is short and errs both ways. A rate that fails at full length, or passes without LoadGen's 99% confidence, is
    lowered by 5%, up to three times.

    Args:
        probe: a short run at a rate, per second.
        confirm: the run that counts.
        start: the first rate, which the server is likely to meet.
        probes: the most probes.
        lowest: no lower rate is tried.
    """
    tried: dict[float, ServerResult] = {}
    met, missed, rate = 0.0, float("inf"), max(start, lowest)
    for _ in range(probes):
        tried[rate] = probe(rate)
        if tried[rate].meets:
            met = rate
        else:
            missed = rate
        if (met and missed < met * FINE) or missed <= lowest:
            break
        if missed == float("inf"):
            rate = met * STEP
        elif not met:
            rate = max(missed / STEP, lowest)
        else:
            rate = (met * missed) ** 0.5
    probed = tuple((rate, result.meets) for rate, result in tried.items())
    if not met:
        return RateSearch(tried[min(tried)], probed)
    rate = met
    for _ in range(CONFIRMATIONS):
        result = confirm(rate)
        if result.meets and result.valid:
            break
        rate *= BACK_OFF
    return RateSearch(result, probed)
