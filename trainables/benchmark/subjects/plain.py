"""What can be measured without a study: an encoder's folder, and the architecture of a published encoder."""

from __future__ import annotations

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
from trainables.benchmark.placement import placed
from trainables.benchmark.scenarios.queries import XNLI_LENGTHS, Query, QuerySample, sample_queries
from trainables.benchmark.scenarios.serving import Server
from trainables.benchmark.scenarios.texts import Texts
from trainables.benchmark.settings import BenchmarkSettings
from trainables.benchmark.variants import variant_named
from trainables.data.examples import Example
from trainables.heads import HEADS
from trainables.heads.bitext import EmbeddingHead
from trainables.models.catalogue import config_of, published
from trainables.models.encoder import count_parameters, load_encoder
from trainables.models.families import FAMILIES
from trainables.models.task_model import ENCODER, TaskModel
from trainables.stages.vocabulary import TOKENIZER
from trainables.tasks.registry import TASKS

QUERIES, EXAMPLES = 512, 64  # in all, and read of each language
MAX_LENGTH = 128
COMPARED = 16  # queries whose vectors are held against those of eager fp32
FIRST_ID = 10  # smaller ids are special tokens in all families


@dataclass(frozen=True)
class FolderBenchmark:
    """Measures a folder written by `save_pretrained`, or a stage's folder with such a one in it, as an encoder of sentence
    vectors (the mean over tokens). Queries are the test sets of `task`, tokenised with the folder's own tokenizer; without
    one, random tokens in rows as long as XNLI's."""

    folder: str
    task: str
    threads: int
    settings: BenchmarkSettings = field(default_factory=BenchmarkSettings)
    device: str = "cpu"

    def run(self, variant: str, *, scored: bool = True) -> dict[str, Any]:
        """One variant, timed; where it is scored, how near its vectors are to those of eager fp32 (`agreement`).

        Raises:
            VariantUnavailable: the variant cannot run on this device.
        """
        start = time.perf_counter()
        model = TaskModel(load_encoder(encoder_folder(Path(self.folder))), EmbeddingHead()).eval()
        load_s = time.perf_counter() - start
        tokenizer = tokenizer_beside(Path(self.folder))
        texts = None
        if tokenizer is None:
            sample, pad_id = random_sample(model.encoder), model.encoder.config.pad_token_id or 0
        else:
            pools, examples = _read(self.task, tokenizer)
            sample, pad_id = sample_queries(pools, QUERIES, seed=0), tokenizer.pad_token_id
            texts = Texts.sample(TASKS[self.task](), tokenizer, MAX_LENGTH, examples)
        benchmark = Benchmark(
            *(model, sample, pad_id, torch.device(self.device)),
            threads=self.threads,
            settings=self.settings,
            texts=texts,
            load_s=load_s,
        )
        measured = {**benchmark.measure(variant).as_dict(), **_parameters(model.encoder), "weights": "trained"}
        measured["timed_task"] = self.task if tokenizer is not None else "random tokens, lengths of XNLI"
        if scored:
            with placed(self.threads, ()):
                measured["agreement"] = agreement(
                    model, variant, sample, pad_id=pad_id, device=torch.device(self.device)
                )
        return measured


@dataclass(frozen=True)
class ArchitectureBenchmark:
    """Measures the architecture of a published encoder with random weights: its speed and memory are those of the trained one,
    and there is nothing to score. Random tokens in rows as long as XNLI's. `changes` are made to its configuration."""

    name: str
    threads: int
    settings: BenchmarkSettings = field(default_factory=BenchmarkSettings)
    device: str = "cpu"
    changes: tuple[tuple[str, int], ...] = ()

    def run(self, variant: str, *, scored: bool = True) -> dict[str, Any]:
        """One variant, timed.

        Raises:
            VariantUnavailable: the variant cannot run on this device.
        """
        device = torch.device(self.device)
        start = time.perf_counter()
        encoder = random_encoder(self.name, device, self.changes)
        model = TaskModel(encoder, EmbeddingHead()).eval()
        benchmark = Benchmark(
            *(model, random_sample(encoder), encoder.config.pad_token_id or 0, device),
            threads=self.threads,
            settings=self.settings,
            load_s=time.perf_counter() - start,
        )
        measured = benchmark.measure(variant).as_dict()
        return {
            **measured,
            **_parameters(encoder),
            "weights": "random",
            "timed_task": "random tokens, lengths of XNLI",
        }


def random_encoder(name: str, device: torch.device, changes: Sequence[tuple[str, int]] = ()) -> PreTrainedModel:
    """The architecture of the catalogue's encoder, made on the device."""
    config = config_of(published(name))
    assert config is not None  # it is in the catalogue
    config.update(dict(changes))
    family = FAMILIES[config.model_type]
    config._attn_implementation = family.attention
    with device, torch.random.fork_rng():
        torch.manual_seed(0)
        encoder: PreTrainedModel = family.model_class(config, **family.options)
    return encoder.eval()


def random_sample(encoder: PreTrainedModel) -> QuerySample:
    """Rows of random tokens as long as XNLI's, every length as often as the next."""
    rng = random.Random("random tokens")
    rows: list[Query] = [
        (tuple(rng.randrange(FIRST_ID, encoder.config.vocab_size) for _ in range(length)),)
        for length in XNLI_LENGTHS * (QUERIES // len(XNLI_LENGTHS))
    ]
    rng.shuffle(rows)
    return QuerySample(tuple(rows), ("en",) * len(rows), tuple(range(len(rows))))


def encoder_folder(folder: Path) -> Path:
    """The folder itself, or what a stage has left in it.

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
    """The tokenizer in the folder, in its `tokenizer`, or in a sibling of a stage's folder, if its size fits the encoder."""
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
    name: str, tokenizer: PreTrainedTokenizerFast
) -> tuple[list[tuple[str, Sequence[Query]]], list[Sequence[Example]]]:
    """Queries by language, and the examples that they came from."""
    task = TASKS[name]()
    pools: list[tuple[str, Sequence[Query]]] = []
    examples: list[Sequence[Example]] = []
    for language in task.languages:
        some = task.examples("test", language)[:EXAMPLES]
        features = HEADS[task.head].features(some, task=task, tokenizer=tokenizer, max_length=MAX_LENGTH)
        pools.append((language, [feature.rows for feature in features]))
        examples.append(some)
    return pools, examples


def agreement(
    model: TaskModel, variant: str, sample: QuerySample, *, pad_id: int, device: torch.device
) -> dict[str, float]:
    """Cosine between a variant's vectors and those of eager fp32, over some queries: 1 is the same."""
    queries = sample.queries[:COMPARED]
    vectors = []
    for name in ("fp32", variant):
        forward = variant_named(name).prepare(model, device)
        served = Server(forward, queries, pad_id=pad_id, device=device, threads=torch.get_num_threads())
        vectors.append(served.batch(range(len(queries))).double())
    cosine_N = functional.cosine_similarity(vectors[0], vectors[1])
    return {"cosine_mean": float(cosine_N.mean()), "cosine_lowest": float(cosine_N.min())}


def _parameters(encoder: PreTrainedModel) -> dict[str, float]:
    count = count_parameters(encoder)
    return {"params_m": count.total / 1e6, "params_body_m": count.body / 1e6}
