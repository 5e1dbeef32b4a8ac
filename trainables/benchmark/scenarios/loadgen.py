"""LoadGen scenarios: SingleStream (one user, one query after the other), Server (queries arrive by chance, as those of many
users do) and Offline (everything at once).

MLPerf Inference's load generator decides what is served when, and whether a run was long enough to count. One test at a
time runs in a process. A further scenario is one more function over `_run`.
"""

from __future__ import annotations

import json
import queue
import tempfile
import threading
import time
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlperf_loadgen as lg

from trainables.benchmark.scenarios.percentiles import FEWEST, interquartile_range, percentile

LOG, MARK = "mlperf_log_detail.txt", ":::MLLOG "
AGREE_SHARE, AGREE_S = 0.05, 1e-4  # our times lack LoadGen's own cost of a query, some microseconds
QUERIES_AHEAD = 2.0  # LoadGen draws queries for an expected speed and ends early, INVALID, where serving is faster
BOUND_PERCENT = 99  # of Server's queries, as in MLPerf's
_one_test = threading.Lock()


@dataclass(frozen=True)
class LoadSettings:
    """How long a scenario runs: until both minima are met, but at most the maximum. The seed draws the queries."""

    min_duration_s: float
    min_queries: int
    max_duration_s: float
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.min_duration_s <= self.max_duration_s or self.min_queries < 1:
            raise ValueError(
                f"{self}: durations are positive, the maximum not below the minimum, and at least one query"
            )


@dataclass(frozen=True)
class LatencyResult:
    """Service times of single queries in seconds, in the order served, with the sample that each of them was of; `problems`
    say why a result is not valid."""

    service_s: tuple[float, ...]
    samples: tuple[int, ...]
    loadgen_p50_s: float
    valid: bool
    problems: tuple[str, ...]

    def percentile_s(self, percent: int) -> float | None:
        """Nearest rank; None where there are too few queries for it."""
        return percentile(self.service_s, percent)

    def of(self, samples: Set[int]) -> list[float]:
        """Service times of some of the samples."""
        return [seconds for seconds, sample in zip(self.service_s, self.samples, strict=True) if sample in samples]

    def spread_s(self) -> float | None:
        """Interquartile range of service times."""
        return interquartile_range(self.service_s)


@dataclass(frozen=True)
class ServerResult:
    """Response times in seconds from the scheduled arrival of a query to its answer, waiting included; LoadGen's own.

    `meets`: `BOUND_PERCENT` percent of the `queries` at this rate were answered within `bound_s`. A percentile that has too
    few queries is None, and so is each where the run was given up.
    """

    rate: float
    bound_s: float
    p50_s: float | None
    p90_s: float | None
    p99_s: float | None
    mean_s: float | None
    queries: int
    meets: bool
    valid: bool
    problems: tuple[str, ...]


@dataclass(frozen=True)
class ThroughputResult:
    """Samples a second over the `served` samples, from the issue of the query to the end of its last batch."""

    samples_per_s: float
    served: int
    valid: bool
    problems: tuple[str, ...]


def single_stream(
    serve: Callable[[int], object], samples: int, settings: LoadSettings, *, expected_latency_s: float
) -> LatencyResult:
    """Serve one sample at a time, drawn with replacement from `samples`; the next one when the last is finished.

    Raises:
        Exception: whatever `serve` raised first, once LoadGen has stopped.
    """
    service_s: list[float] = []
    served: list[int] = []

    def issue(indices: Sequence[int], _: float) -> None:
        for index in indices:
            start = time.perf_counter()
            serve(index)
            service_s.append(time.perf_counter() - start)
            served.append(index)

    test = _test(lg.TestScenario.SingleStream, settings)
    test.single_stream_expected_latency_ns = max(int(expected_latency_s / QUERIES_AHEAD * 1e9), 1)
    log = _run(test, samples, issue)
    p50_s = log["result_50.00_percentile_latency_ns"] / 1e9
    problems = _problems(log)
    own = percentile(service_s, 50)
    if own is not None and abs(own - p50_s) > max(AGREE_SHARE * p50_s, AGREE_S):
        problems.append(f"LoadGen's median is {p50_s:.6f} s, the one measured around the service {own:.6f} s")
    return LatencyResult(tuple(service_s), tuple(served), p50_s, not problems, tuple(problems))


