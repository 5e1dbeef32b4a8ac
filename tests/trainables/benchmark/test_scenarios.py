"""LoadGen's scenarios against fake services whose times are known, and the search for a rate against queueing theory.

What other programs take from this machine can only make things later. Lower limits are therefore always asserted, and upper
ones where nothing else was busy meanwhile, as the benchmark itself judges it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch

from trainables.benchmark.probes.interference import InterferenceWatch
from trainables.benchmark.scenarios.loadgen import LoadSettings, ServerResult, offline, server, single_stream
from trainables.benchmark.scenarios.percentiles import FEWEST, early_stopping_estimate, fewest_passing, percentile
from trainables.benchmark.scenarios.rates import highest_rate

SAMPLES = 200
# What sleeping, a thread that must be woken and LoadGen's own work add to a service on a machine that does other things too.
SLACK_S = 0.0015
BUSY_CORES = 0.5
Times = Sequence[float]


def _pareto(shape: float, least: float) -> list[float]:
    """Quantiles of a Pareto distribution: a few samples take many times as long as most."""
    return [least / (1 - (place + 0.5) / SAMPLES) ** (1 / shape) for place in range(SAMPLES)]


CONSTANT: Times = [0.002] * SAMPLES
BIMODAL: Times = [0.001] * 170 + [0.006] * 30
HEAVY: Times = _pareto(1.5, 0.0005)
SERVICES = pytest.mark.parametrize("times", [CONSTANT, BIMODAL, HEAVY], ids=["constant", "bimodal", "heavy-tailed"])


class Quiet:
    """How much later than expected something may be, given what else ran since this was made."""

    def __init__(self) -> None:
        self._watch = InterferenceWatch(torch.device("cpu"), threads=1)

    def limit(self, seconds: float) -> float:
        return seconds if self._watch.read().other_cores_busy < BUSY_CORES else math.inf


def sleeps(times: Times) -> Callable[[int], None]:
    return lambda index: time.sleep(times[index])


def batch_sleeps(times: Times) -> Callable[[Sequence[int]], None]:
    return lambda batch: time.sleep(sum(times[index] for index in batch))


def quantile(times: Times, share: float) -> float:
    return sorted(times)[min(max(math.ceil(share * len(times)) - 1, 0), len(times) - 1)]


@SERVICES
def test_single_stream_reports_the_percentiles_of_the_service(times: Times) -> None:
    """Within three standard errors of the share: a sample quantile lies between the true ones of p - 3s and p + 3s."""
    load, quiet = LoadSettings(min_duration_s=0.1, min_queries=FEWEST[99], max_duration_s=20.0), Quiet()
    result = single_stream(sleeps(times), SAMPLES, load, expected_latency_s=float(np.mean(times)))
    assert result.valid, result.problems
    for percent in (50, 90, 99):
        share = percent / 100
        error = 3 * math.sqrt(share * (1 - share) / len(result.service_s))
        found = result.percentile_s(percent)
        assert found is not None
        assert quantile(times, share - error) <= found, percent
        assert found <= quiet.limit(quantile(times, share + error) + SLACK_S), percent
    slow = {index for index in range(SAMPLES) if times[index] == max(times)}
    assert min(result.of(slow)) >= max(times)  # each time is with the sample that it was of


@SERVICES
def test_offline_throughput_is_one_over_the_mean_service(times: Times) -> None:
    load = LoadSettings(min_duration_s=0.5, min_queries=1, max_duration_s=10.0)
    rate, quiet = 1 / float(np.mean(times)), Quiet()
    result = offline(
        batch_sleeps(times),
        SAMPLES,
        load,
        batches=lambda indices: [indices[start : start + 10] for start in range(0, len(indices), 10)],
        expected_sps=1.2 * rate,
    )
    assert result.samples_per_s <= 1.15 * rate  # drawn with replacement: the mean of those drawn varies
    assert 1 / result.samples_per_s <= quiet.limit(1 / (0.75 * rate))


@pytest.mark.parametrize("times", [CONSTANT, BIMODAL], ids=["constant", "bimodal"])
def test_server_waits_as_queueing_theory_says(times: Times) -> None:
    """Pollaczek-Khinchine: the mean wait of M/G/1 is rate x E[S^2] / (2 (1 - load)); half of the time it is free here."""
    own, quiet = _with_overhead(times), Quiet()
    rate = 0.5 / float(np.mean(own))
    load = LoadSettings(min_duration_s=1.0, min_queries=FEWEST[99], max_duration_s=20.0)
    result = server(batch_sleeps(times), SAMPLES, load, rate=rate, bound_s=0.1)
    expected_s = float(np.mean(own) + rate * np.mean(np.square(own)) / (2 * (1 - 0.5)))
    assert result.queries >= FEWEST[99]
    assert result.mean_s is not None
    assert 0.75 * expected_s < result.mean_s < quiet.limit(1.5 * expected_s + SLACK_S)
    assert result.p50_s is not None
    assert result.p99_s is not None
    assert result.p50_s < result.p99_s < quiet.limit(0.1)
    assert result.meets == (result.p99_s <= 0.1)


def _with_overhead(times: Times) -> list[float]:
    """What a sleep of these lengths really takes, here and now."""
    start = time.perf_counter()
    for _ in range(100):
        time.sleep(0.001)
    extra = (time.perf_counter() - start) / 100 - 0.001
    return [one + extra for one in times]


def test_server_saturates_at_one_over_the_service_time() -> None:
    """At three halves of what it can serve the queue grows all the time; batches of what waits make room again."""
    load, quiet = LoadSettings(min_duration_s=0.5, min_queries=FEWEST[99], max_duration_s=20.0), Quiet()
    over = server(batch_sleeps(CONSTANT), SAMPLES, load, rate=750.0, bound_s=0.02)
    assert not over.meets
    assert not over.valid
    assert over.p99_s is not None
    assert over.p99_s > 0.1  # a third of 662 queries x 2 ms are left when the last one comes
    together = server(lambda batch: time.sleep(0.002), SAMPLES, load, rate=750.0, bound_s=0.05, largest_batch=8)
    assert together.p99_s is not None
    assert together.p99_s < quiet.limit(over.p99_s / 4)


def test_a_stall_of_a_second_shows_in_servers_p99_and_not_in_single_streams() -> None:
    """Coordinated omission: one user who waits asks nothing meanwhile, and misses the stall; many users do not."""
    stalled = False

    def stalls(batch: Sequence[int]) -> None:
        nonlocal stalled
        time.sleep(0.001 if stalled else 1.0)
        stalled = True

    load, quiet = LoadSettings(min_duration_s=2.0, min_queries=FEWEST[99], max_duration_s=20.0), Quiet()
    result = server(stalls, SAMPLES, load, rate=300.0, bound_s=0.1)
    assert result.p99_s is not None
    assert 0.8 < result.p99_s < quiet.limit(1.5)
    assert not result.meets
    stalled = False
    alone = single_stream(lambda index: stalls([index]), SAMPLES, load, expected_latency_s=0.001)
    p99_s = alone.percentile_s(99)
    assert p99_s is not None
    assert p99_s < quiet.limit(0.1)


def test_a_server_run_is_given_up_when_the_bound_cannot_be_met_any_more() -> None:
    served: list[int] = []

    def slow(batch: Sequence[int]) -> None:
        served.extend(batch)
        time.sleep(0.01)

    load = LoadSettings(min_duration_s=0.1, min_queries=FEWEST[99], max_duration_s=20.0)
    result = server(slow, SAMPLES, load, rate=1000.0, bound_s=0.002, give_up=True)
    assert not result.meets
    assert not result.valid
    assert result.p99_s is None
    assert "given up" in result.problems[0]
    assert len(served) < 60  # of 662, and each of them is late


def test_too_few_queries_for_a_p99_are_no_result() -> None:
    load = LoadSettings(min_duration_s=0.2, min_queries=50, max_duration_s=5.0)
    result = server(batch_sleeps([0.0005] * SAMPLES), SAMPLES, load, rate=300.0, bound_s=0.1)
    assert result.p99_s is None
    assert not result.meets
    assert any("needs 662" in problem for problem in result.problems)


def test_a_run_lasts_no_longer_than_its_maximum_however_few_queries_came() -> None:
    load = LoadSettings(min_duration_s=0.2, min_queries=FEWEST[99], max_duration_s=1.0)
    start = time.perf_counter()
    result = server(batch_sleeps(CONSTANT), SAMPLES, load, rate=50.0, bound_s=0.1, give_up=True)
    assert time.perf_counter() - start < 3
    assert 20 < result.queries < 110
    assert result.p99_s is None
    assert any("needs 662" in problem for problem in result.problems)


def test_an_error_of_a_service_that_others_wait_for_surfaces() -> None:
    short = LoadSettings(min_duration_s=0.2, min_queries=1, max_duration_s=1.0)
    with pytest.raises(ZeroDivisionError):
        server(lambda batch: 1 // 0, SAMPLES, short, rate=200.0, bound_s=0.1)
    assert single_stream(lambda index: time.sleep(0.001), 3, short, expected_latency_s=0.001).valid


# The search, on simulated queues


def _simulated(times: Times, bound_s: float, queries: int) -> Callable[[float], ServerResult]:
    """Lindley's recursion: one server, Poisson arrivals, first come first served."""

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


