"""The highest arrival rate that a server answers within a bound, by search over rates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from trainables.benchmark.scenarios.loadgen import ServerResult

FINE = 1.03  # rates closer together than this are not told apart: response times near saturation vary more
STEP = 2.0  # until a rate that meets the bound and one that does not are known
BACK_OFF, CONFIRMATIONS = 0.95, 4


@dataclass(frozen=True)
class RateSearch:
    """The full-length run at the highest rate found, or the probe at the lowest one tried if none met the bound; and every
    probe, as rate and whether it met the bound."""

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
    """Bisect between a rate that meets the bound and one that does not, then confirm by a run of full length.

    A probe is short and errs both ways, so a rate that does not hold for the full length, or holds without LoadGen's 99%
    confidence, is lowered by 5%, up to three times.

    Args:
        probe: a short run at a rate, a second.
        confirm: a run that counts.
        start: where to begin, a rate that the server is likely to meet.
        probes: how many probes at most.
        lowest: below it no rate is tried.
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
