"""A tiny model, queries and services of known cost, for tests of the benchmark."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import XLMRobertaConfig, XLMRobertaModel

from tests.benchmarks.gpu_settings import TINY as TINY_CHANGES
from trainables.benchmark import Benchmark, BenchmarkSettings, sample_queries
from trainables.benchmark.scenarios.queries import Query
from trainables.benchmark.scenarios.warmup import WarmUpRule
from trainables.benchmark.subjects.plain import random_encoder
from trainables.benchmark.variants import Variant
from trainables.data.examples import Example, PairExample
from trainables.evaluation import Forward
from trainables.heads import HEADS
from trainables.models.task_model import TaskModel
from trainables.tasks.base import Split, Task

CPU = torch.device("cpu")
PAD = 1
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
SHORT = dataclasses.replace(
    BenchmarkSettings.for_window(0.5), scenarios=("SingleStream", "Offline"), batch_sizes=(1, 4), text_s=0.05
)


@dataclasses.dataclass(frozen=True)
class Pairs(Task):
    """The parts of a task that a head needs."""

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


def tiny_model() -> TaskModel:
    """A one-layer encoder with a head for pairs, with random weights."""
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


def queries(lengths: Sequence[int]) -> list[Query]:
    """Queries of one row each, of these numbers of tokens."""
    return [(tuple(5 + (position + length) % 40 for position in range(length)),) for length in lengths]


def benchmark_of(model: TaskModel, settings: BenchmarkSettings = TINY) -> Benchmark:
    """A benchmark with twelve queries of each of two languages."""
    pools = [("en", queries([4, 6, 8] * 4)), ("th", queries([12, 16, 20] * 4))]
    sample = sample_queries(pools, 24, seed=0)
    return Benchmark(model, sample, PAD, CPU, threads=1, settings=settings)


class ManualClock:
    """A clock that moves only when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class KnownService(Variant):
    """A service that takes the same time for every batch, and runs out of memory above a batch size."""

    name = "known_service"

    def __init__(self, fail_above: int = 10**9, seconds: float = 0.002) -> None:
        self.fail_above, self.seconds = fail_above, seconds

    def prepare(self, model: TaskModel, device: torch.device) -> Forward:
        def forward(ids_NL: Tensor, mask_NL: Tensor) -> Tensor:
            if len(ids_NL) > self.fail_above:
                raise torch.OutOfMemoryError("no memory left")
            time.sleep(self.seconds)
            return torch.zeros(len(ids_NL), 3)

        return forward


def plain_folder(folder: Path) -> Path:
    """The folder, with a tiny XLM-R as `save_pretrained` writes it, without a tokenizer."""
    random_encoder("xlm-r-base", CPU, tuple(TINY_CHANGES.items())).save_pretrained(folder)
    return folder


def target_stage(output: Path) -> Path:
    """The folder of a model that the study `tiny` trained for its first target."""
    (folder, *_) = sorted(output.glob("stages/target-micro_tagging-1x32@*"))
    return folder