def offline(
    serve_batch: Callable[[Sequence[int]], object],
    samples: int,
    settings: LoadSettings,
    *,
    batches: Callable[[Sequence[int]], Sequence[Sequence[int]]],
    expected_sps: float,
) -> ThroughputResult:
    """Serve one query of as many samples as the minimum duration takes at the expected speed, in the given batches.

    LoadGen cannot interrupt a query: after the maximum duration the batches left over are dropped, and the result is
    not valid.

    Raises:
        Exception: whatever `serve_batch` raised first, once LoadGen has stopped.
    """
    served, elapsed_s = 0, 0.0

    def issue(indices: Sequence[int], start: float) -> None:
        nonlocal served, elapsed_s
        for batch in batches(indices):
            if elapsed_s > settings.max_duration_s:
                return
            serve_batch(batch)
            served += len(batch)
            elapsed_s = time.perf_counter() - start

    test = _test(lg.TestScenario.Offline, settings)
    test.offline_expected_qps = expected_sps
    log = _run(test, samples, issue)
    samples_per_s = served / elapsed_s
    problems = _problems(log)
    issued = int(log["generated_samples_per_query"])
    if served < issued:
        problems.append(f"stopped after {elapsed_s:.1f} s with {served} of {issued} samples served")
    else:
        loadgen_sps = float(log["result_samples_per_second"])
        if abs(loadgen_sps - samples_per_s) > AGREE_SHARE * loadgen_sps:
            problems.append(f"LoadGen counts {loadgen_sps:.1f} samples/s, the serving side {samples_per_s:.1f}")
    return ThroughputResult(samples_per_s, served, not problems, tuple(problems))


def server(
    serve_batch: Callable[[Sequence[int]], object],
    samples: int,
    settings: LoadSettings,
    *,
    rate: float,
    bound_s: float,
    largest_batch: int = 1,
    give_up: bool = False,
) -> ServerResult:
    """Serve samples that arrive at random (a Poisson process of `rate` a second), in the order of arrival.

    One thread serves; what waits when it is free goes together, at most `largest_batch` at a time. With `give_up` nothing more
    is served once more queries are late than the bound allows, and the other figures are unknown. LoadGen itself cannot be
    stopped: it waits for the arrivals that are left, up to the maximum duration.

    Raises:
        Exception: whatever `serve_batch` raised first, once LoadGen has stopped.
    """
    waiting: queue.SimpleQueue[tuple[Any, float] | None] = queue.SimpleQueue()
    planned = max(rate * settings.min_duration_s, settings.min_queries)
    allowed_late = planned * (1 - BOUND_PERCENT / 100)
    failures: list[BaseException] = []
    arrived = late = 0

    def take() -> list[tuple[Any, float]]:
        """What waits, at least one; nothing when all has come."""
        first = waiting.get()
        taken = [] if first is None else [first]
        while taken and len(taken) < largest_batch and not waiting.empty():
            if (one := waiting.get()) is None:
                waiting.put(None)
                break
            taken.append(one)
        return taken

    def work() -> None:
        nonlocal late
        while taken := take():
            try:
                if not failures and not (give_up and late > allowed_late):
                    serve_batch([query.index for query, _ in taken])
                    done = time.perf_counter()
                    late += sum(done - arrival > bound_s for _, arrival in taken)
            except BaseException as error:
                failures.append(error)
            finally:
                lg.QuerySamplesComplete([lg.QuerySampleResponse(query.id, 0, 0) for query, _ in taken])

    def arrive(queries: Sequence[Any]) -> None:
        nonlocal arrived
        now = time.perf_counter()
        for query in queries:
            arrived += 1
            waiting.put((query, now))

    test = _test(lg.TestScenario.Server, settings)
    test.server_target_qps = rate
    test.server_target_latency_ns = max(int(bound_s * 1e9), 1)
    test.server_target_latency_percentile = BOUND_PERCENT / 100
    worker = threading.Thread(target=work, name="server")
    worker.start()
    try:
        log = _run_test(test, samples, arrive)
    finally:
        waiting.put(None)
        worker.join()
    if failures:
        raise failures[0]
    if give_up and late > allowed_late:
        reason = (
            f"given up: more than {allowed_late:.0f} of about {planned:.0f} queries took over {bound_s * 1000:g} ms"
        )
        return ServerResult(rate, bound_s, None, None, None, None, arrived, False, False, (reason,))
    problems = _problems(log)
    found = {
        percent: log[f"result_{percent:.2f}_percentile_latency_ns"] / 1e9 if arrived >= FEWEST[percent] else None
        for percent in (50, 90, 99)
    }
    if found[99] is None:
        problems.append(f"{arrived} queries arrived, and a p99 needs {FEWEST[99]}")
    meets = found[99] is not None and found[99] <= bound_s
    mean_s = log["result_mean_latency_ns"] / 1e9
    return ServerResult(
        *(rate, bound_s, found[50], found[90], found[99], mean_s, arrived, meets), not problems, tuple(problems)
    )


