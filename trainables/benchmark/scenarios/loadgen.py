"""LoadGen's scenarios: SingleStream (one user, one query after the other), Server (queries arrive at random, from many users)
and Offline (all queries at once).

MLPerf Inference's load generator decides what is served when, and whether a run was long enough to count. Its tests are
process-wide: only one runs at a time. A further scenario is one more function over `_run`.
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
from typing import Any, Self

import mlperf_loadgen as lg

from trainables.benchmark.scenarios.percentiles import FEWEST, interquartile_range, percentile

LOG, MARK = "mlperf_log_detail.txt", ":::MLLOG "
AGREE_SHARE, AGREE_S = 0.05, 1e-4  # our times lack LoadGen's own cost per query, a few microseconds
QUERIES_AHEAD = 2.0  # LoadGen draws queries for an expected speed; faster serving ends a run early, as INVALID
BOUND_PERCENT = 99  # of Server's queries, as MLPerf sets it
_one_test = threading.Lock()


@dataclass(frozen=True)
class LoadSettings:
    """How long a scenario runs: until both minima are met, but no longer than the maximum. The seed draws the queries."""

    min_duration_s: float
    min_queries: int
    max_duration_s: float
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.min_duration_s <= self.max_duration_s or self.min_queries < 1:
            raise ValueError(
                f"{self}: durations must be positive, the maximum not below the minimum, min_queries at least 1"
            )


@dataclass(frozen=True)
class LatencyResult:
    """Service times of single queries in seconds, in the order served, and the sample of each.

    `problems` says why a result is not valid.
    """

    service_s: tuple[float, ...]
    samples: tuple[int, ...]
    loadgen_p50_s: float
    valid: bool
    problems: tuple[str, ...]

    def percentile_s(self, percent: int) -> float | None:
        """Nearest rank; None if there are too few queries for it."""
        return percentile(self.service_s, percent)

    def times_of(self, samples: Set[int]) -> list[float]:
        """Service times of some of the samples."""
        return [seconds for seconds, sample in zip(self.service_s, self.samples, strict=True) if sample in samples]

    def spread_s(self) -> float | None:
        """Interquartile range of service times."""
        return interquartile_range(self.service_s)


@dataclass(frozen=True)
class ServerResult:
    """Response times in seconds, as LoadGen counts them: from the scheduled arrival of a query to its answer, waiting included.

    `meets`: `BOUND_PERCENT` percent of the `queries` at this rate were answered within `bound_s`. A percentile with too few
    queries is None; all of them are None in a run that was given up.
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
    """Samples per second over the `served` samples, from the issue of the query to the end of its last batch."""

    samples_per_s: float
    served: int
    valid: bool
    problems: tuple[str, ...]


# --- SingleStream and Offline


def single_stream(
    serve: Callable[[int], object], samples: int, settings: LoadSettings, *, expected_latency_s: float
) -> LatencyResult:
    """Serve one sample at a time, drawn with replacement from `samples`; each starts when the previous one is finished.

    Raises:
        Exception: the first exception of `serve`, once LoadGen has stopped.
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
    """Serve one query of as many samples as fill the minimum duration at the expected speed, split by `batches`.

    LoadGen cannot interrupt a query: after the maximum duration the remaining batches are dropped, and the result is not
    valid.

    Raises:
        Exception: the first exception of `serve_batch`, once LoadGen has stopped.
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


# --- Server


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
    """Serve samples that arrive at random (a Poisson process of `rate` per second), in the order of arrival.

    One thread serves: whenever it is free it takes what waits, at most `largest_batch` samples at a time. With `give_up` it
    stops serving once more queries are late than the bound allows. LoadGen itself cannot be stopped: it waits for the
    remaining arrivals, up to the maximum duration.

    Raises:
        Exception: the first exception of `serve_batch`, once LoadGen has stopped.
    """
    planned = max(rate * settings.min_duration_s, settings.min_queries)
    allowed_late = planned * (1 - BOUND_PERCENT / 100)
    test = _test(lg.TestScenario.Server, settings)
    test.server_target_qps = rate
    test.server_target_latency_ns = max(int(bound_s * 1e9), 1)
    test.server_target_latency_percentile = BOUND_PERCENT / 100
    most_late = allowed_late if give_up else None
    with _ServingThread(serve_batch, largest_batch, bound_s=bound_s, most_late=most_late) as serving:
        log = _run_test(test, samples, serving.arrive)
    if serving.failure is not None:
        raise serving.failure
    if serving.gave_up:
        reason = (
            f"given up: more than {allowed_late:.0f} of about {planned:.0f} queries took over {bound_s * 1000:g} ms"
        )
        return ServerResult(rate, bound_s, None, None, None, None, serving.arrived, False, False, (reason,))
    return _server_result(log, rate, bound_s, arrived=serving.arrived)