def test_the_rate_that_is_found_is_the_one_of_queueing_theory() -> None:
    service, bound_s = 0.002, 0.012
    low, high = 0.0, 1 / service
    for _ in range(50):  # the highest rate at which 99% wait no longer than the bound leaves
        middle = (low + high) / 2
        low, high = (middle, high) if _md1_wait_within(middle, service, bound_s - service) >= 0.99 else (low, middle)
    probe = _simulated([service], bound_s, 20_000)
    for start in (50.0, 400.0, 3000.0):
        found = highest_rate(probe, probe, start=start, probes=14)
        assert found.result.meets
        assert found.result.rate == pytest.approx(low, rel=0.05), start


def test_a_rate_that_does_not_hold_for_the_full_length_is_lowered() -> None:
    kind = _simulated([0.002], 0.05, 2000)
    strict = _simulated([0.002], 0.008, 20_000)
    found = highest_rate(kind, strict, start=400.0, probes=6)
    assert found.result.rate < max(rate for rate, met in found.probes if met)


def test_no_rate_meets_a_bound_below_the_service_time() -> None:
    probe = _simulated([0.02], 0.01, 1000)
    found = highest_rate(probe, probe, start=40.0, probes=5)
    assert not found.result.meets
    assert found.result.rate == min(rate for rate, _ in found.probes) == 40.0 / 2**4
    found = highest_rate(probe, probe, start=40.0, probes=20, lowest=5.0)
    assert [rate for rate, _ in found.probes] == [40.0, 20.0, 10.0, 5.0]


# Early stopping


@pytest.mark.parametrize("percent", [50, 90, 95, 99])
def test_the_fewest_queries_are_those_of_loadgen(percent: int) -> None:
    """With one query above the percentile, as LoadGen's message counts them."""
    assert fewest_passing(1, percent) + 1 == FEWEST[percent]


def test_the_early_stopping_estimate_is_above_the_percentile_and_nears_it() -> None:
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


def test_a_bound_of_99_percent_holds_as_often_as_it_says() -> None:
    """Of 2,000 samples of 200 values, the estimate of p90 is below the true p90 in about 1%."""
    rng = np.random.default_rng(1)
    truth = -math.log(0.1)
    estimates = [early_stopping_estimate(list(rng.exponential(1.0, 200)), 90) for _ in range(2000)]
    below = sum(estimate is not None and estimate < truth for estimate in estimates)
    assert below <= 40