def _test(scenario: Any, settings: LoadSettings) -> Any:
    test = lg.TestSettings()
    test.scenario, test.mode = scenario, lg.TestMode.PerformanceOnly
    test.min_duration_ms = max(int(settings.min_duration_s * 1000), 1)
    test.max_duration_ms = max(int(settings.max_duration_s * 1000), 1)
    test.min_query_count = settings.min_queries
    test.qsl_rng_seed = test.sample_index_rng_seed = test.schedule_rng_seed = settings.seed
    return test


def _run(test: Any, samples: int, issue: Callable[[Sequence[int], float], None]) -> dict[str, Any]:
    """Run one test; `issue` gets sample indices and the time of issue. Returns the log, the last value of each key.

    Once an issue has failed, every further query is completed unserved, so that LoadGen comes to its end within
    milliseconds; then the error is raised. An exception that crossed into C++ would end the process.
    """
    failures: list[BaseException] = []

    def complete(queries: Sequence[Any]) -> None:
        start = time.perf_counter()
        try:
            if not failures:
                issue([query.index for query in queries], start)
        except BaseException as error:  # KeyboardInterrupt too: re-raised below
            failures.append(error)
        finally:
            lg.QuerySamplesComplete([lg.QuerySampleResponse(query.id, 0, 0) for query in queries])

    log = _run_test(test, samples, complete)
    if failures:
        raise failures[0]
    return log


def _run_test(test: Any, samples: int, issue: Callable[[Sequence[Any]], None]) -> dict[str, Any]:
    """Run one test to its end; `issue` sees to it that each query is completed, and raises nothing."""
    with _one_test, tempfile.TemporaryDirectory(prefix="loadgen-") as folder:
        output = lg.LogOutputSettings()
        output.outdir, output.copy_summary_to_stdout = folder, False
        logs = lg.LogSettings()
        logs.log_output, logs.enable_trace = output, False
        system = lg.ConstructSUT(issue, _nothing)
        library = lg.ConstructQSL(samples, samples, _nothing, _nothing)
        try:
            lg.StartTestWithLogSettings(system, library, test, logs, "")
        finally:
            lg.DestroyQSL(library)
            lg.DestroySUT(system)
        return _read_log(Path(folder) / LOG)


def _nothing(*_: Any) -> None:
    """Samples stay in memory and nothing is queued on our side, so there is nothing to load, unload or flush."""


def _read_log(path: Path) -> dict[str, Any]:
    lines = [line.partition(MARK)[2] for line in path.read_text().splitlines() if MARK in line]
    return {entry["key"]: entry["value"] for entry in map(json.loads, lines)}


def _problems(log: dict[str, Any]) -> list[str]:
    if log["result_validity"] == "VALID":
        return []
    # Where only the number of queries is at fault, the reason is empty and early stopping says how many there should be.
    said = (log.get("result_invalid_reason", ""), log.get("early_stopping_result", ""), "LoadGen gives no reason")
    return [next(text for text in (" ".join(str(one).split()) for one in said) if text)]
