"""Results of the steps of a measurement, and the metrics derived from them, each with a reason if it is missing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from typing import Any

import torch

from trainables.benchmark.measurement import ALL_WEIGHTS, RESIDENT_WEIGHTS
from trainables.benchmark.probes.energy import Energy
from trainables.benchmark.probes.hardware import device_name, hardware
from trainables.benchmark.probes.memory import Peak
from trainables.benchmark.probes.nvml import GpuState, gpu_uuid, read_gpu
from trainables.benchmark.scenarios.loadgen import LatencyResult, ServerResult, ThroughputResult
from trainables.benchmark.scenarios.percentiles import FEWEST, early_stopping_estimate, percentile
from trainables.benchmark.scenarios.queries import QuerySample
from trainables.benchmark.scenarios.rates import RateSearch
from trainables.benchmark.scenarios.sweep import Sweep
from trainables.benchmark.scenarios.warmup import WarmUp
from trainables.benchmark.settings import BenchmarkSettings
from trainables.store.versions import versions

SHORTEST_S = 1e-6  # service times that divide something are at least this
NOT_REQUESTED = "{} was not asked for"


@dataclass
class StepResults:
    """What the steps of one measurement have produced so far."""

    load_s: float
    prepare_s: float = 0.0
    first_query_s: float = 0.0
    warm_up: WarmUp | None = None
    rss_before_mb: float = 0.0
    rss_mb: float = 0.0
    caller_mb: float = 0.0
    latency: LatencyResult | None = None
    language_s: dict[str, list[float]] = field(default_factory=dict)
    sweep: Sweep | None = None
    throughput: ThroughputResult | None = None
    peak: Peak | None = None
    search: RateSearch | None = None
    too_slow: str | None = None
    energy: Energy | None = None
    tokenise_s: float | None = None
    end_to_end_s: float | None = None
    language_sps: dict[str, float] = field(default_factory=dict)
    gpu_in_use: GpuState = field(default_factory=lambda: read_gpu(None))
    graphs: dict[str, int] | None = None
    attention: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def expected_s(self) -> float:
        """Service time of a query as the warm-up estimates it."""
        return max(self.warm_up.median_s if self.warm_up else 0.0, SHORTEST_S)

    @property
    def service_s(self) -> float:
        """Median service time of a query: of SingleStream, or else of the warm-up."""
        p50_s = None if self.latency is None else self.latency.percentile_s(50)
        return self.expected_s if p50_s is None else p50_s

    @property
    def cold_start_s(self) -> float:
        return self.load_s + self.prepare_s + self.first_query_s

    def by_scenario(self) -> dict[str, LatencyResult | ThroughputResult | ServerResult]:
        """The results of the scenarios that ran."""
        results = {
            "SingleStream": self.latency,
            "Server": self.search.result if self.search else None,
            "Offline": self.throughput,
        }
        return {name: result for name, result in results.items() if result is not None}


class _Metrics:
    """Values by name, and the reasons for those that are None."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.reasons: dict[str, str] = {}

    def put(self, name: str, value: float | None, reason: str) -> None:
        self.values[name] = value
        if value is None:
            self.reasons[name] = reason


def metrics_of(results: StepResults, settings: BenchmarkSettings) -> tuple[dict[str, Any], dict[str, str]]:
    """The metrics of a measurement that may be missing, and the reasons for those that are None."""
    metrics = _Metrics()
    _put_latency(metrics, results.latency)
    _put_server(metrics, results, settings)
    _put_offline(metrics, results)
    _put_energy(metrics, results, settings)
    no_text = "queries have no text: there is no tokenizer"
    metrics.put("tokenise_p50_ms", _ms(results.tokenise_s), no_text)
    too_few = no_text if results.tokenise_s is None else "too few queries in the time for a median"
    metrics.put("end_to_end_p50_ms", _ms(results.end_to_end_s), too_few)
    return metrics.values, metrics.reasons


def _put_latency(metrics: _Metrics, latency: LatencyResult | None) -> None:
    if latency is None:
        for name in ("p50_ms", "p90_ms", "p99_ms", "spread_ms"):
            metrics.put(name, None, NOT_REQUESTED.format("SingleStream"))
        return
    served = len(latency.service_s)
    for percent in (50, 90, 99):
        name = f"p{percent}_ms"
        metrics.put(name, _ms(latency.percentile_s(percent)), _too_few(name, FEWEST[percent], served))
    metrics.put("spread_ms", _ms(latency.spread_s()), _too_few("spread_ms", FEWEST[50], served))


def _put_server(metrics: _Metrics, results: StepResults, settings: BenchmarkSettings) -> None:
    search, not_requested = results.search, NOT_REQUESTED.format("Server")
    result = None if search is None or not search.result.meets else search.result
    missed = results.too_slow or (not_requested if search is None else bound_missed(search))
    metrics.put("server_qps", None if result is None else result.rate, missed)
    metrics.put("server_p99_ms", None if result is None else _ms(result.p99_s), missed)
    metrics.put("server_bound_ms", settings.bound_ms if "Server" in settings.scenarios else None, not_requested)


