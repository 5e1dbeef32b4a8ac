"""Whole measurements of a tiny model."""

from __future__ import annotations

import dataclasses
import json
import time

import pytest
import torch
from torch import Tensor

from tests.support.serving import TINY, KnownService, benchmark_of, queries
from trainables.benchmark import BenchmarkSettings, sample_queries
from trainables.benchmark.measurement import METRICS, RESIDENT_WEIGHTS
from trainables.benchmark.probes.hardware import describe_hardware
from trainables.benchmark.results import bound_missed
from trainables.benchmark.scenarios.loadgen import ServerResult
from trainables.benchmark.scenarios.rates import RateSearch
from trainables.evaluation import Forward
from trainables.models.task_model import TaskModel


def test_a_measurement_is_json_with_a_reason_for_every_missing_metric(model: TaskModel) -> None:
    threads = torch.get_num_threads()
    measured = benchmark_of(model).measure("fp32")
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
    assert document["context"]["weights_subtracted"] == RESIDENT_WEIGHTS
    assert document["cold_start_ms"] > 0
    assert document["rss_mb"] > 50
    assert document["mean_pieces"] == 11.0  # of 4, 6, 8, 12, 16 and 20 tokens
    assert {name: metrics["mean_pieces"] for name, metrics in document["languages"].items()} == {"en": 6.0, "th": 16.0}
    assert all(metrics["throughput_sps"] > 0 for metrics in document["languages"].values())
    assert document["unavailable"]["server_qps"] == "Server was not asked for"
    assert document["context"]["cuda_graphs"] is None
    assert document["context"]["attention_kernels"] == {"single": ["flash"], "batch": ["flash"]}


class ByTokens(KnownService):
    """Records the tokens of every row that it serves, batch by batch."""

    name = "by_tokens"
    by_tokens = True

    def __init__(self) -> None:
        super().__init__(seconds=0.0)
        self.served: list[list[int]] = []

    def prepare(self, model: TaskModel, device: torch.device) -> Forward:
        def forward(ids_NL: Tensor, mask_NL: Tensor) -> Tensor:
            self.served.append(mask_NL.sum(1).tolist())
            return torch.zeros(len(ids_NL), 3)

        return forward


def test_the_batches_of_a_variant_by_tokens_have_different_numbers_of_queries(model: TaskModel) -> None:
    """Sizes of 4 queries of 11 tokens on average, or of 6 or 16 where a language is served alone."""
    settings = dataclasses.replace(TINY, batch_sizes=(4,), scenarios=("Offline",))
    variant = ByTokens()
    benchmark_of(model, settings).measure(variant)
    batches = [rows for rows in variant.served if len(rows) > 1]
    assert max(map(sum, batches)) <= 4 * 16
    assert {2, 3, 5} <= {len(rows) for rows in batches}


def test_a_measurement_of_a_known_service(model: TaskModel) -> None:
    settings = dataclasses.replace(TINY, batch_sizes=(1, 4, 8))
    measured = benchmark_of(model, settings).measure(KnownService(fail_above=4))
    assert measured.variant == "known_service"
    assert measured.p50_ms is not None
    assert measured.throughput_sps is not None
    assert 2.0 <= measured.p50_ms < 4.0
    assert measured.p90_ms is None or measured.p90_ms >= measured.p50_ms
    assert measured.p99_ms is None
    assert measured.unavailable["p99_ms"].startswith("p99_ms needs 662 queries")
    assert measured.batch_size == 4
    assert 4 / 0.004 < measured.throughput_sps <= 4 / 0.002
    assert measured.context["sweep_stopped"].startswith("out of memory at batch size 8")


@pytest.mark.slow
def test_a_rare_language_is_served_on_its_own_and_one_with_few_queries_is_not(model: TaskModel) -> None:
    pools = [("en", queries([4] * 3000)), ("sw", queries([9] * 20)), ("yo", queries([12] * 5))]
    settings = dataclasses.replace(TINY, per_language_s=1.0)
    rare = dataclasses.replace(benchmark_of(model, settings), sample=sample_queries(pools, 100, seed=0))
    measured = rare.measure(KnownService())
    assert 2.0 <= measured.languages["sw"]["p50_ms"] < 6.0
    assert set(measured.languages["sw"]) == {"mean_pieces", "p50_ms", "throughput_sps"}
    assert measured.languages["yo"] == {"mean_pieces": 12.0}
    reason = "needs 11 different queries of a language: yo has 5"
    for name in ("p50_ms", "throughput_sps"):
        assert measured.unavailable[f"languages/{name}"] == reason


SERVER_ALONE = dataclasses.replace(
    TINY, scenarios=("SingleStream", "Server"), min_queries=11, bound_ms=100.0, probe_s=0.2, probes=10, server_s=1.0
)


@pytest.mark.slow
def test_there_is_no_search_if_a_single_query_exceeds_the_bound(model: TaskModel) -> None:
    start = time.perf_counter()
    measured = benchmark_of(model, SERVER_ALONE).measure(KnownService(seconds=0.15))
    assert time.perf_counter() - start < 20  # each shape and each language once, the warm-up, SingleStream
    assert measured.server_qps is None
    assert "no rate can meet the bound" in measured.unavailable["server_qps"]
    assert measured.server_bound_ms == 100.0
    assert "Server" not in measured.valid


@pytest.mark.slow
def test_the_search_for_a_rate_ends_within_seconds_for_a_service_near_the_bound(model: TaskModel) -> None:
    settings = dataclasses.replace(SERVER_ALONE, bound_ms=50.0)
    start = time.perf_counter()
    measured = benchmark_of(model, settings).measure(KnownService(seconds=0.04))
    assert time.perf_counter() - start < 20
    assert measured.server_qps is None
    assert "given up" in measured.unavailable["server_qps"]
    assert "the lowest rate tried" in measured.unavailable["server_qps"]


def test_the_reason_of_a_missed_bound_says_what_was_tried() -> None:
    def result(rate: float, p99_s: float | None, *problems: str) -> ServerResult:
        return ServerResult(rate, 0.1, None, None, p99_s, None, 700, False, not problems, problems)

    unconfirmed = RateSearch(result(8.6, 0.12), ((8.0, True), (10.0, True), (16.0, False)))
    assert bound_missed(unconfirmed) == (
        "p99 120.0 ms exceeds 100 ms, at 8.6 queries per second, in runs of full length; probes met the bound at 10"
    )
    few = RateSearch(result(5.0, None, "60 queries arrived, and a p99 needs 662"), ((5.0, False),))
    assert bound_missed(few) == (
        "60 queries arrived, and a p99 needs 662, at 5 queries per second, the lowest rate tried"
    )


def test_an_error_of_the_model_is_raised(model: TaskModel) -> None:
    broken = dataclasses.replace(benchmark_of(model), sample=sample_queries([("en", queries([100]))], 1, seed=0))
    with pytest.raises((IndexError, RuntimeError)):  # the model has 62 positions
        broken.measure("fp32")


def test_settings_for_a_window_of_three_seconds_fit_in_it() -> None:
    quick = BenchmarkSettings.for_window(3.0)
    assert quick.min_duration_s * 2 + quick.warm_up.max_s + quick.sweep_s * len(quick.batch_sizes) < 3.6
    with pytest.raises(ValueError, match="not positive"):
        BenchmarkSettings.for_window(0.0)