class _ServingThread:
    """Serves queries in a thread of its own, in the order in which LoadGen issues them.

    After a failure, or once more than `most_late` queries took over `bound_s`, it completes queries without serving them, so
    that LoadGen comes to its end.
    """

    def __init__(
        self,
        serve_batch: Callable[[Sequence[int]], object],
        largest_batch: int,
        *,
        bound_s: float,
        most_late: float | None,
    ) -> None:
        self.arrived = 0
        self.failure: BaseException | None = None
        self._serve_batch, self._largest_batch = serve_batch, largest_batch
        self._bound_s, self._most_late, self._late = bound_s, most_late, 0
        self._waiting: queue.SimpleQueue[tuple[Any, float] | None] = queue.SimpleQueue()  # None ends it
        self._thread = threading.Thread(target=self._serve_all, name="server")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._waiting.put(None)
        self._thread.join()

    @property
    def gave_up(self) -> bool:
        return self._most_late is not None and self._late > self._most_late

    def arrive(self, queries: Sequence[Any]) -> None:
        """Take queries from LoadGen."""
        now = time.perf_counter()
        for query in queries:
            self.arrived += 1
            self._waiting.put((query, now))

    def _serve_all(self) -> None:
        while batch := self._next_batch():
            try:
                if self.failure is None and not self.gave_up:
                    self._serve_batch([query.index for query, _ in batch])
                    done = time.perf_counter()
                    self._late += sum(done - arrival > self._bound_s for _, arrival in batch)
            except BaseException as error:  # KeyboardInterrupt too: `server` raises it
                self.failure = error
            finally:
                _complete([query for query, _ in batch])

    def _next_batch(self) -> list[tuple[Any, float]]:
        """The waiting queries, at least one of them; nothing after the last."""
        first = self._waiting.get()
        batch = [] if first is None else [first]
        while batch and len(batch) < self._largest_batch and not self._waiting.empty():
            if (following := self._waiting.get()) is None:
                self._waiting.put(None)
                break
            batch.append(following)
        return batch


def _server_result(log: dict[str, Any], rate: float, bound_s: float, *, arrived: int) -> ServerResult:
    problems = _problems(log)
    p50_s, p90_s, p99_s = (
        log[f"result_{percent:.2f}_percentile_latency_ns"] / 1e9 if arrived >= FEWEST[percent] else None
        for percent in (50, 90, 99)
    )
    if p99_s is None:
        problems.append(f"{arrived} queries arrived, and a p99 needs {FEWEST[99]}")
    meets = p99_s is not None and p99_s <= bound_s
    mean_s = log["result_mean_latency_ns"] / 1e9
    return ServerResult(rate, bound_s, p50_s, p90_s, p99_s, mean_s, arrived, meets, not problems, tuple(problems))


# --- running a test


def _test(scenario: Any, settings: LoadSettings) -> Any:
    test = lg.TestSettings()
    test.scenario, test.mode = scenario, lg.TestMode.PerformanceOnly
    test.min_duration_ms = max(int(settings.min_duration_s * 1000), 1)
    test.max_duration_ms = max(int(settings.max_duration_s * 1000), 1)
    test.min_query_count = settings.min_queries
    test.qsl_rng_seed = test.sample_index_rng_seed = test.schedule_rng_seed = settings.seed
    return test


def _run(test: Any, samples: int, issue: Callable[[Sequence[int], float], None]) -> dict[str, Any]:
    """Run one test; `issue` gets sample indices and the time of issue. Returns the last value of each key of the log.

    After a failure every further query is completed unserved, so that LoadGen ends within milliseconds; then the error is
    raised. An exception that crossed into C++ would end the process.
    """
    failures: list[BaseException] = []

    def serve(queries: Sequence[Any]) -> None:
        start = time.perf_counter()
        try:
            if not failures:
                issue([query.index for query in queries], start)
        except BaseException as error:  # KeyboardInterrupt too: it is raised below
            failures.append(error)
        finally:
            _complete(queries)

    log = _run_test(test, samples, serve)
    if failures:
        raise failures[0]
    return log


def _run_test(test: Any, samples: int, issue: Callable[[Sequence[Any]], None]) -> dict[str, Any]:
    """Run one test to its end; `issue` must complete every query and raise nothing."""
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


def _complete(queries: Sequence[Any]) -> None:
    lg.QuerySamplesComplete([lg.QuerySampleResponse(query.id, 0, 0) for query in queries])


def _nothing(*_: Any) -> None:
    """For loading, unloading and flushing: samples stay in memory, and our side queues nothing."""


def _read_log(path: Path) -> dict[str, Any]:
    lines = [line.partition(MARK)[2] for line in path.read_text().splitlines() if MARK in line]
    return {entry["key"]: entry["value"] for entry in map(json.loads, lines)}


def _problems(log: dict[str, Any]) -> list[str]:
    if log["result_validity"] == "VALID":
        return []
    # If only the number of queries is at fault, the reason is empty, and early stopping says how many there should be.
    reasons = (log.get("result_invalid_reason", ""), log.get("early_stopping_result", ""), "LoadGen gives no reason")
    return [next(reason for reason in (" ".join(str(text).split()) for text in reasons) if reason)]
