"""Latency, throughput, memory and energy of a trained model under a serving variant, on the machine that this runs on."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from typing import Any

import torch

from trainables.benchmark.measurement import Measurement
from trainables.benchmark.placement import placed, serving_cores
from trainables.benchmark.probes.energy import Energy, measure_energy
from trainables.benchmark.probes.hardware import available_cores, device_name, hardware
from trainables.benchmark.probes.interference import Interference, InterferenceWatch
from trainables.benchmark.probes.memory import MB, Peak, PeakMemory, host_rss_mb
from trainables.benchmark.probes.nvml import GpuState, gpu_uuid, read_gpu
from trainables.benchmark.scenarios.lengths import QuerySample
from trainables.benchmark.scenarios.loadgen import (
    LatencyResult,
    ServerResult,
    ThroughputResult,
    offline,
    server,
    single_stream,
)
from trainables.benchmark.scenarios.percentiles import FEWEST, early_stopping_estimate, percentile
from trainables.benchmark.scenarios.rates import RateSearch, highest_rate
from trainables.benchmark.scenarios.serving import Server
from trainables.benchmark.scenarios.sweep import Sweep, sweep_batch_sizes, timed_samples_per_s
from trainables.benchmark.scenarios.texts import Texts, median_s
from trainables.benchmark.scenarios.warmup import Clock, WarmUp, warm_up
from trainables.benchmark.settings import BenchmarkSettings
from trainables.benchmark.variants import Variant, VariantUnavailable, variant_named
from trainables.evaluation import Forward
from trainables.models.task_model import TaskModel
from trainables.store.versions import versions

MARGIN = 1.2  # Offline is INVALID when served faster than expected; short sweeps are off by some percent
FLOOR_S = 1e-6
SHAPES_CAP = 3.0  # each shape is served once before warming up, for at most so many times the warm-up's own cap
ARRIVALS_AHEAD = 1.2  # as many more must be expected to arrive for enough to arrive by chance
NOT_ASKED = "{} was not asked for"


@dataclass
class _Found:
    """What the steps of one measurement found."""

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
    interference: Interference | None = None


@dataclass(frozen=True)
class Benchmark:
    """Measures variants of one model on one device with one sample of queries.

    `threads` are torch's, each on a core of its own where the device is the CPU; the clock times all that LoadGen does not.
    `texts` are for tokenisation; `load_s` is what loading the model took, a part of the cold start.
    """

    model: TaskModel
    sample: QuerySample
    pad_id: int
    device: torch.device
    threads: int = field(kw_only=True)
    settings: BenchmarkSettings = field(default_factory=BenchmarkSettings, kw_only=True)
    texts: Texts | None = field(default=None, kw_only=True)
    load_s: float = field(default=0.0, kw_only=True)
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
        cores = serving_cores(self.threads) if self.device.type == "cpu" else ()
        watch = InterferenceWatch(self.device, self.threads)
        every_core = serving_cores(available_cores()) if cores else ()
        with placed(self.threads, cores):
            found = self._run(variant, cores, every_core)
        found.interference = watch.read()
        return self._measurement(variant, found, cores)

    def _run(self, variant: Variant, cores: Sequence[int], every_core: Sequence[int]) -> _Found:
        settings = self.settings
        found = _Found(self.load_s, rss_before_mb=host_rss_mb())
        start = self.clock()
        forward = variant.prepare(self.model, self.device)
        found.prepare_s = self.clock() - start
        served = self._server(forward, cores)
        start = self.clock()
        served.one(0)
        found.first_query_s = self.clock() - start
        self._warm_up(served, found)
        if "SingleStream" in settings.scenarios:
            self._single_stream(served, found)
        if "Offline" in settings.scenarios:
            self._offline(served, found)
        found.rss_mb = host_rss_mb()
        if "Server" in settings.scenarios:
            found.too_slow = self._too_slow(found)
            if found.too_slow is None:
                with placed(
                    self.threads, every_core
                ):  # the load generator beside the thread that serves, not before it
                    found.search = self._search(served, found)
        if settings.energy is not None and self.device.type == "cuda":
            found.energy = self._energy(served, found)
        if self.texts is not None:
            self._from_text(self.texts, served, found)
        if not variant.shares_weights(self.model, self.device):
            found.caller_mb = self._caller_weights_mb()
        return found

    def _server(self, forward: Forward, cores: Sequence[int]) -> Server:
        return Server(
            *(forward, self.sample.queries),
            pad_id=self.pad_id,
            device=self.device,
            threads=self.threads,
            cores=cores,
        )

    def _warm_up(self, served: Server, found: _Found) -> None:
        """Every shape once, since kernels and graphs are made for shapes; then until service times are stable."""
        settings, start = self.settings, self.clock()
        for index in reversed(served.one_of_each_length()):
            if self.clock() - start > SHAPES_CAP * settings.warm_up.max_s:
                break
            served.one(index)
        pooled = self.sample.pooled
        found.warm_up = warm_up(lambda turn: served.one(pooled[turn % len(pooled)]), settings.warm_up, self.clock)

    def _expected_s(self, found: _Found) -> float:
        return max(found.warm_up.median_s if found.warm_up else 0.0, FLOOR_S)

    def _single_stream(self, served: Server, found: _Found) -> None:
        """A language that LoadGen drew too few different queries of is served its own, one after the other."""
        pooled = self.sample.pooled
        latency = single_stream(
            lambda draw: served.one(pooled[draw]),
            len(pooled),
            self.settings.load(),
            expected_latency_s=self._expected_s(found),
        )
        found.latency = latency = replace(latency, samples=tuple(pooled[draw] for draw in latency.samples))
        drawn = set(latency.samples)
        for language in dict.fromkeys(self.sample.languages):
            mine = self.sample.of(language)
            enough = len(drawn.intersection(mine)) >= FEWEST[50]
            found.language_s[language] = latency.of(set(mine)) if enough else self._each_once(served, mine)

    def _each_once(self, served: Server, indices: Sequence[int]) -> list[float]:
        """Seconds of each, as many as fit `per_language_s`."""
        took: list[float] = []
        start = now = self.clock()
        for index in indices:
            if now - start > self.settings.per_language_s:
                break
            served.one(index)
            before, now = now, self.clock()
            took.append(now - before)
        return took

    def _offline(self, served: Server, found: _Found) -> None:
        settings, pooled = self.settings, self.sample.pooled
        sweep = sweep_batch_sizes(
            *(served, settings.batch_sizes, settings.sweep_s), seed=settings.seed, clock=self.clock, indices=pooled
        )
        memory = PeakMemory(self.device)  # from here on: larger batches that were only tried do not count
        found.sweep = sweep
        found.throughput = offline(
            served.batch,
            len(pooled),
            settings.load(),
            batches=lambda draws: served.batches([pooled[draw] for draw in draws], sweep.best, seed=settings.seed),
            expected_sps=sweep.samples_per_s[sweep.best] * MARGIN,
        )
        found.gpu_in_use = read_gpu(gpu_uuid(self.device))  # at once: clocks fall within a second of idling
        found.peak = memory.read()
        for language in dict.fromkeys(self.sample.languages):
            mine = self.sample.of(language)
            if len(mine) >= FEWEST[50]:
                found.language_sps[language] = timed_samples_per_s(
                    *(served, sweep.best, settings.per_language_s), indices=mine, seed=settings.seed, clock=self.clock
                )

    def _service_s(self, found: _Found) -> float:
        p50_s = None if found.latency is None else found.latency.percentile_s(50)
        return self._expected_s(found) if p50_s is None else p50_s

    def _too_slow(self, found: _Found) -> str | None:
        """Why there is no rate to look for; None if there may be one."""
        service_ms, bound_ms = self._service_s(found) * 1000, self.settings.bound_ms
        if service_ms <= bound_ms:
            return None
        return f"a query that waits for no other takes {service_ms:.1f} ms, over {bound_ms:g} ms: no rate can meet the bound"

    def _search(self, served: Server, found: _Found) -> RateSearch:
        """Between a tenth of what one query at a time would allow, or where too few queries for a p99 arrive in the longest
        run, and what batches allow."""
        settings, pooled = self.settings, self.sample.pooled
        largest = found.sweep.best if found.sweep else 1
        alone = 1 / self._service_s(found)

        def at(rate: float, duration_s: float, queries: int) -> ServerResult:
            return server(
                lambda draws: served.batch([pooled[draw] for draw in draws]),
                len(pooled),
                settings.server_load(duration_s, queries),
                rate=rate,
                bound_s=settings.bound_ms / 1000,
                largest_batch=largest,
                give_up=True,
            )

        return highest_rate(
            lambda rate: at(rate, settings.probe_s, FEWEST[99]),
            lambda rate: at(rate, settings.min_duration_s, max(settings.min_queries, FEWEST[99])),
            start=0.8 * alone,
            probes=settings.probes,
            lowest=max(0.1 * alone, ARRIVALS_AHEAD * FEWEST[99] / settings.server_s),
        )

    def _energy(self, served: Server, found: _Found) -> Energy | None:
        uuid, rule = gpu_uuid(self.device), self.settings.energy
        assert rule is not None  # the caller looked
        size = found.sweep.best if found.sweep else 1
        batches = served.batches(self.sample.pooled, size, seed=self.settings.seed)

        def serve(number: int) -> int:
            batch = batches[number % len(batches)]
            served.batch(batch)
            return len(batch)

        return measure_energy(serve, rule, joules=lambda: read_gpu(uuid).energy_j, clock=self.clock)

    def _from_text(self, texts: Texts, served: Server, found: _Found) -> None:
        seconds = self.settings.text_s
        texts.tokenise(0)
        found.tokenise_s = median_s(texts.tokenise, seconds, self.clock)
        found.end_to_end_s = median_s(lambda index: served.fresh(texts.tokenise(index)), seconds, self.clock)

    def _caller_weights_mb(self) -> float:
        """Weights of the caller's model in the memory whose peak is read; a deployment would not hold them too."""
        weights = {tensor.data_ptr(): tensor for tensor in self.model.state_dict().values()}  # tied weights count once
        here = [tensor for tensor in weights.values() if tensor.device.type == self.device.type]
        return sum(tensor.numel() * tensor.element_size() for tensor in here) / MB

    def _measurement(self, variant: Variant, found: _Found, cores: Sequence[int]) -> Measurement:
        values, missing = _values(found, self.settings)
        languages, few = self._by_language(found)
        results: dict[str, LatencyResult | ThroughputResult | ServerResult] = {
            name: result
            for name, result in (
                ("SingleStream", found.latency),
                ("Server", found.search.result if found.search else None),
                ("Offline", found.throughput),
            )
            if result is not None
        }
        assert found.interference is not None  # read at the end of `measure`
        return Measurement(
            variant=variant.name,
            **values,
            rss_mb=found.rss_mb,
            cold_start_ms=(found.load_s + found.prepare_s + found.first_query_s) * 1000,
            mean_pieces=self.sample.profile().mean,
            parameters=sum(weight.numel() for weight in self.model.parameters()),
            samples=len(found.latency.service_s) if found.latency else 0,
            languages=languages,
            valid={name: result.valid for name, result in results.items()},
            problems={name: result.problems for name, result in results.items() if result.problems},
            unavailable=missing | few,
            interference=found.interference,
            context=self._context(found, cores),
        )

    def _by_language(self, found: _Found) -> tuple[dict[str, dict[str, float]], dict[str, str]]:
        """By language, of enough different queries; and which languages have too few of them, by metric."""
        languages: dict[str, dict[str, float]] = {}
        few: dict[str, list[str]] = {}
        for language in sorted(set(self.sample.languages)):
            mine = self.sample.of(language)
            pieces = [sum(len(row) for row in self.sample.queries[index]) for index in mine]
            languages[language] = {"mean_pieces": sum(pieces) / len(pieces)}
            if language in found.language_sps:
                languages[language]["throughput_sps"] = found.language_sps[language]
            elif found.throughput is not None:
                few.setdefault("throughput_sps", []).append(f"{language} has {len(mine)}")
            if (p50_s := percentile(found.language_s.get(language, []), 50)) is not None:
                languages[language]["p50_ms"] = p50_s * 1000
            elif found.latency is not None:
                served = f", {len(found.language_s[language])} served" if len(mine) >= FEWEST[50] else ""
                few.setdefault("p50_ms", []).append(f"{language} has {len(mine)}{served}")
        needs = f"needs {FEWEST[50]} different queries of a language"
        return languages, {f"languages/{name}": f"{needs}: {', '.join(those)}" for name, those in few.items()}

    def _context(self, found: _Found, cores: Sequence[int]) -> dict[str, Any]:
        """What a number means nothing without: machine, versions, settings, queries, and how the run went."""
        gpu = read_gpu(gpu_uuid(self.device))
        estimates = {
            percent: None if found.latency is None else _ms(early_stopping_estimate(found.latency.service_s, percent))
            for percent in (50, 90, 99)
        }
        return {
            "hardware": hardware().as_dict(),
            "device": str(self.device),
            "device_name": device_name(self.device),
            "gpu": asdict(gpu) if self.device.type == "cuda" else None,
            "gpu_in_use": asdict(found.gpu_in_use) if self.device.type == "cuda" else None,
            "torch_threads": self.threads,
            "cores": list(cores),
            "versions": {**versions(), "loadgen": version("mlcommons-loadgen")},
            "settings": {**asdict(self.settings), "batch_sizes": list(self.settings.batch_sizes)},
            "queries": asdict(self.sample.profile()),
            "warm_up": None if found.warm_up is None else asdict(found.warm_up),
            "load_ms": found.load_s * 1000,
            "prepare_ms": found.prepare_s * 1000,
            "first_query_ms": found.first_query_s * 1000,
            "sweep_sps": {str(size): speed for size, speed in found.sweep.samples_per_s.items()} if found.sweep else {},
            "sweep_stopped": found.sweep.stopped if found.sweep else None,
            "offline_samples": found.throughput.served if found.throughput else 0,
            "loadgen_p50_ms": found.latency.loadgen_p50_s * 1000 if found.latency else None,
            "early_stopping_ms": {str(percent): value for percent, value in estimates.items()},
            "server": asdict(found.search) if found.search else None,
            "energy": asdict(found.energy) if found.energy else None,
            "peak_memory_source": found.peak.source if found.peak else None,
            "rss_before_mb": found.rss_before_mb,
        }


