"""Subjects that need no study: an encoder's folder, and the architecture of a published encoder."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast

from trainables.benchmark.benchmark import Benchmark
from trainables.benchmark.measurement import Measured
from trainables.benchmark.placement import pinned
from trainables.benchmark.scenarios.queries import XNLI_LENGTHS, Query, QuerySample, sample_queries
from trainables.benchmark.scenarios.serving import ModelServer
from trainables.benchmark.scenarios.texts import Texts
from trainables.benchmark.settings import BenchmarkSettings
from trainables.benchmark.variants import ServedTokens, Variant, variant_named
from trainables.data.examples import Example
from trainables.heads import HEADS
from trainables.heads.bitext import EmbeddingModule
from trainables.models.catalogue import config_of, published
from trainables.models.encoder import count_parameters, load_encoder
from trainables.models.families import FAMILIES
from trainables.models.task_model import ENCODER, TaskModel
from trainables.stages.vocabulary import TOKENIZER
from trainables.tasks.base import Task

QUERIES, EXAMPLES = 512, 64  # in total, and read per language
MAX_LENGTH = 128
RANDOM_TOKENS = "random tokens, lengths of XNLI"
COMPARED = 16  # queries whose vectors are compared with those of eager fp32
FIRST_ID = 10  # smaller ids may be special tokens


@dataclass(frozen=True)
class FolderBenchmark:
    """Measures an encoder of sentence vectors (the mean over tokens) from a folder.

    `save_pretrained` wrote the folder, or it is a stage's and contains such a folder. Queries are the test sets of `task`,
    tokenised with the folder's own tokenizer; without one they are random tokens in rows as long as XNLI's.
    """

    folder: str
    task: Task
    threads: int
    settings: BenchmarkSettings = field(default_factory=BenchmarkSettings)
    device: str = "cpu"

    def run(self, variant: str | Variant, *, scored: bool = True) -> Measured:
        """Time a variant; if scored, compare its vectors with those of eager fp32 (`agreement`).

        Raises:
            VariantUnavailable: the variant cannot run on this device.
        """
        start = time.perf_counter()
        model = TaskModel(
            load_encoder(encoder_folder(Path(self.folder)), device=torch.device(self.device)), EmbeddingModule()
        ).eval()
        load_s = time.perf_counter() - start
        tokenizer = tokenizer_beside(Path(self.folder))
        texts, variant = None, variant_named(variant)
        if tokenizer is None:
            sample, pad_id = random_sample(model.encoder), model.encoder.config.pad_token_id or 0
        else:
            pools, examples = _read(self.task, tokenizer)
            sample, pad_id = sample_queries(pools, QUERIES, seed=0), tokenizer.pad_token_id
            texts = Texts.sample(self.task, tokenizer, MAX_LENGTH, examples)
            rows = [row for _, pool in pools for query in pool for row in query]
            variant = variant.for_texts(lambda: ServedTokens.of(tokenizer, itertools.chain.from_iterable(rows)))
        benchmark = Benchmark(
            *(model, sample, pad_id, torch.device(self.device)),
            threads=self.threads,
            settings=self.settings,
            texts=texts,
            load_s=load_s,
        )
        measured = {**benchmark.measure(variant).as_dict(), **_parameters(model.encoder), "weights": "trained"}
        measured["timed_task"] = self.task.name if tokenizer is not None else RANDOM_TOKENS
        if scored:
            with pinned(self.threads, ()):
                measured["agreement"] = agreement(
                    model, variant, sample, pad_id=pad_id, device=torch.device(self.device)
                )
        return Measured(measured)


@dataclass(frozen=True)
class ArchitectureBenchmark:
    """Measures the architecture of a published encoder with random weights: speed and memory alone, with nothing to score.

    Queries are random tokens in rows as long as XNLI's. `changes` overrides values of the configuration.
    """

    name: str
    threads: int
    settings: BenchmarkSettings = field(default_factory=BenchmarkSettings)
    device: str = "cpu"
    changes: tuple[tuple[str, int], ...] = ()

    def run(self, variant: str | Variant, *, scored: bool = True) -> Measured:
        """Time a variant.

        Raises:
            VariantUnavailable: the variant cannot run on this device.
        """
        device = torch.device(self.device)
        start = time.perf_counter()
        encoder = random_encoder(self.name, device, self.changes)
        model = TaskModel(encoder, EmbeddingModule()).eval()
        benchmark = Benchmark(
            *(model, random_sample(encoder), encoder.config.pad_token_id or 0, device),
            threads=self.threads,
            settings=self.settings,
            load_s=time.perf_counter() - start,
        )
        return Measured(
            {
                **benchmark.measure(variant).as_dict(),
                **_parameters(encoder),
                "weights": "random",
                "timed_task": RANDOM_TOKENS,
            }
        )


def random_encoder(name: str, device: torch.device, changes: Sequence[tuple[str, int]] = ()) -> PreTrainedModel:
    """The catalogue's encoder with random weights, created on the device."""
    config = config_of(published(name))
    assert config is not None  # it is in the catalogue
    config.update(dict(changes))
    family = FAMILIES[config.model_type]
    config._attn_implementation = family.attention(device)
    with device, torch.random.fork_rng():
        torch.manual_seed(0)
        encoder: PreTrainedModel = family.model_class(config, **family.options)
    return encoder.eval()


