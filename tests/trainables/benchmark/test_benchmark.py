"""The benchmark: scenarios with fake services, variants of a tiny model, and whole measurements."""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import pickle
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import pynvml
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import XLMRobertaConfig, XLMRobertaModel

from trainables.benchmark import VARIANTS, Benchmark, BenchmarkSettings, VariantUnavailable, sample_queries
from trainables.benchmark.benchmark import _not_met
from trainables.benchmark.measurement import METRICS
from trainables.benchmark.probes import memory as memory_module
from trainables.benchmark.probes.hardware import describe_hardware
from trainables.benchmark.probes.nvml import FIELDS, gpu_names, read_gpu
from trainables.benchmark.scenarios.queries import Query, shares
from trainables.benchmark.scenarios.loadgen import LoadSettings, ServerResult, offline, single_stream
from trainables.benchmark.scenarios.percentiles import interquartile_range, percentile
from trainables.benchmark.scenarios.rates import RateSearch
from trainables.benchmark.scenarios.serving import Server
from trainables.benchmark.scenarios.sweep import sweep_batch_sizes
from trainables.benchmark.scenarios.warmup import WarmUpRule, warm_up
from trainables.benchmark.variants import Variant
from trainables.benchmark.variants.base import copy_to
from trainables.data.examples import Example, PairExample
from trainables.evaluation import Forward
from trainables.heads import HEADS
from trainables.models.task_model import TaskModel
from trainables.tasks.base import Split, Task

CPU = torch.device("cpu")
PAD = 1
LOAD = LoadSettings(min_duration_s=0.3, min_queries=11, max_duration_s=2.0)
TINY = BenchmarkSettings(
    min_duration_s=0.2,
    min_queries=11,
    max_duration_s=2.0,
    warm_up=WarmUpRule(window=5, tolerance=0.2, max_s=0.3),
    batch_sizes=(1, 4),
    sweep_s=0.05,
    scenarios=("SingleStream", "Offline"),
    per_language_s=0.02,
    energy=None,
)
# Largest difference from fp32 that arithmetic of 8 bits of mantissa, or weights of 8 bits, may make of logits below 1.
TOLERANCES = {**dict.fromkeys(("bf16", "compiled_bf16", "openvino_bf16", "int8", "onnx_int8"), 2e-2)}


@dataclasses.dataclass(frozen=True)
class Pairs(Task):
    """Just enough of a task to build a head."""

    name = "pairs"
    head = "pair_classification"
    labels = ("yes", "no", "perhaps")

    @property
    def languages(self) -> tuple[str, ...]:
        return ("en",)

    @property
    def revision(self) -> str:
        return "0"

    def examples(self, split: Split, language: str) -> Sequence[Example]:
        return [PairExample("0", "a", "b", 0)]

    def chance(self) -> float:
        return 100 / 3


@pytest.fixture
def model() -> TaskModel:
    torch.manual_seed(0)
    config = XLMRobertaConfig(
        vocab_size=50,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        pad_token_id=PAD,
    )
    head = HEADS["pair_classification"].module(32, Pairs())
    return TaskModel(XLMRobertaModel(config, add_pooling_layer=False), head).eval()


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Two threads on two shared cores wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def queries(lengths: Sequence[int]) -> list[Query]:
    return [(tuple(5 + (place + length) % 40 for place in range(length)),) for length in lengths]


def bench(model: TaskModel, settings: BenchmarkSettings = TINY) -> Benchmark:
    pools = [("en", queries([4, 6, 8] * 4)), ("th", queries([12, 16, 20] * 4))]
    sample = sample_queries(pools, 24, seed=0)
    return Benchmark(model, sample, PAD, CPU, threads=1, settings=settings)


def in_fours(indices: Sequence[int]) -> list[Sequence[int]]:
    return [indices[start : start + 4] for start in range(0, len(indices), 4)]