def _values(found: _Found, settings: BenchmarkSettings) -> tuple[dict[str, Any], dict[str, str]]:
    """The metrics of a measurement that may be missing, and why those that are None are."""
    values: dict[str, Any] = {}
    reasons: dict[str, str] = {}

    def put(name: str, value: float | None, reason: str) -> None:
        values[name] = value
        if value is None:
            reasons[name] = reason

    latency, single = found.latency, NOT_ASKED.format("SingleStream")
    for percent in (50, 90, 99):
        name = f"p{percent}_ms"
        few = single if latency is None else _too_few(name, FEWEST[percent], len(latency.service_s))
        put(name, None if latency is None else _ms(latency.percentile_s(percent)), few)
    few = single if latency is None else _too_few("spread_ms", FEWEST[50], len(latency.service_s))
    put("spread_ms", None if latency is None else _ms(latency.spread_s()), few)

    search, no_server = found.search, NOT_ASKED.format("Server")
    result = None if search is None or not search.result.meets else search.result
    late = found.too_slow or (no_server if search is None else _not_met(search))
    put("server_qps", None if result is None else result.rate, late)
    put("server_p99_ms", None if result is None else _ms(result.p99_s), late)
    put("server_bound_ms", settings.bound_ms if "Server" in settings.scenarios else None, no_server)

    no_offline = NOT_ASKED.format("Offline")
    put("throughput_sps", None if found.throughput is None else found.throughput.samples_per_s, no_offline)
    put("batch_size", None if found.sweep is None else found.sweep.best, no_offline)
    put("peak_memory_mb", None if found.peak is None else found.peak.mb - found.caller_mb, no_offline)
    gpu, only_gpu = found.gpu_in_use, "the device is not a GPU"
    reserved_mb = None if found.peak is None else found.peak.reserved_mb
    held_mb, unknown = gpu.process_memory_mb, gpu.unavailable.get("process_memory_mb", only_gpu)
    put("gpu_reserved_mb", None if reserved_mb is None else reserved_mb - found.caller_mb, only_gpu)
    put("gpu_process_mb", None if held_mb is None else held_mb - found.caller_mb, unknown)

    no_energy = gpu.unavailable.get("energy_j") or (
        "no energy window was measured: these are settings for seconds"
        if settings.energy is None
        else "NVML's counter did not answer throughout"
    )
    put("energy_j_per_sample", None if found.energy is None else found.energy.j_per_sample, no_energy)
    put("idle_power_w", None if found.energy is None else found.energy.idle_power_w, no_energy)

    no_text = "queries without text: there was no tokenizer"
    put("tokenise_p50_ms", _ms(found.tokenise_s), no_text)
    put("end_to_end_p50_ms", _ms(found.end_to_end_s), no_text if found.tokenise_s is None else "too few in the time")
    return values, reasons


def _too_few(name: str, needed: int, served: int) -> str:
    return f"{name} needs {needed} queries, {served} were served in the time"


def _not_met(search: RateSearch) -> str:
    result = search.result
    if result.p99_s is None:
        why = "; ".join(result.problems)
    else:
        why = f"p99 {result.p99_s * 1000:.1f} ms is over {result.bound_s * 1000:g} ms"
    met = [rate for rate, meets in search.probes if meets]
    rest = f"in runs of full length; probes met it at {max(met):.3g}" if met else "the lowest rate tried"
    return f"{why}, at {result.rate:.3g} a second, {rest}"


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1000