def random_sample(encoder: PreTrainedModel) -> QuerySample:
    """Rows of random tokens as long as XNLI's, each length equally often."""
    rng = random.Random("random tokens")
    rows: list[Query] = [
        (tuple(rng.randrange(FIRST_ID, encoder.config.vocab_size) for _ in range(length)),)
        for length in XNLI_LENGTHS * (QUERIES // len(XNLI_LENGTHS))
    ]
    rng.shuffle(rows)
    return QuerySample(tuple(rows), ("en",) * len(rows), tuple(range(len(rows))))


def encoder_folder(folder: Path) -> Path:
    """The folder itself, or the encoder that a stage stored in it.

    Raises:
        FileNotFoundError: neither holds a configuration.
    """
    for candidate in (folder / ENCODER, folder):
        if (candidate / "config.json").is_file():
            return candidate
    raise FileNotFoundError(
        f"{folder}: no encoder in it (config.json and model.safetensors, as save_pretrained writes)"
    )


def tokenizer_beside(folder: Path) -> PreTrainedTokenizerFast | None:
    """A tokenizer whose size fits the encoder: in the folder, in its `tokenizer`, or in a sibling of a stage's folder."""
    encoder = encoder_folder(folder)
    candidates = [encoder, folder / TOKENIZER, folder.parent / TOKENIZER, *sorted(folder.parent.glob(f"*/{TOKENIZER}"))]
    rows = int(_config_value(encoder, "vocab_size"))
    for candidate in candidates:
        if any((candidate / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json")):
            tokenizer = AutoTokenizer.from_pretrained(candidate, trust_remote_code=False, local_files_only=True)
            if isinstance(tokenizer, PreTrainedTokenizerFast) and len(tokenizer) <= rows:
                return tokenizer
    return None


def _config_value(folder: Path, name: str) -> Any:
    return getattr(AutoConfig.from_pretrained(folder, trust_remote_code=False), name)


def _read(
    task: Task, tokenizer: PreTrainedTokenizerFast
) -> tuple[list[tuple[str, Sequence[Query]]], list[Sequence[Example]]]:
    """Queries by language, and the examples they come from."""
    pools: list[tuple[str, Sequence[Query]]] = []
    examples: list[Sequence[Example]] = []
    for language in task.languages:
        tests = task.examples("test", language)[:EXAMPLES]
        features = HEADS[task.head].features(tests, task=task, tokenizer=tokenizer, max_length=MAX_LENGTH)
        pools.append((language, [feature.rows for feature in features]))
        examples.append(tests)
    return pools, examples


def agreement(
    model: TaskModel, variant: str | Variant, sample: QuerySample, *, pad_id: int, device: torch.device
) -> dict[str, float]:
    """Cosine similarity between a variant's vectors and those of eager fp32, over the first `COMPARED` queries."""
    queries = sample.queries[:COMPARED]
    vectors = []
    for way in (variant_named("fp32"), variant_named(variant)):
        forward = way.prepare(model, device)
        server = ModelServer(forward, queries, pad_id=pad_id, device=device, threads=torch.get_num_threads())
        vectors.append(server.serve_batch(range(len(queries))).double())
    cosine_N = functional.cosine_similarity(vectors[0], vectors[1])
    return {"cosine_mean": float(cosine_N.mean()), "cosine_lowest": float(cosine_N.min())}


def _parameters(encoder: PreTrainedModel) -> dict[str, float]:
    count = count_parameters(encoder)
    return {"params_m": count.total / 1e6, "params_body_m": count.body / 1e6}
