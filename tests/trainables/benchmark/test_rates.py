"""The search for a rate, on simulated queues whose answer queueing theory knows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from trainables.benchmark.scenarios.loadgen import ServerResult
from trainables.benchmark.scenarios.rates import highest_rate

Times = Sequence[float]


def _simulated(times: Times, bound_s: float, queries: int) -> Callable[[float], ServerResult]:
    """Lindley's recursion: one server, Poisson arrivals, first come, first served."""

    def probe(rate: float) -> ServerResult:
        rng = np.random.default_rng(round(rate * 1000))
        gaps, service = rng.exponential(1 / rate, queries), rng.choice(np.asarray(times), queries)
        wait, responses = 0.0, np.empty(queries)
        for index in range(queries):
            responses[index] = wait + service[index]
            wait = max(0.0, wait + service[index] - gaps[index])
        p50, p90, p99 = (float(np.quantile(responses, share)) for share in (0.5, 0.9, 0.99))
        return ServerResult(rate, bound_s, p50, p90, p99, float(responses.mean()), queries, p99 <= bound_s, True, ())

    return probe


def _md1_wait_within(rate: float, service: float, seconds: float) -> float:
    """P(wait <= t) of M/D/1 (Erlang 1909; Tijms, A First Course in Stochastic Models, 9.6)."""
    total = 0.0
    for k in range(int(seconds / service) + 1):
        reach = rate * (k * service - seconds)
        total += reach**k / math.factorial(k) * math.exp(-reach)
    return (1 - rate * service) * total


def test_the_highest_rate_is_that_of_queueing_theory() -> None:
    service, bound_s = 0.002, 0.012
    low, high = 0.0, 1 / service
    for _ in range(50):  # bisect for the highest rate at which 99% wait no longer than the bound allows
        middle = (low + high) / 2
        low, high = (middle, high) if _md1_wait_within(middle, service, bound_s - service) >= 0.99 else (low, middle)
    probe = _simulated([service], bound_s, 20_000)
    for start in (50.0, 400.0, 3000.0):
        search = highest_rate(probe, probe, start=start, probes=14)
        assert search.result.meets
        assert search.result.rate == pytest.approx(low, rel=0.05), start


def test_a_rate_that_does_not_hold_for_the_full_length_is_lowered() -> None:
    lenient = _simulated([0.002], 0.05, 2000)
    strict = _simulated([0.002], 0.008, 20_000)
    search = highest_rate(lenient, strict, start=400.0, probes=6)
    assert search.result.rate < max(rate for rate, met in search.probes if met)


def test_no_rate_meets_a_bound_below_the_service_time() -> None:
    probe = _simulated([0.02], 0.01, 1000)
    search = highest_rate(probe, probe, start=40.0, probes=5)
    assert not search.result.meets
    assert search.result.rate == min(rate for rate, _ in search.probes) == 40.0 / 2**4
    search = highest_rate(probe, probe, start=40.0, probes=20, lowest=5.0)
    assert [rate for rate, _ in search.probes] == [40.0, 20.0, 10.0, 5.0]