class Ticks:
    """A clock that only moves when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Quick(Variant):
    """A service of known cost; counts what it is asked."""

    name = "quick"

    def __init__(self, fail_above: int = 10**9, seconds: float = 0.002) -> None:
        self.rows, self.fail_above, self.seconds = 0, fail_above, seconds

    def prepare(self, model: TaskModel, device: torch.device) -> Forward:
        def forward(ids_NL: Tensor, mask_NL: Tensor) -> Tensor:
            if len(ids_NL) > self.fail_above:
                raise torch.OutOfMemoryError("no memory left")
            self.rows += len(ids_NL)
            time.sleep(self.seconds)
            return torch.zeros(len(ids_NL), 3)

        return forward


# Percentiles


@pytest.mark.parametrize(("percent", "fewest"), [(50, 11), (90, 64), (95, 130), (99, 662)])
def test_percentile_needs_as_many_queries_as_mlperf_early_stopping(percent: int, fewest: int) -> None:
    values = [float(value) for value in range(fewest, 0, -1)]
    assert percentile(values[1:], percent) is None
    assert percentile(values, percent) is not None


def test_percentile_is_the_nearest_rank_and_always_a_value_that_occurred() -> None:
    values = [float(value) for value in range(100, 0, -1)]
    assert percentile(values, 50) == 50.0  # 50 of the 100 values are at most 50
    assert percentile(values, 90) == 90.0
    assert interquartile_range(values) == 50.0  # 75 less 25


# LoadGen


def test_single_stream_finds_the_duration_of_a_known_service() -> None:
    result = single_stream(lambda index: time.sleep(0.002), 7, LOAD, expected_latency_s=0.002)
    p50_s = result.percentile_s(50)
    assert result.valid, result.problems
    assert p50_s is not None
    assert 0.002 <= p50_s < 0.004  # sleep never returns early; the rest allows for a busy machine
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


def test_single_stream_too_slow_for_the_queries_asked_for_is_not_valid_and_says_so() -> None:
    hurried = LoadSettings(min_duration_s=0.1, min_queries=500, max_duration_s=0.2)
    result = single_stream(lambda index: time.sleep(0.02), 3, hurried, expected_latency_s=0.02)
    assert not result.valid
    assert "before enough queries" in result.problems[0]
    assert result.percentile_s(90) is None


def test_offline_throughput_is_that_of_a_known_service() -> None:
    result = offline(lambda batch: time.sleep(0.004), 9, LOAD, batches=in_fours, expected_sps=1000.0)
    assert 4 / 0.008 < result.samples_per_s <= 4 / 0.004
    assert result.served >= 300  # 1000 a second expected, for at least 0.3 s


def test_offline_that_ends_before_the_minimum_duration_is_not_valid() -> None:
    result = offline(lambda batch: time.sleep(0.001), 9, LOAD, batches=in_fours, expected_sps=50.0)
    assert not result.valid
    assert "QPS" in result.problems[0]


def test_offline_stops_at_the_maximum_duration() -> None:
    short = LoadSettings(min_duration_s=0.1, min_queries=1, max_duration_s=0.2)
    result = offline(lambda batch: time.sleep(0.05), 9, short, batches=in_fours, expected_sps=100_000.0)
    assert not result.valid
    assert "stopped after" in result.problems[-1]
    assert result.samples_per_s == pytest.approx(80, rel=0.2)  # 4 in 0.05 s; dropped samples must not count


def test_an_exception_in_a_service_surfaces_and_does_not_hang() -> None:
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


# Warming up and choosing a batch size


def test_warm_up_stops_when_stable() -> None:
    clock = Ticks()
    costs = iter([5.0, 3.0, 2.0, 1.5, *[1.0] * 100])

    def serve(index: int) -> None:
        clock.now += next(costs)

    found = warm_up(serve, WarmUpRule(window=3, tolerance=0.1, max_s=1000.0), clock)
    # The first window of three whose median is 1 is that of queries 4 to 6; the window after it ends with query 9.
    assert (found.queries, found.stable, found.median_s) == (9, True, 1.0)


def test_warm_up_of_a_service_that_never_settles_ends_at_the_cap() -> None:
    clock = Ticks()

    def slower_and_slower(index: int) -> None:
        clock.now = clock.now * 1.5 + 1

    found = warm_up(slower_and_slower, WarmUpRule(window=3, tolerance=0.1, max_s=500.0), clock)
    assert not found.stable
    assert 500.0 <= found.seconds < 1000.0


def test_sweep_keeps_the_fastest_size_and_stops_growing_when_out_of_memory() -> None:
    clock = Ticks()

    def forward(ids_NL: Tensor, mask_NL: Tensor) -> Tensor:
        rows = len(ids_NL)
        if rows > 8:
            raise torch.OutOfMemoryError("no memory left")
        clock.now += {1: 1.0, 4: 1.0, 8: 4.0}[rows]
        return torch.zeros(rows, 3)

    server = Server(forward, queries([4] * 6), pad_id=PAD, device=CPU, threads=torch.get_num_threads())
    found = sweep_batch_sizes(server, (16, 8, 4, 1, 32), 5.0, seed=0, clock=clock)
    assert found.samples_per_s == pytest.approx({1: 1.0, 4: 4.0, 8: 2.0})
    assert found.best == 4
    assert found.stopped == "out of memory at batch size 16: no memory left"
    with pytest.raises(torch.OutOfMemoryError):
        sweep_batch_sizes(server, (16, 32), 5.0, seed=0, clock=clock)


# Queries


def test_sampled_queries_keep_the_shares_of_the_languages_and_depend_on_the_seed_alone() -> None:
    pools = [("en", queries([4] * 60)), ("sw", queries([9] * 30)), ("th", queries([20] * 10))]
    sample = sample_queries(pools, 20, seed=3, fewest=1)
    assert sample.pooled == tuple(range(20))
    assert sample.profile().languages == {"en": 12, "sw": 6, "th": 2}
    assert all(
        len(query[0]) == {"en": 4, "sw": 9, "th": 20}[lang]
        for query, lang in zip(sample.queries, sample.languages, strict=True)
    )
    assert sample == sample_queries(pools, 20, seed=3, fewest=1)
    assert sample != sample_queries(pools, 20, seed=4, fewest=1)
    assert shares([1, 1, 1], 2) == [1, 1, 0]
    assert shares([2, 1], 10) == [2, 1]


def test_a_small_language_gives_enough_queries_and_counts_for_its_share_alone() -> None:
    pools = [("en", queries([10] * 5000)), ("sw", queries([20] * 100)), ("yo", queries([30] * 4))]
    sample = sample_queries(pools, 512, seed=0)
    assert sample.profile().languages == {"en": 502, "sw": 32, "yo": 4}
    counts = Counter(sample.languages[place] for place in sample.pooled)
    assert counts["sw"] / len(sample.pooled) == pytest.approx(100 / 5104, rel=0.05)
    assert sample.profile().mean == pytest.approx((5000 * 10 + 100 * 20 + 4 * 30) / 5104, rel=0.002)
    assert set(sample.pooled) == set(range(len(sample.queries)))
    often = Counter(sample.pooled)
    assert max(often[place] for place in sample.of("sw")) - min(often[place] for place in sample.of("sw")) <= 1


def test_no_queries_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot draw 4 queries"):
        sample_queries([("en", [])], 4, seed=0)


@pytest.mark.usefixtures("one_thread")
def test_a_batch_gives_each_query_the_logits_that_it_gets_alone(model: TaskModel) -> None:
    server = Server(model.logits, queries([4, 12, 7]), pad_id=PAD, device=CPU, threads=1)
    together = server.batch([2, 1, 0])
    alone = torch.cat([server.batch([index]) for index in (2, 1, 0)])
    assert torch.allclose(together, alone, atol=1e-5)
    assert not torch.allclose(alone[0], alone[1], atol=1e-5)


def test_queries_of_several_rows_stay_together() -> None:
    seen: list[Tensor] = []

    def forward(ids_NL: Tensor, mask_NL: Tensor) -> Tensor:
        seen.append(ids_NL * mask_NL)
        return torch.zeros(len(ids_NL), 1)

    choices: list[Query] = [((5, 6), (7, 8, 9)), ((10,), (11, 12))]
    Server(forward, choices, pad_id=PAD, device=CPU, threads=torch.get_num_threads()).batch([1, 0])
    assert seen[0].tolist() == [[10, 0, 0], [11, 12, 0], [5, 6, 0], [7, 8, 9]]


# Variants


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("name", list(VARIANTS))
def test_a_variant_agrees_with_fp32_and_leaves_the_callers_model_alone(name: str, model: TaskModel) -> None:
    if reason := VARIANTS[name].unavailable(CPU):
        pytest.skip(reason)
    before = copy.deepcopy(model.state_dict())
    reference = Server(model.logits, queries([6, 9]), pad_id=PAD, device=CPU, threads=1)
    server = Server(VARIANTS[name].prepare(model, CPU), queries([6, 9]), pad_id=PAD, device=CPU, threads=1)
    tolerance = TOLERANCES.get(name, 1e-5)
    assert torch.allclose(server.batch([0, 1]), reference.batch([0, 1]), atol=tolerance)
    assert not torch.allclose(reference.batch([0]), torch.zeros(1, 3), atol=5 * tolerance)
    after = model.state_dict()
    assert all(after[key].dtype == value.dtype and torch.equal(after[key], value) for key, value in before.items())


@pytest.mark.usefixtures("one_thread")
def test_a_copy_is_made_where_it_is_to_be_and_never_as_it_was(model: TaskModel) -> None:
    """A host that holds 43 GB of weights need not hold them twice to serve them in bf16 on another device."""

    class Made(TorchDispatchMode):  # type: ignore[no-untyped-call]
        """Collects new tensors of fp32."""

        def __init__(self) -> None:
            super().__init__()  # type: ignore[no-untyped-call]
            self.floats: list[torch.Tensor] = []

        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            found = function(*args, **(kwargs or {}))
            if isinstance(found, torch.Tensor) and found.dtype == torch.float32 and found.numel() > 1:
                self.floats += [] if found._is_view() or function is torch.ops.aten.detach.default else [found]
            return found

    with Made() as made:
        copied = copy_to(model, CPU, torch.bfloat16)
    assert not made.floats
    assert {one.dtype for one in copied.parameters()} == {torch.bfloat16}
    assert {one.dtype for one in model.parameters()} == {torch.float32}
    assert [name for name, _ in copied.named_parameters()] == [name for name, _ in model.named_parameters()]
    for (name, before), after in zip(model.state_dict().items(), copied.state_dict().values(), strict=True):
        assert torch.equal(before.to(after.dtype), after), name
    assert len({id(one) for one in copied.parameters()}) == len({id(one) for one in model.parameters()})
    assert not copied.training


def test_a_model_in_training_mode_is_served_in_evaluation_mode_and_stays_as_it_was(model: TaskModel) -> None:
    model.train()  # the config's default dropout of 0.1 would make two runs differ
    forward = VARIANTS["fp32"].prepare(model, CPU)
    ids, mask = torch.arange(5, 13)[None], torch.ones(1, 8, dtype=torch.long)
    assert torch.equal(forward(ids, mask), forward(ids, mask))
    assert model.training


def test_bf16_on_a_cpu_without_it_is_unavailable_with_the_reason(
    model: TaskModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainables.benchmark.variants.eager.cpu_has_bf16", lambda: False)
    with pytest.raises(VariantUnavailable, match="emulates bf16") as caught:
        bench(model).measure("bf16")
    copied = pickle.loads(pickle.dumps(caught.value))  # it leaves a worker process that way
    assert (copied.name, copied.reason) == ("bf16", caught.value.reason)


def test_an_unknown_variant_is_refused_by_name(model: TaskModel) -> None:
    with pytest.raises(ValueError, match=r"no serving variant 'fp64'; there are bf16, compiled, "):
        bench(model).measure("fp64")


# Whole measurements


def test_a_measurement_is_json_with_a_reason_for_all_that_is_missing(model: TaskModel) -> None:
    threads = torch.get_num_threads()
    measured = bench(model).measure("fp32")
    assert torch.get_num_threads() == threads
    document = json.loads(json.dumps(measured.as_dict(), allow_nan=False))
    for metric in METRICS:
        assert (document[metric] is None) == (metric in document["unavailable"]), metric
    assert document["p50_ms"] > 0
    assert document["energy_j_per_sample"] is None
    assert document["parameters"] == sum(weight.numel() for weight in model.parameters())
    assert set(document["valid"]) == {"SingleStream", "Offline"}
    assert document["context"]["queries"]["languages"] == {"en": 12, "th": 12}
    assert document["context"]["hardware"]["summary"] == describe_hardware()
    assert document["context"]["torch_threads"] == 1
    assert document["cold_start_ms"] > 0
    assert document["rss_mb"] > 50
    assert document["mean_pieces"] == 11.0  # of 4, 6, 8, 12, 16 and 20 tokens
    assert {name: one["mean_pieces"] for name, one in document["languages"].items()} == {"en": 6.0, "th": 16.0}
    assert all(one["throughput_sps"] > 0 for one in document["languages"].values())
    assert document["unavailable"]["server_qps"] == "Server was not asked for"


def test_a_measurement_of_a_known_service(model: TaskModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(VARIANTS, "quick", Quick(fail_above=4))
    settings = dataclasses.replace(TINY, batch_sizes=(1, 4, 8))
    measured = bench(model, settings).measure("quick")
    assert measured.p50_ms is not None
    assert measured.throughput_sps is not None
    assert 2.0 <= measured.p50_ms < 4.0
    assert measured.p90_ms is None or measured.p90_ms >= measured.p50_ms
    assert measured.p99_ms is None
    assert measured.unavailable["p99_ms"].startswith("p99_ms needs 662 queries")
    assert measured.batch_size == 4
    assert 4 / 0.004 < measured.throughput_sps <= 4 / 0.002
    assert measured.context["sweep_stopped"].startswith("out of memory at batch size 8")


def test_a_rare_language_has_its_own_latency_and_one_of_few_queries_has_none(
    model: TaskModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(VARIANTS, "quick", Quick())
    pools = [("en", queries([4] * 3000)), ("sw", queries([9] * 20)), ("yo", queries([12] * 5))]
    settings = dataclasses.replace(TINY, per_language_s=1.0)
    rare = dataclasses.replace(bench(model, settings), sample=sample_queries(pools, 100, seed=0))
    measured = rare.measure("quick")
    assert 2.0 <= measured.languages["sw"]["p50_ms"] < 6.0
    assert set(measured.languages["sw"]) == {"mean_pieces", "p50_ms", "throughput_sps"}
    assert measured.languages["yo"] == {"mean_pieces": 12.0}
    reason = "needs 11 different queries of a language: yo has 5"
    for name in ("p50_ms", "throughput_sps"):
        assert measured.unavailable[f"languages/{name}"] == reason


SERVER_ALONE = dataclasses.replace(
    TINY, scenarios=("SingleStream", "Server"), min_queries=11, bound_ms=100.0, probe_s=0.2, probes=10, server_s=1.0
)


def test_no_rate_is_looked_for_where_one_query_alone_takes_too_long(
    model: TaskModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(VARIANTS, "slow", Quick(seconds=0.15))
    start = time.perf_counter()
    measured = bench(model, SERVER_ALONE).measure("slow")
    assert time.perf_counter() - start < 20  # every shape and the languages once, warming up, SingleStream
    assert measured.server_qps is None
    assert "no rate can meet the bound" in measured.unavailable["server_qps"]
    assert measured.server_bound_ms == 100.0
    assert "Server" not in measured.valid


def test_the_search_for_a_rate_ends_within_seconds_for_a_service_near_the_bound(
    model: TaskModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(VARIANTS, "slow", Quick(seconds=0.04))
    settings = dataclasses.replace(SERVER_ALONE, bound_ms=50.0)
    start = time.perf_counter()
    measured = bench(model, settings).measure("slow")
    assert time.perf_counter() - start < 20
    assert measured.server_qps is None
    assert "given up" in measured.unavailable["server_qps"]
    assert "the lowest rate tried" in measured.unavailable["server_qps"]


def test_a_bound_that_is_not_met_says_what_was_tried() -> None:
    def result(rate: float, p99_s: float | None, *problems: str) -> ServerResult:
        return ServerResult(rate, 0.1, None, None, p99_s, None, 700, False, not problems, problems)

    unheld = RateSearch(result(8.6, 0.12), ((8.0, True), (10.0, True), (16.0, False)))
    assert _not_met(unheld) == (
        "p99 120.0 ms is over 100 ms, at 8.6 a second, in runs of full length; probes met it at 10"
    )
    few = RateSearch(result(5.0, None, "60 queries arrived, and a p99 needs 662"), ((5.0, False),))
    assert _not_met(few) == "60 queries arrived, and a p99 needs 662, at 5 a second, the lowest rate tried"


def test_an_error_of_the_model_reaches_the_caller(model: TaskModel) -> None:
    broken = dataclasses.replace(bench(model), sample=sample_queries([("en", queries([100]))], 1, seed=0))
    with pytest.raises((IndexError, RuntimeError)):  # the model has 62 positions
        broken.measure("fp32")


def test_settings_for_a_window_of_three_seconds_fit_in_it() -> None:
    quick = BenchmarkSettings.for_window(3.0)
    assert quick.min_duration_s * 2 + quick.warm_up.max_s + quick.sweep_s * len(quick.batch_sizes) < 3.6
    with pytest.raises(ValueError, match="not positive"):
        BenchmarkSettings.for_window(0.0)


# What the machine says about itself


def test_without_nvml_every_field_is_unavailable_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", missing)
    state = read_gpu("GPU-0")
    for name in FIELDS:
        assert getattr(state, name) is None
        assert "Not Found" in state.unavailable[name]
    assert gpu_names() == ()
    assert read_gpu(None).unavailable["energy_j"] == "the device is not a GPU"


def test_nvml_finds_the_gpu_by_uuid_and_misses_one_field_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    own = os.getpid()

    def no_energy(handle: str) -> int:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)

    def busy(handle: str) -> list[object]:
        return [
            type("Process", (), {"pid": -1, "usedGpuMemory": 5e6})(),
            type("Process", (), {"pid": own, "usedGpuMemory": 3e6})(),
        ]

    fakes = {
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlDeviceGetHandleByUUID": lambda uuid: f"handle of {uuid}",
        "nvmlDeviceGetName": lambda handle: handle,
        "nvmlSystemGetDriverVersion": lambda: b"580.1",
        "nvmlDeviceGetTotalEnergyConsumption": no_energy,
        "nvmlDeviceGetMemoryInfo": lambda handle: type("Memory", (), {"used": 2e6, "total": 8e6})(),
        "nvmlDeviceGetComputeRunningProcesses": busy,
        "nvmlDeviceGetPowerUsage": lambda handle: 250_500,
        "nvmlDeviceGetTemperature": lambda handle, sensor: 61,
        "nvmlDeviceGetClockInfo": lambda handle, kind: {pynvml.NVML_CLOCK_SM: 1980, pynvml.NVML_CLOCK_MEM: 2619}[kind],
        "nvmlDeviceGetCurrentClocksEventReasons": lambda handle: (
            pynvml.nvmlClocksEventReasonSwPowerCap | pynvml.nvmlClocksEventReasonGpuIdle
        ),
        "nvmlDeviceGetMigMode": lambda handle: [0, 1],
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(pynvml, name, fake)
    state = read_gpu("GPU-7")
    assert (state.name, state.driver, state.memory_used_mb, state.other_processes) == (
        "handle of GPU-7",
        "580.1",
        2.0,
        1,
    )
    assert state.energy_j is None
    assert list(state.unavailable) == ["energy_j"]
    assert (state.power_w, state.temperature_c, state.sm_clock_mhz, state.memory_clock_mhz) == (250.5, 61, 1980, 2619)
    assert state.slowed_by == ("power cap",)  # idling is no reason
    assert state.mig is False
    assert state.process_memory_mb == 3.0
    own = -2  # as in a container, where processes have other ids than NVML knows
    state = read_gpu("GPU-7")
    assert state.process_memory_mb is None
    assert "ids of its own" in state.unavailable["process_memory_mb"]


def test_the_peak_of_host_memory_counts_from_its_reset() -> None:
    if not memory_module.reset_host_peak():
        pytest.skip("this kernel does not reset the peak")
    peak = memory_module.PeakMemory(CPU)
    before = peak.read().mb
    block = bytearray(b"x" * 50_000_000)
    high = peak.read().mb
    assert high - before > 40
    del block
    assert memory_module.PeakMemory(CPU).read().mb < high - 40
    assert memory_module.host_peak_mb() >= memory_module.host_rss_mb() * 0.9
