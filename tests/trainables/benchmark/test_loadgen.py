"""LoadGen's scenarios against fake services of known duration.

Other programs on the machine can only delay things. Lower limits are therefore asserted always, and upper limits unless other
programs kept cores busy meanwhile.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch

from trainables.benchmark.probes.interference import InterferenceWatch
from trainables.benchmark.scenarios.loadgen import LoadSettings, offline, server, single_stream
from trainables.benchmark.scenarios.percentiles import FEWEST

SAMPLES = 200
# What sleep, waking a thread and LoadGen's own work add to a service time on a machine with background work.
SLACK_S = 0.0015
BUSY_CORES = 0.5
Times = Sequence[float]


def _pareto(shape: float, least: float) -> list[float]:
    """Quantiles of a Pareto distribution: a few samples take many times as long as the others."""
    return [least / (1 - (index + 0.5) / SAMPLES) ** (1 / shape) for index in range(SAMPLES)]


CONSTANT: Times = [0.002] * SAMPLES
BIMODAL: Times = [0.001] * 170 + [0.006] * 30
HEAVY: Times = _pareto(1.5, 0.0005)
SERVICES = pytest.mark.parametrize("times", [CONSTANT, BIMODAL, HEAVY], ids=["constant", "bimodal", "heavy-tailed"])


class Quiet:
    """Upper limits that hold unless other programs kept cores busy since construction."""

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
    """A sample quantile lies between the true quantiles of p - 3s and p + 3s, with s the standard error of the share."""
    load, quiet = LoadSettings(min_duration_s=0.1, min_queries=FEWEST[99], max_duration_s=20.0), Quiet()
    result = single_stream(sleeps(times), SAMPLES, load, expected_latency_s=float(np.mean(times)))
    assert result.valid, result.problems
    for percent in (50, 90, 99):
        share = percent / 100
        error = 3 * math.sqrt(share * (1 - share) / len(result.service_s))
        seconds = result.percentile_s(percent)
        assert seconds is not None
        assert quantile(times, share - error) <= seconds, percent
        assert seconds <= quiet.limit(quantile(times, share + error) + SLACK_S), percent
    slow = {index for index in range(SAMPLES) if times[index] == max(times)}
    assert min(result.times_of(slow)) >= max(times)  # each time belongs to its own sample


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
    assert result.samples_per_s <= 1.15 * rate  # samples are drawn with replacement, so their mean varies
    assert 1 / result.samples_per_s <= quiet.limit(1 / (0.75 * rate))


@pytest.mark.slow
@pytest.mark.parametrize("times", [CONSTANT, BIMODAL], ids=["constant", "bimodal"])
def test_server_response_times_agree_with_queueing_theory(times: Times) -> None:
    """At a load of one half."""
    own, quiet = _with_overhead(times), Quiet()
    rate = 0.5 / float(np.mean(own))
    load = LoadSettings(min_duration_s=1.0, min_queries=FEWEST[99], max_duration_s=20.0)
    result = server(batch_sleeps(times), SAMPLES, load, rate=rate, bound_s=0.1)
    # Without overhead for the lower limit: what other programs did while it was measured must not raise that limit.
    expected_s, least_s = _mean_response_s(own, rate), _mean_response_s(times, rate)
    assert result.queries >= FEWEST[99]
    assert result.mean_s is not None
    assert 0.75 * least_s < result.mean_s < quiet.limit(1.5 * expected_s + SLACK_S)
    assert result.p50_s is not None
    assert result.p99_s is not None
    assert result.p50_s < result.p99_s < quiet.limit(0.1)
    assert result.meets == (result.p99_s <= 0.1)


def _mean_response_s(times: Times, rate: float) -> float:
    """Pollaczek-Khinchine: the mean wait of M/G/1 is rate x E[S^2] / (2 (1 - load))."""
    mean_s = float(np.mean(times))
    return mean_s + rate * float(np.mean(np.square(times))) / (2 * (1 - rate * mean_s))


def _with_overhead(times: Times) -> list[float]:
    """What sleeps of these lengths take on this machine now."""
    start = time.perf_counter()
    for _ in range(100):
        time.sleep(0.001)
    extra = (time.perf_counter() - start) / 100 - 0.001
    return [seconds + extra for seconds in times]


@pytest.mark.slow
def test_server_saturates_at_one_over_the_service_time() -> None:
    """At 1.5 times its capacity the queue grows without limit; serving what waits in batches empties it again."""
    load, quiet = LoadSettings(min_duration_s=0.5, min_queries=FEWEST[99], max_duration_s=20.0), Quiet()
    over = server(batch_sleeps(CONSTANT), SAMPLES, load, rate=750.0, bound_s=0.02)
    assert not over.meets
    assert not over.valid
    assert over.p99_s is not None
    assert over.p99_s > 0.1  # a third of 662 queries of 2 ms are still waiting when the last one arrives
    together = server(lambda batch: time.sleep(0.002), SAMPLES, load, rate=750.0, bound_s=0.05, largest_batch=8)
    assert together.p99_s is not None
    assert together.p99_s < quiet.limit(over.p99_s / 4)


@pytest.mark.slow
def test_a_stall_of_a_second_shows_in_servers_p99_and_not_in_single_streams() -> None:
    """Coordinated omission: a single user who waits sends nothing meanwhile and misses the stall; many users meet it."""
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


def test_a_server_run_is_given_up_once_the_bound_can_no_longer_be_met() -> None:
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
    assert len(served) < 60  # of 662; each one is late


def test_server_has_no_p99_with_too_few_queries() -> None:
    load = LoadSettings(min_duration_s=0.2, min_queries=50, max_duration_s=5.0)
    result = server(batch_sleeps([0.0005] * SAMPLES), SAMPLES, load, rate=300.0, bound_s=0.1)
    assert result.p99_s is None
    assert not result.meets
    assert any("needs 662" in problem for problem in result.problems)


def test_a_server_run_ends_at_its_maximum_duration_even_with_too_few_queries() -> None:
    load = LoadSettings(min_duration_s=0.2, min_queries=FEWEST[99], max_duration_s=1.0)
    start = time.perf_counter()
    result = server(batch_sleeps(CONSTANT), SAMPLES, load, rate=50.0, bound_s=0.1, give_up=True)
    assert time.perf_counter() - start < 3
    assert 20 < result.queries < 110
    assert result.p99_s is None
    assert any("needs 662" in problem for problem in result.problems)


def test_an_error_of_the_service_in_server_is_raised() -> None:
    short = LoadSettings(min_duration_s=0.2, min_queries=1, max_duration_s=1.0)
    with pytest.raises(ZeroDivisionError):
        server(lambda batch: 1 // 0, SAMPLES, short, rate=200.0, bound_s=0.1)
    assert single_stream(lambda index: time.sleep(0.001), 3, short, expected_latency_s=0.001).valid


LOAD = LoadSettings(min_duration_s=0.3, min_queries=11, max_duration_s=2.0)


def in_fours(indices: Sequence[int]) -> list[Sequence[int]]:
    return [indices[start : start + 4] for start in range(0, len(indices), 4)]


def test_single_stream_finds_the_duration_of_a_known_service() -> None:
    result = single_stream(lambda index: time.sleep(0.002), 7, LOAD, expected_latency_s=0.002)
    p50_s = result.percentile_s(50)
    assert result.valid, result.problems
    assert p50_s is not None
    assert 0.002 <= p50_s < 0.004  # sleep never returns early; the upper limit allows for a busy machine
    assert result.loadgen_p50_s == pytest.approx(p50_s, rel=0.1)
    assert result.percentile_s(99) is None
    assert 0.3 / 0.004 < len(result.service_s) < 662


def test_single_stream_draws_from_all_samples_and_only_from_them() -> None:
    seen: set[int] = set()

    def serve(index: int) -> None:
        seen.add(index)
        time.sleep(0.001)

    single_stream(serve, 5, LOAD, expected_latency_s=0.001)
    assert seen == set(range(5))


def test_single_stream_is_invalid_if_it_is_too_slow_for_the_minimum_of_queries() -> None:
    demanding = LoadSettings(min_duration_s=0.1, min_queries=500, max_duration_s=0.2)
    result = single_stream(lambda index: time.sleep(0.02), 3, demanding, expected_latency_s=0.02)
    assert not result.valid
    assert "before enough queries" in result.problems[0]
    assert result.percentile_s(90) is None


def test_offline_throughput_is_that_of_a_known_service() -> None:
    result = offline(lambda batch: time.sleep(0.004), 9, LOAD, batches=in_fours, expected_sps=1000.0)
    assert 4 / 0.008 < result.samples_per_s <= 4 / 0.004
    assert result.served >= 300  # 1000 per second expected, for at least 0.3 s


def test_offline_is_invalid_if_it_ends_before_the_minimum_duration() -> None:
    result = offline(lambda batch: time.sleep(0.001), 9, LOAD, batches=in_fours, expected_sps=50.0)
    assert not result.valid
    assert "QPS" in result.problems[0]


def test_offline_stops_at_the_maximum_duration() -> None:
    short = LoadSettings(min_duration_s=0.1, min_queries=1, max_duration_s=0.2)
    result = offline(lambda batch: time.sleep(0.05), 9, short, batches=in_fours, expected_sps=100_000.0)
    assert not result.valid
    assert "stopped after" in result.problems[-1]
    assert result.samples_per_s == pytest.approx(80, rel=0.2)  # 4 per 0.05 s; dropped samples must not count


def test_an_exception_in_a_service_is_raised_and_does_not_hang() -> None:
    calls: list[int] = []

    def fails(index: int) -> None:
        calls.append(index)
        if len(calls) == 3:
            raise KeyError("lost weights")

    long = LoadSettings(min_duration_s=30.0, min_queries=662, max_duration_s=60.0)
    start = time.perf_counter()
    with pytest.raises(KeyError, match="lost weights"):
        single_stream(fails, 5, long, expected_latency_s=0.01)
    with pytest.raises(ZeroDivisionError):
        offline(lambda batch: 1 // 0, 5, long, batches=in_fours, expected_sps=100.0)
    assert len(calls) == 3
    assert time.perf_counter() - start < 5
    assert single_stream(lambda index: time.sleep(0.002), 3, LOAD, expected_latency_s=0.002).valid


def test_load_settings_refuse_a_maximum_below_the_minimum() -> None:
    with pytest.raises(ValueError, match="maximum not below the minimum"):
        LoadSettings(min_duration_s=2.0, min_queries=1, max_duration_s=1.0)
