"""Flips: predictions that change with the batch that a query is served in.

Latency is timed on single queries, throughput on batches. Where arithmetic depends on what else is in a batch, these are
different models. Dynamic quantisation is such a case: it takes the scale of its activations from the whole batch, padding
included, and is scored on single queries (`Variant.depends_on_batch`). Other variants are scored in the batches of an
evaluation: in fp32 only the order of additions differs, which flips next to nothing.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice, zip_longest
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainables.benchmark.scenarios.serving import ModelServer
from trainables.evaluation import Forward
from trainables.heads import HEADS, Feature, Outputs
from trainables.heads.base import Head
from trainables.tasks.base import Task

EXAMPLES = 64  # of a task, over its languages; of retrieval also as many candidates
BATCH = 32  # queries


@dataclass(frozen=True)
class Flips:
    """Of a task's `decisions` for a sample of test `examples`, how many differ from those for each query served alone.

    `scored`: as the scores were made. `batch`: in batches of `BATCH` queries of any length, padded to the longest, as a server
    of several users makes them. `padding`: alone, but padded as in that batch.
    """

    examples: int
    decisions: int
    scored: int
    batch: int
    padding: int


def count_flips(
    forward: Forward,
    task: Task,
    outputs: Sequence[Outputs[Any]],
    *,
    pad_id: int,
    device: torch.device,
    seed: int = 0,
) -> Flips:
    """Serve a sample of the test examples alone and in batches. `outputs` are for all test sets, or for such a sample.

    The sample depends on the seed and the test sets only, so that all variants are compared on the same examples.
    """
    sample, examples = sampled(outputs, task, seed)
    if not examples:
        return Flips(0, 0, 0, 0, 0)
    queries = [feature.rows for feature in sample.features]
    server = ModelServer(forward, queries, pad_id=pad_id, device=device, threads=torch.get_num_threads())
    batches = [range(first, min(first + BATCH, len(queries))) for first in range(0, len(queries), BATCH)]
    longest = [max(feature.length for feature in sample.features[batch.start : batch.stop]) for batch in batches]

    def decisions(logits: Sequence[np.ndarray]) -> list[Any]:
        return HEADS[task.head].decisions(replace(sample, logits=logits), task)

    alone = decisions([_own(sample.features[query], server.serve_batch([query])) for query in range(len(queries))])
    ways = {
        "scored": decisions(sample.logits),
        "batch": decisions(
            [
                values
                for batch in batches
                for values in _by_feature(sample.features[batch.start : batch.stop], server.serve_batch(batch))
            ]
        ),
        "padding": decisions(
            [
                _own(sample.features[query], server.serve_batch([query], padded_to=length))
                for batch, length in zip(batches, longest, strict=True)
                for query in batch
            ]
        ),
    }
    compared = [index for index, decision in enumerate(alone) if decision is not None]
    flips = {name: sum(way[index] != alone[index] for index in compared) for name, way in ways.items()}
    return Flips(examples, len(compared), **flips)


def summarised(by_task: Mapping[str, Flips]) -> dict[str, Any]:
    """Shares in percent, each the mean over tasks, under the names of metrics; and what was counted. JSON values.

    Tasks without a decision are left out of the means. If no task has one there are no shares, only what was counted.
    """
    counted = {"flips": {task: asdict(flips) for task, flips in by_task.items()}}
    compared = [flips for flips in by_task.values() if flips.decisions]
    if not compared:
        return counted
    shares = {
        f"flips_{way}": sum(100 * getattr(flips, way) / flips.decisions for flips in compared) / len(compared)
        for way in ("scored", "batch", "padding")
    }
    return {**shares, "flips_examples": sum(flips.examples for flips in compared), **counted}


def sampled(outputs: Sequence[Outputs[Any]], task: Task, seed: int = 0) -> tuple[Outputs[Any], int]:
    """Some test examples of all languages as one set in random order, and how many of them ask for an answer.

    Languages contribute the same number as far as they can. The others are candidates for retrieval.
    """
    head, rng = HEADS[task.head], random.Random(f"flips|{seed}")
    tests = [of_set for of_set in outputs if of_set.split == "test"]
    asking = _in_turn(tests, task, rng, head=head, asking=True)
    chosen = [*asking, *_in_turn(tests, task, rng, head=head, asking=False)]
    rng.shuffle(chosen)
    numbers = {place: number for number, place in enumerate(chosen)}
    features = [
        (numbers[number, feature.example], feature, values)
        for number, of_set in enumerate(tests)
        for feature, values in zip(of_set.features, of_set.logits, strict=True)
        if (number, feature.example) in numbers
    ]
    features.sort(key=lambda entry: entry[0])  # windows of a text stay together and in order
    return Outputs(
        "test",
        "",
        [tests[number].examples[example] for number, example in chosen],
        [replace(feature, example=number) for number, feature, _ in features],
        [values for _, _, values in features],
    ), len(asking)


def _in_turn(
    tests: Sequence[Outputs[Any]], task: Task, rng: random.Random, *, head: Head[Any], asking: bool
) -> list[tuple[int, int]]:
    """Up to `EXAMPLES` places (set, example) of examples that ask for an answer, or of the others, set by set in turn."""

    def drawn(number: int) -> Iterator[tuple[int, int]]:
        examples = tests[number].examples
        for index in rng.sample(range(len(examples)), len(examples)):
            if (head.reference(examples[index], task) is not None) == asking:
                yield number, index

    first = [list(islice(drawn(number), EXAMPLES)) for number in range(len(tests))]
    return [place for turn in zip_longest(*first) for place in turn if place is not None][:EXAMPLES]


def _by_feature(features: Sequence[Feature], logits: Tensor) -> Iterator[np.ndarray]:
    """The logits of each feature's rows, of a batch's."""
    first = 0
    for feature in features:
        yield _own(feature, logits[first : first + len(feature.rows)])
        first += len(feature.rows)


def _own(feature: Feature, logits: Tensor) -> np.ndarray:
    """A feature's logits without those of padding, where each token has its own."""
    values: np.ndarray = logits.numpy()
    return values[:, : feature.length] if values.ndim == 3 else values
