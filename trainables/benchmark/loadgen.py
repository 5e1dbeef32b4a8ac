"""LoadGen scenarios: SingleStream (one user, one query after the other) and Offline (everything at once).

MLPerf Inference's load generator decides what is served when, and whether a run was long enough to count. One test at a
time runs in a process. A further scenario is one more function over `_run`.
"""

from __future__ import annotations

import json
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlperf_loadgen as lg

from trainables.benchmark.percentiles import interquartile_range, percentile

LOG, MARK = "mlperf_log_detail.txt", ":::MLLOG "
AGREE_SHARE, AGREE_S = 0.05, 1e-4  # our times lack LoadGen's own cost of a query, some microseconds
QUERIES_AHEAD = 2.0  # LoadGen draws queries for an expected speed and ends early, INVALID, where serving is faster
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
    """Service times of single queries in seconds, in the order served; `problems` say why a result is not valid."""

    service_s: tuple[float, ...]
    loadgen_p50_s: float
    valid: bool
    problems: tuple[str, ...]

    def percentile_s(self, percent: int) -> float | None:
        """Nearest rank; None where there are too few queries for it."""
        return percentile(self.service_s, percent)

    def spread_s(self) -> float | None:
        """Interquartile range of service times."""
        return interquartile_range(self.service_s)


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

    def issue(indices: Sequence[int], _: float) -> None:
        for index in indices:
            start = time.perf_counter()
            serve(index)
            service_s.append(time.perf_counter() - start)

    test = _test(lg.TestScenario.SingleStream, settings)
    test.single_stream_expected_latency_ns = max(int(expected_latency_s / QUERIES_AHEAD * 1e9), 1)
    log = _run(test, samples, issue)
    p50_s = log["result_50.00_percentile_latency_ns"] / 1e9
    problems = _problems(log)
    own = percentile(service_s, 50)
    if own is not None and abs(own - p50_s) > max(AGREE_SHARE * p50_s, AGREE_S):
        problems.append(f"LoadGen's median is {p50_s:.6f} s, the one measured around the service {own:.6f} s")
    return LatencyResult(tuple(service_s), p50_s, not problems, tuple(problems))


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

    with _one_test, tempfile.TemporaryDirectory(prefix="loadgen-") as folder:
        output = lg.LogOutputSettings()
        output.outdir, output.copy_summary_to_stdout = folder, False
        logs = lg.LogSettings()
        logs.log_output, logs.enable_trace = output, False
        system = lg.ConstructSUT(complete, _nothing)
        library = lg.ConstructQSL(samples, samples, _nothing, _nothing)
        try:
            lg.StartTestWithLogSettings(system, library, test, logs, "")
        finally:
            lg.DestroyQSL(library)
            lg.DestroySUT(system)
        log = _read_log(Path(folder) / LOG)
    if failures:
        raise failures[0]
    return log


def _nothing(*_: Any) -> None:
    """Samples stay in memory and nothing is queued on our side, so there is nothing to load, unload or flush."""


def _read_log(path: Path) -> dict[str, Any]:
    lines = [line.partition(MARK)[2] for line in path.read_text().splitlines() if MARK in line]
    return {entry["key"]: entry["value"] for entry in map(json.loads, lines)}


def _problems(log: dict[str, Any]) -> list[str]:
    if log["result_validity"] == "VALID":
        return []
    return [" ".join(str(log.get("result_invalid_reason", "LoadGen gives no reason")).split())]