def _put_offline(metrics: _Metrics, results: StepResults) -> None:
    not_requested, only_gpu = NOT_REQUESTED.format("Offline"), "the device is not a GPU"
    throughput, sweep, peak = results.throughput, results.sweep, results.peak
    metrics.put("throughput_sps", None if throughput is None else throughput.samples_per_s, not_requested)
    metrics.put("batch_size", None if sweep is None else sweep.best, not_requested)
    metrics.put("peak_memory_mb", None if peak is None else peak.mb - results.caller_mb, not_requested)
    reserved_mb = None if peak is None else peak.reserved_mb
    process_mb = results.gpu_in_use.process_memory_mb
    no_process = results.gpu_in_use.unavailable.get("process_memory_mb", only_gpu)
    metrics.put("gpu_reserved_mb", None if reserved_mb is None else reserved_mb - results.caller_mb, only_gpu)
    metrics.put("gpu_process_mb", None if process_mb is None else process_mb - results.caller_mb, no_process)


def _put_energy(metrics: _Metrics, results: StepResults, settings: BenchmarkSettings) -> None:
    energy = results.energy
    reason = results.gpu_in_use.unavailable.get("energy_j") or (
        "the settings are too short for an energy window"
        if settings.energy is None
        else "NVML's energy counter did not answer throughout"
    )
    metrics.put("energy_j_per_sample", None if energy is None else energy.j_per_sample, reason)
    metrics.put("idle_power_w", None if energy is None else energy.idle_power_w, reason)


def language_metrics(results: StepResults, sample: QuerySample) -> tuple[dict[str, dict[str, float]], dict[str, str]]:
    """Metrics by language, of languages with enough different queries; and by metric, which languages have too few."""
    languages: dict[str, dict[str, float]] = {}
    few: dict[str, list[str]] = {}
    for language in sorted(set(sample.languages)):
        indices = sample.indices_in(language)
        tokens = [sum(len(row) for row in sample.queries[index]) for index in indices]
        languages[language] = {"mean_pieces": sum(tokens) / len(tokens)}
        if language in results.language_sps:
            languages[language]["throughput_sps"] = results.language_sps[language]
        elif results.throughput is not None:
            few.setdefault("throughput_sps", []).append(f"{language} has {len(indices)}")
        if (p50_s := percentile(results.language_s.get(language, []), 50)) is not None:
            languages[language]["p50_ms"] = p50_s * 1000
        elif results.latency is not None:
            served = f", {len(results.language_s[language])} served" if len(indices) >= FEWEST[50] else ""
            few.setdefault("p50_ms", []).append(f"{language} has {len(indices)}{served}")
    needs = f"needs {FEWEST[50]} different queries of a language"
    return languages, {f"languages/{name}": f"{needs}: {', '.join(those)}" for name, those in few.items()}


def context_of(
    results: StepResults,
    sample: QuerySample,
    *,
    settings: BenchmarkSettings,
    device: torch.device,
    threads: int,
    cores: Sequence[int],
) -> dict[str, Any]:
    """Context of a measurement: machine, versions, settings, queries, and how the run went. JSON values."""
    on_gpu, latency, sweep = device.type == "cuda", results.latency, results.sweep
    estimates = {
        percent: None if latency is None else _ms(early_stopping_estimate(latency.service_s, percent))
        for percent in (50, 90, 99)
    }
    return {
        "hardware": hardware().as_dict(),
        "device": str(device),
        "device_name": device_name(device),
        "gpu": asdict(read_gpu(gpu_uuid(device))) if on_gpu else None,
        "gpu_in_use": asdict(results.gpu_in_use) if on_gpu else None,
        "cuda_graphs": results.graphs,
        "attention_kernels": {rows: list(kernels) for rows, kernels in results.attention.items()},
        "torch_threads": threads,
        "cores": list(cores),
        "versions": {**versions(), "loadgen": version("mlcommons-loadgen")},
        "settings": {**asdict(settings), "batch_sizes": list(settings.batch_sizes)},
        "queries": asdict(sample.profile()),
        "warm_up": None if results.warm_up is None else asdict(results.warm_up),
        "load_ms": results.load_s * 1000,
        "prepare_ms": results.prepare_s * 1000,
        "first_query_ms": results.first_query_s * 1000,
        "sweep_sps": {str(size): speed for size, speed in sweep.samples_per_s.items()} if sweep else {},
        "sweep_stopped": sweep.stopped if sweep else None,
        "offline_samples": results.throughput.served if results.throughput else 0,
        "loadgen_p50_ms": latency.loadgen_p50_s * 1000 if latency else None,
        "mean_ms": sum(latency.service_s) / len(latency.service_s) * 1000 if latency and latency.service_s else None,
        "early_stopping_ms": {str(percent): value for percent, value in estimates.items()},
        "server": asdict(results.search) if results.search else None,
        "energy": asdict(results.energy) if results.energy else None,
        "peak_memory_source": results.peak.source if results.peak else None,
        "weights_subtracted": RESIDENT_WEIGHTS if device.type == "cpu" else ALL_WEIGHTS,
        "rss_before_mb": results.rss_before_mb,
    }


def bound_missed(search: RateSearch) -> str:
    """Why no rate met the bound: the result at the last rate tried, and what shorter probes met."""
    result = search.result
    if result.p99_s is None:
        why = "; ".join(result.problems)
    else:
        why = f"p99 {result.p99_s * 1000:.1f} ms exceeds {result.bound_s * 1000:g} ms"
    met = [rate for rate, meets in search.probes if meets]
    kind = f"in runs of full length; probes met the bound at {max(met):.3g}" if met else "the lowest rate tried"
    return f"{why}, at {result.rate:.3g} queries per second, {kind}"


def _too_few(name: str, needed: int, served: int) -> str:
    return f"{name} needs {needed} queries, {served} were served in the time"


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1000
