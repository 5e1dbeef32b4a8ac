"""Latency, throughput, memory and energy of a trained model under a serving variant, on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace

import torch
from torch import Tensor

from trainables.benchmark.measurement import Measurement
from trainables.benchmark.placement import pinned, serving_cores
from trainables.benchmark.probes.attention import attention_kernels
from trainables.benchmark.probes.energy import Energy, EnergyRule, measure_energy
from trainables.benchmark.probes.hardware import available_cores
from trainables.benchmark.probes.interference import Interference, InterferenceWatch
from trainables.benchmark.probes.memory import MB, PeakMemory, host_rss_mb, resident_mb
from trainables.benchmark.probes.nvml import gpu_uuid, read_gpu
from trainables.benchmark.results import StepResults, context_of, language_metrics, metrics_of
from trainables.benchmark.scenarios.loadgen import ServerResult, offline, server, single_stream
from trainables.benchmark.scenarios.percentiles import FEWEST
from trainables.benchmark.scenarios.queries import Query, QuerySample
from trainables.benchmark.scenarios.rates import RateSearch, highest_rate
from trainables.benchmark.scenarios.serving import CascadeServer, ModelServer, QueryServer
from trainables.benchmark.scenarios.sweep import WARM_S, sweep_batch_sizes, timed_samples_per_s
from trainables.benchmark.scenarios.texts import Texts
from trainables.benchmark.scenarios.timing import Clock, calls_within, median_call_s
from trainables.benchmark.scenarios.warmup import warm_up
from trainables.benchmark.settings import BenchmarkSettings
from trainables.benchmark.variants import Variant, VariantUnavailable, variant_named
from trainables.benchmark.variants.graphs import GraphedRows
from trainables.evaluation import Forward
from trainables.models.task_model import TaskModel

MARGIN = 1.2  # LoadGen rejects an Offline run that is faster than expected, and short sweeps are off by a few percent
SHAPES_CAP = 3.0  # serving each shape once may take this many times the cap of the warm-up
ARRIVALS_AHEAD = 1.2  # arrivals are random: to have enough of them, expect this many times as many


@dataclass(frozen=True)
class LargerModel:
    """The second model of a cascade, asked where `unsure(query, logits of the first model)`.

    `queries` are the sample's in its own tokens.
    """

    model: TaskModel
    queries: tuple[Query, ...]
    pad_id: int
    unsure: Callable[[int, Tensor], bool]


@dataclass(frozen=True)
class Benchmark:
    """Measures variants of one model, or of a cascade of two, on one device with one sample of queries.

    `threads` are torch's; on a CPU each gets a core of its own. `clock` times everything that LoadGen does not. `texts` are for
    tokenisation. `load_s` is how long loading took, a part of the cold start. Of a cascade, `model` is the smaller one; memory,
    parameters and cold start are those of both.
    """

    model: TaskModel
    sample: QuerySample
    pad_id: int
    device: torch.device
    threads: int = field(kw_only=True)
    settings: BenchmarkSettings = field(default_factory=BenchmarkSettings, kw_only=True)
    texts: Texts | None = field(default=None, kw_only=True)
    load_s: float = field(default=0.0, kw_only=True)
    larger: LargerModel | None = field(default=None, kw_only=True)
    clock: Clock = field(default=time.perf_counter, kw_only=True)

    def measure(self, variant: str | Variant) -> Measurement:
        """Time a built-in variant, by its name, or a variant of the caller's own.

        On a CPU, peak memory is that of the process. It is comparable between variants only if each is measured in a fresh
        process: what earlier work left behind (`rss_before_mb` in the context) counts too.

        Raises:
            ValueError: no built-in variant has that name.
            VariantUnavailable: the variant cannot run on this device.
        """
        variant = variant_named(variant)
        if reason := variant.unavailable(self.device):  # before cores are restricted: runtimes count them when loaded
            raise VariantUnavailable(variant.name, reason)
        cores = serving_cores(self.threads) if self.device.type == "cpu" else ()
        watch = InterferenceWatch(self.device, self.threads)
        all_cores = serving_cores(available_cores()) if cores else ()
        with pinned(self.threads, cores):
            results = self._steps(variant, cores, all_cores)
        return self._measurement(variant, results, cores, interference=watch.read())

    def _steps(self, variant: Variant, cores: Sequence[int], all_cores: Sequence[int]) -> StepResults:
        scenarios = self.settings.scenarios
        results = StepResults(self.load_s, rss_before_mb=host_rss_mb())
        model_server, first = self._start(variant, cores, results)
        self._warm_up(model_server, results)
        if "SingleStream" in scenarios:
            self._single_stream(model_server, results)
        if "Offline" in scenarios:
            self._offline(model_server, results)
        results.rss_mb = host_rss_mb()
        if "Server" in scenarios:
            results.too_slow = self._too_slow(results)
            if results.too_slow is None:
                with pinned(self.threads, all_cores):  # LoadGen's thread must not compete with the serving thread
                    results.search = self._search(model_server, results)
        if self.settings.energy is not None and self.device.type == "cuda":
            results.energy = self._energy(model_server, results, self.settings.energy)
        if self.texts is not None:
            self._from_text(self.texts, first, results)
        copied = [model for model in self._models if not variant.shares_weights(model, self.device)]
        results.caller_mb = self._caller_weights_mb(copied)
        self._record_kernels(first.forward, results)
        return results

    @property
    def _models(self) -> tuple[TaskModel, ...]:
        return (self.model,) if self.larger is None else (self.model, self.larger.model)

    def _start(self, variant: Variant, cores: Sequence[int], results: StepResults) -> tuple[QueryServer, ModelServer]:
        """Prepare the variant and serve its first query; the server, and that of the first model alone."""

        def server_of(forward: Forward, queries: Sequence[Query], pad_id: int) -> ModelServer:
            own = {"device": self.device, "threads": self.threads, "cores": cores, "by_tokens": variant.by_tokens}
            return ModelServer(forward, queries, pad_id=pad_id, **own)  # type: ignore[arg-type]

        start = self.clock()
        forwards = [variant.prepare(model, self.device) for model in self._models]
        results.prepare_s = self.clock() - start
        first = server_of(forwards[0], self.sample.queries, self.pad_id)
        served: QueryServer = first
        if self.larger is not None:
            second = server_of(forwards[1], self.larger.queries, self.larger.pad_id)
            served = CascadeServer(first, second, self.larger.unsure)
        start = self.clock()
        served.warm(0)
        results.first_query_s = self.clock() - start
        return served, first

    def _warm_up(self, model_server: QueryServer, results: StepResults) -> None:
        """Serve every shape once, since kernels and graphs belong to shapes; then until service times are stable."""
        rule, pooled = self.settings.warm_up, self.sample.pooled
        shapes = model_server.one_of_each_shape()[::-1]
        calls_within(
            lambda number: model_server.warm(shapes[number]),
            SHAPES_CAP * rule.max_s,
            clock=self.clock,
            at_most=len(shapes),
        )
        results.warm_up = warm_up(lambda number: model_server.serve(pooled[number % len(pooled)]), rule, self.clock)

    def _single_stream(self, model_server: QueryServer, results: StepResults) -> None:
        """Languages with too few different queries in LoadGen's draws are then served on their own."""
        pooled = self.sample.pooled
        drawn = single_stream(
            lambda draw: model_server.serve(pooled[draw]),
            len(pooled),
            self.settings.load(),
            expected_latency_s=results.expected_s,
        )
        results.gpu_in_use = read_gpu(gpu_uuid(self.device))
        latency = replace(drawn, samples=tuple(pooled[draw] for draw in drawn.samples))
        results.latency, served = latency, set(latency.samples)
        for language in dict.fromkeys(self.sample.languages):
            indices = self.sample.indices_in(language)
            enough = len(served.intersection(indices)) >= FEWEST[50]
            results.language_s[language] = (
                latency.times_of(set(indices)) if enough else self._each_once(model_server, indices)
            )

    def _each_once(self, model_server: QueryServer, indices: Sequence[int]) -> list[float]:
        """Service times of as many queries as fit into `per_language_s`."""
        calls = calls_within(
            lambda number: model_server.serve(indices[number]),
            self.settings.per_language_s,
            clock=self.clock,
            at_most=len(indices),
        )
        return [call.seconds for call in calls]

    def _offline(self, model_server: QueryServer, results: StepResults) -> None:
        settings, pooled = self.settings, self.sample.pooled
        warm_s = WARM_S if self.device.type == "cuda" else 0.0  # on a CPU a pass over all batches takes minutes
        sweep = sweep_batch_sizes(
            *(model_server, settings.batch_sizes, settings.sweep_s),
            seed=settings.seed,
            clock=self.clock,
            warm_s=warm_s,
            indices=pooled,
        )
        memory = PeakMemory(self.device)  # after the sweep: larger batches that it tried do not count
        results.sweep = sweep
        results.throughput = offline(
            model_server.serve_batch,
            len(pooled),
            settings.load(),
            batches=lambda draws: model_server.batches(
                [pooled[draw] for draw in draws], sweep.best, seed=settings.seed
            ),
            expected_sps=sweep.samples_per_s[sweep.best] * MARGIN,
        )
        results.gpu_in_use = read_gpu(gpu_uuid(self.device))  # at once: clocks fall within a second of idling
        results.peak = memory.read()
        for language in dict.fromkeys(self.sample.languages):
            indices = self.sample.indices_in(language)
            if len(indices) >= FEWEST[50]:
                results.language_sps[language] = timed_samples_per_s(
                    *(model_server, sweep.best, settings.per_language_s),
                    seed=settings.seed,
                    clock=self.clock,
                    warm_s=warm_s,
                    indices=indices,
                )

    def _too_slow(self, results: StepResults) -> str | None:
        """Why a search for a rate is pointless; None if it is not."""
        service_ms, bound_ms = results.service_s * 1000, self.settings.bound_ms
        if service_ms <= bound_ms:
            return None
        return f"a query takes {service_ms:.1f} ms without waiting: no rate can meet the bound of {bound_ms:g} ms"

    def _search(self, model_server: QueryServer, results: StepResults) -> RateSearch:
        """Search for the highest rate that meets the bound.

        The lowest rate is a tenth of what serving one query at a time allows. It is higher if too few queries for a p99 would
        arrive in the longest run.
        """
        settings, pooled = self.settings, self.sample.pooled
        largest = results.sweep.best if results.sweep else 1
        alone = 1 / results.service_s

        def run(rate: float, duration_s: float, queries: int) -> ServerResult:
            return server(
                lambda draws: model_server.serve_batch([pooled[draw] for draw in draws]),
                len(pooled),
                settings.server_load(duration_s, queries),
                rate=rate,
                bound_s=settings.bound_ms / 1000,
                largest_batch=largest,
                give_up=True,
            )

        return highest_rate(
            lambda rate: run(rate, settings.probe_s, FEWEST[99]),
            lambda rate: run(rate, settings.min_duration_s, max(settings.min_queries, FEWEST[99])),
            start=0.8 * alone,
            probes=settings.probes,
            lowest=max(0.1 * alone, ARRIVALS_AHEAD * FEWEST[99] / settings.server_s),
        )

    def _energy(self, model_server: QueryServer, results: StepResults, rule: EnergyRule) -> Energy | None:
        uuid = gpu_uuid(self.device)
        size = results.sweep.best if results.sweep else 1
        batches = model_server.batches(self.sample.pooled, size, seed=self.settings.seed)

        def serve(number: int) -> int:
            batch = batches[number % len(batches)]
            model_server.serve_batch(batch)
            return len(batch)

        return measure_energy(serve, rule, joules=lambda: read_gpu(uuid).energy_j, clock=self.clock)

    def _from_text(self, texts: Texts, model_server: ModelServer, results: StepResults) -> None:
        seconds = self.settings.text_s
        texts.tokenise(0)
        results.tokenise_s = median_call_s(texts.tokenise, seconds, clock=self.clock)
        results.end_to_end_s = median_call_s(
            lambda index: model_server.serve_query(texts.tokenise(index)), seconds, clock=self.clock
        )

    def _record_kernels(self, forward: Forward, results: StepResults) -> None:
        """What CUDA graphs were used for, and the kernels of attention for a single row and for a padded batch.

        At the end: recording them would disturb what is timed. Graphs hide their kernels, so the forward pass that they were
        recorded from is called, with padding as then.
        """
        by_length = sorted(self.sample.queries, key=lambda query: max(map(len, query)))
        padded_to = None
        if isinstance(forward, GraphedRows):
            results.graphs, forward = asdict(forward.use), forward.forward
            padded_to = max(map(len, by_length[-1]))
        model_server = ModelServer(
            forward, (by_length[0], by_length[-1]), pad_id=self.pad_id, device=self.device, threads=self.threads
        )
        results.attention = {
            "single": attention_kernels(lambda: model_server.serve_batch([0], padded_to=padded_to)),
            "batch": attention_kernels(lambda: model_server.serve_batch([0, 1])),
        }

    def _caller_weights_mb(self, copied: Sequence[TaskModel]) -> float:
        """Weights of the caller's models in the memory whose peak is read, if variants copied them: a deployment has one copy.

        The files of a loaded model are mapped, so rows of its embedding table that nothing has read take no memory of the host.
        """
        tensors = (tensor for model in copied for tensor in model.state_dict().values())
        weights = {tensor.data_ptr(): tensor for tensor in tensors}  # tied weights count once
        here = [tensor for tensor in weights.values() if tensor.device.type == self.device.type]
        if self.device.type == "cpu":
            return sum(resident_mb(tensor.data_ptr(), tensor.numel() * tensor.element_size()) for tensor in here)
        return sum(tensor.numel() * tensor.element_size() for tensor in here) / MB

    def _measurement(
        self, variant: Variant, results: StepResults, cores: Sequence[int], *, interference: Interference
    ) -> Measurement:
        metrics, missing = metrics_of(results, self.settings)
        languages, few = language_metrics(results, self.sample)
        by_scenario = results.by_scenario()
        return Measurement(
            variant=variant.name,
            **metrics,
            rss_mb=results.rss_mb,
            cold_start_ms=results.cold_start_s * 1000,
            mean_pieces=self.sample.profile().mean,
            parameters=sum(weight.numel() for model in self._models for weight in model.parameters()),
            samples=len(results.latency.service_s) if results.latency else 0,
            languages=languages,
            valid={name: result.valid for name, result in by_scenario.items()},
            problems={name: result.problems for name, result in by_scenario.items() if result.problems},
            unavailable=missing | few,
            interference=interference,
            context=context_of(
                *(results, self.sample),
                settings=self.settings,
                device=self.device,
                threads=self.threads,
                cores=cores,
            )
            | variant.context(self.sample.queries),
        )
