"""Latency, throughput and memory of a trained model under a serving variant, on the machine that this runs on."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from typing import Any

import torch

from trainables.benchmark.hardware import hardware
from trainables.benchmark.interference import Interference, InterferenceWatch
from trainables.benchmark.lengths import QuerySample
from trainables.benchmark.loadgen import LatencyResult, LoadSettings, ThroughputResult, offline, single_stream
from trainables.benchmark.measurement import Measurement
from trainables.benchmark.memory import MB, Peak, PeakMemory, host_rss_mb
from trainables.benchmark.nvml import gpu_uuid, read_gpu
from trainables.benchmark.percentiles import FEWEST
from trainables.benchmark.server import Server
from trainables.benchmark.sweep import Sweep, sweep_batch_sizes
from trainables.benchmark.variants import Variant, VariantUnavailable, variant_named
from trainables.benchmark.warmup import Clock, WarmUp, WarmUpRule, warm_up
from trainables.model import TaskModel
from trainables.versions import versions

MARGIN = 1.2  # Offline is INVALID when served faster than expected; short sweeps are off by some percent
FLOOR_S = 1e-6


@dataclass(frozen=True)
class BenchmarkSettings:
    """How long each of the two scenarios runs, how to warm up, and which batch sizes Offline chooses from.

    The default of `min_queries` is what a p99 needs.
    """

    min_duration_s: float = 30.0
    min_queries: int = FEWEST[99]
    max_duration_s: float = 120.0
    warm_up: WarmUpRule = field(default_factory=WarmUpRule)
    batch_sizes: tuple[int, ...] = (1, 4, 16, 64, 256)
    sweep_s: float = 2.0  # for each batch size
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.batch_sizes or min(self.batch_sizes) < 1 or self.sweep_s <= 0:
            raise ValueError(
                f"batch sizes {self.batch_sizes} of at least 1, each swept for {self.sweep_s} s, more than 0"
            )
        self.load()

    @classmethod
    def for_window(cls, window_s: float, seed: int = 0) -> BenchmarkSettings:
        """Each variant measured in about `window_s` seconds (compilation aside), half in SingleStream, half in Offline.

        Raises:
            ValueError: `window_s` is not positive.
        """
        if window_s <= 0:
            raise ValueError(f"a window of {window_s} s is not positive")
        each_s = window_s / 2.4  # a fifth more goes to warming up and the sweep
        rule = WarmUpRule(max_s=min(window_s / 6, 10.0))
        sizes = (1, 8, 32) if window_s < 10 else cls.batch_sizes
        queries = FEWEST[90] if window_s < 10 else FEWEST[99]
        sweep_s = min(window_s / 20, 2.0)
        return cls(each_s, queries, max(2 * each_s, 1.0), rule, batch_sizes=sizes, sweep_s=sweep_s, seed=seed)

    def load(self) -> LoadSettings:
        return LoadSettings(self.min_duration_s, self.min_queries, self.max_duration_s, self.seed)


QUICK = BenchmarkSettings.for_window(3.0)


@dataclass(frozen=True)
class _Run:
    """What the steps of one measurement found."""

    cold_start_s: float
    warm_up: WarmUp
    latency: LatencyResult
    sweep: Sweep
    throughput: ThroughputResult
    peak: Peak
    caller_mb: float
    rss_before_mb: float
    interference: Interference


@dataclass(frozen=True)
class Benchmark:
    """Measures variants of one model on one device with one sample of queries.

    `threads` are torch's; the clock times the warm-up, the sweep and the cold start.
    """

    model: TaskModel
    sample: QuerySample
    pad_id: int
    device: torch.device
    threads: int = field(kw_only=True)
    settings: BenchmarkSettings = field(default_factory=BenchmarkSettings, kw_only=True)
    clock: Clock = field(default=time.perf_counter, kw_only=True)

    def measure(self, variant_name: str) -> Measurement:
        """Time one variant.

        On a CPU, peak memory is the process's: comparable between variants when each is measured in a fresh process,
        since what an earlier one left behind (`rss_before_mb` in the context) counts too.

        Raises:
            ValueError: no variant has that name.
            VariantUnavailable: it cannot run on this device.
        """
        variant = variant_named(variant_name)
        if reason := variant.unavailable(self.device):
            raise VariantUnavailable(variant_name, reason)
        with _torch_threads(self.threads):
            return self._measurement(variant, self._run(variant))

    def _run(self, variant: Variant) -> _Run:
        settings, load, count = self.settings, self.settings.load(), len(self.sample.queries)
        rss_before_mb = host_rss_mb()
        watch = InterferenceWatch(self.device, self.threads)
        start = self.clock()
        forward = variant.prepare(self.model, self.device)
        server = Server(forward, self.sample.queries, pad_id=self.pad_id, device=self.device, threads=self.threads)
        server.one(0)
        cold_start_s = self.clock() - start
        warmed = warm_up(lambda index: server.one(index % count), settings.warm_up, self.clock)
        expected_s = max(warmed.median_s, FLOOR_S)
        latency = single_stream(server.one, count, load, expected_latency_s=expected_s)
        sweep = sweep_batch_sizes(server, settings.batch_sizes, settings.sweep_s, seed=settings.seed, clock=self.clock)
        memory = PeakMemory(self.device)  # from here on: larger batches that were only tried do not count
        throughput = offline(
            server.batch,
            count,
            load,
            batches=lambda indices: server.batches(indices, sweep.best, seed=settings.seed),
            expected_sps=sweep.samples_per_s[sweep.best] * MARGIN,
        )
        caller_mb = 0.0 if variant.shares_weights(self.model, self.device) else self._caller_weights_mb()
        return _Run(
            cold_start_s, warmed, latency, sweep, throughput, memory.read(), caller_mb, rss_before_mb, watch.read()
        )

    def _caller_weights_mb(self) -> float:
        """Weights of the caller's model in the memory whose peak is read; a deployment would not hold them too."""
        weights = {tensor.data_ptr(): tensor for tensor in self.model.state_dict().values()}  # tied weights count once
        here = [tensor for tensor in weights.values() if tensor.device.type == self.device.type]
        return sum(tensor.numel() * tensor.element_size() for tensor in here) / MB

    def _measurement(self, variant: Variant, run: _Run) -> Measurement:
        served = len(run.latency.service_s)
        few = "{0} needs {1} queries, {2} were served in the time"
        latencies = {f"p{percent}_ms": _ms(run.latency.percentile_s(percent)) for percent in (50, 90, 99)}
        latencies["spread_ms"] = _ms(run.latency.spread_s())
        fewest = {**{f"p{percent}_ms": FEWEST[percent] for percent in (50, 90, 99)}, "spread_ms": FEWEST[50]}
        missing = {name: few.format(name, fewest[name], served) for name, value in latencies.items() if value is None}
        gpu = read_gpu(gpu_uuid(self.device))
        missing["energy_j_per_sample"] = gpu.unavailable.get("energy_j", "no energy window was measured")
        results: dict[str, LatencyResult | ThroughputResult] = {"SingleStream": run.latency, "Offline": run.throughput}
        return Measurement(
            variant=variant.name,
            **latencies,
            throughput_sps=run.throughput.samples_per_s,
            batch_size=run.sweep.best,
            peak_memory_mb=run.peak.mb - run.caller_mb,
            parameters=sum(weight.numel() for weight in self.model.parameters()),
            samples=served,
            valid={name: result.valid for name, result in results.items()},
            problems={name: result.problems for name, result in results.items() if result.problems},
            cold_start_ms=run.cold_start_s * 1000,
            energy_j_per_sample=None,
            unavailable=missing,
            interference=run.interference,
            context=self._context(run),
        )

    def _context(self, run: _Run) -> dict[str, Any]:
        """What a number means nothing without: machine, versions, settings, queries, and how the run went."""
        gpu = read_gpu(gpu_uuid(self.device))
        return {
            "hardware": hardware().as_dict(),
            "device": str(self.device),
            "gpu": asdict(gpu) if self.device.type == "cuda" else None,
            "torch_threads": self.threads,
            "versions": {**versions(), "loadgen": version("mlcommons-loadgen")},
            "settings": {**asdict(self.settings), "batch_sizes": list(self.settings.batch_sizes)},
            "queries": asdict(self.sample.profile()),
            "warm_up": asdict(run.warm_up),
            "sweep_sps": {str(size): speed for size, speed in run.sweep.samples_per_s.items()},
            "sweep_stopped": run.sweep.stopped,
            "offline_samples": run.throughput.served,
            "loadgen_p50_ms": run.latency.loadgen_p50_s * 1000,
            "peak_memory_source": run.peak.source,
            "rss_before_mb": run.rss_before_mb,
        }


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1000


@contextmanager
def _torch_threads(threads: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
