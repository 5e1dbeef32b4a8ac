"""Only timing is restricted to the plan's cores: the same process then scores on all cores that it has."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from transformers import XLMRobertaConfig, XLMRobertaModel

from tests.support.serving import CPU, PAD, Pairs
from trainables.benchmark.benchmark import Benchmark
from trainables.benchmark.measurement import Measured
from trainables.benchmark.placement import pinned
from trainables.benchmark.probes.hardware import available_cores
from trainables.benchmark.scenarios.queries import QuerySample
from trainables.benchmark.settings import BenchmarkSettings
from trainables.benchmark.subjects.fresh import run_fresh
from trainables.benchmark.variants import VARIANTS, ServedTokens, Variant, variant_named
from trainables.heads import HEADS
from trainables.models.task_model import TaskModel

ONE_QUERY = ((tuple(range(5, 21)),),)
CALLS, BUSY_TICKS = 6, 3  # a tick is 10 ms; a batch takes 0.1 s of computing or more


@dataclass(frozen=True)
class ThreadsAfterTiming:
    """A subject that is timed on one thread and then counts the threads that compute a batch, as scoring does."""

    def run(self, variant: str | Variant, *, scored: bool = True) -> Measured:
        torch.manual_seed(0)
        config = XLMRobertaConfig(
            vocab_size=100,
            hidden_size=512,
            num_hidden_layers=2,
            num_attention_heads=8,
            intermediate_size=2048,
            max_position_embeddings=140,
            pad_token_id=PAD,
        )
        head = HEADS["pair_classification"].module(512, Pairs())
        model = TaskModel(XLMRobertaModel(config, add_pooling_layer=False), head).eval()
        sample = QuerySample(ONE_QUERY, ("en",), (0,))
        settings = BenchmarkSettings.for_window(0.1, scenarios=("SingleStream",))
        served = variant_named(variant).for_texts(lambda: ServedTokens(tuple(range(100)), 3))
        Benchmark(model, sample, PAD, CPU, threads=1, settings=settings).measure(served)
        ids_NL, mask_NL = torch.randint(5, 99, (32, 128)), torch.ones(32, 128, dtype=torch.long)
        with pinned(available_cores(), ()), torch.inference_mode():
            forward = served.prepare(model, CPU)
            forward(ids_NL, mask_NL)  # compiles, and starts threads
            before = _ticks_by_thread()
            for _ in range(CALLS):
                forward(ids_NL, mask_NL)
        ticks = {thread: ticks - before.get(thread, 0) for thread, ticks in _ticks_by_thread().items()}
        return Measured({"busy_threads": sum(used >= BUSY_TICKS for used in ticks.values())})


def _ticks_by_thread() -> dict[str, int]:
    """CPU time of each thread of this process: utime and stime of proc_pid_stat(5)."""
    fields = {
        path.name: (path / "stat").read_text().rpartition(")")[2].split() for path in Path("/proc/self/task").iterdir()
    }
    return {thread: int(values[11]) + int(values[12]) for thread, values in fields.items()}


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity") or available_cores() < 2, reason="needs two cores to restrict")
@pytest.mark.parametrize("name", ["fp32", "int8", "compiled", "onnx", "openvino"])  # the others use the same runtimes
def test_scoring_uses_all_cores_after_a_timing_on_one(name: str) -> None:
    if reason := VARIANTS[name].unavailable(CPU):
        pytest.skip(reason)
    outcome = run_fresh(ThreadsAfterTiming(), name)
    assert isinstance(outcome, Measured), outcome
    assert outcome["busy_threads"] >= 2
