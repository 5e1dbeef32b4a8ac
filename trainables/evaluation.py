"""Scoring a model on a task: the rows of all languages sorted by length together, each different row encoded once."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from trainables.data.examples import Example
from trainables.heads import HEADS, Feature, Outputs
from trainables.heads.base import pad_rows, padded_length
from trainables.metrics import METRICS, Counts
from trainables.tasks.base import Task
from trainables.training.batching import Share

Forward = Callable[[Tensor, Tensor], Tensor]  # input ids and attention mask of shape (rows, length) to logits
logger = logging.getLogger(__name__)
TOKENS_A_BATCH = 4096  # padded; evaluation keeps no gradients, so batches can be larger than in training


@dataclass(frozen=True)
class ExampleSet:
    """One split of a task in one language, with its features."""

    split: str
    language: str
    examples: Sequence[Example]
    features: Sequence[Feature]


@dataclass(frozen=True)
class Score:
    """A set's score in percent, its named parts (F1 and EM, precision and recall), and the sums they came from.

    `examples` counts those scored; `per_example` has their sums in order.
    """

    split: str
    language: str
    value: float
    parts: dict[str, float]
    examples: int
    counts: Counts
    per_example: tuple[Counts, ...]


def score(
    forward: Forward,
    task: Task,
    sets: Sequence[ExampleSet],
    pad_id: int,
    *,
    share: Share,
    device: torch.device,
    in_step: bool = False,
) -> list[Score]:
    """A score for each set that has something to score; sets of candidates alone are searched and get none.

    The work is divided over the workers of a group; every worker returns all scores. `in_step`: every forward pass is one of
    all workers (ZeRO 3), which score everything, each for itself.
    """
    return score_outputs(predict(forward, sets, pad_id, share=share, device=device, in_step=in_step), task)


def score_outputs(outputs: Sequence[Outputs[Any]], task: Task) -> list[Score]:
    """As `score`, of what a model gave for the sets."""
    head, metric = HEADS[task.head], METRICS[task.metric]
    scores = []
    for one, predictions in zip(outputs, head.decode_all(outputs, task), strict=True):
        references = [head.reference(example, task) for example in one.examples]
        counts = tuple(
            metric.count(said, right, one.language)
            for said, right in zip(predictions, references, strict=True)
            if right is not None
        )
        if counts:
            total = sum(counts, Counts())
            value, parts = metric.value(total), metric.parts(total)
            scores.append(Score(one.split, one.language, value, parts, len(counts), total, counts))
    return scores


def predict(
    forward: Forward,
    sets: Sequence[ExampleSet],
    pad_id: int,
    *,
    share: Share,
    device: torch.device,
    in_step: bool = False,
) -> list[Outputs[Any]]:
    """The model's outputs for all sets, computed over their different rows in batches of like length."""
    features = [list(one.features) for one in sets]
    places: dict[tuple[int, ...], int] = {}
    for row in (row for some in features for feature in some for row in feature.rows):
        places.setdefault(row, len(places))
    rows = list(places)
    share = Share(0, 1, 1) if in_step else share
    found = _gather(_forward_rows(forward, rows, pad_id, share=share, device=device, in_step=in_step), len(rows), share)
    return [
        Outputs(one.split, one.language, one.examples, some, [_stacked(feature, places, found) for feature in some])
        for one, some in zip(sets, features, strict=True)
    ]


def _stacked(feature: Feature, places: dict[tuple[int, ...], int], found: Sequence[np.ndarray]) -> np.ndarray:
    """Logits of a feature's rows, which are of one shape: a feature with values for each token has one row."""
    return np.stack([found[places[row]] for row in feature.rows])


def batches_by_length(lengths: Sequence[int], indices: Sequence[int], tokens: int = TOKENS_A_BATCH) -> list[list[int]]:
    """The indices in batches of like length, longest first, of at most so many padded tokens."""
    batches: list[list[int]] = []
    for index in sorted(indices, key=lambda index: -lengths[index]):
        if batches and (len(batches[-1]) + 1) * lengths[batches[-1][0]] <= tokens:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def _forward_rows(
    forward: Forward,
    rows: Sequence[tuple[int, ...]],
    pad_id: int,
    *,
    share: Share,
    device: torch.device,
    in_step: bool,
) -> dict[int, np.ndarray]:
    """Logits by row for this worker's share; values for each token are cut to the row's own length.

    Where the device's memory does not hold a batch, it and those after it are cut to half of its tokens; not where workers go
    in step, for one that did would leave the others waiting in a collective.
    """
    lengths = [len(row) for row in rows]
    found: dict[int, np.ndarray] = {}
    left = batches_by_length(lengths, range(share.rank, len(rows), share.workers))[::-1]
    while left:
        indices = left.pop()
        try:
            output = _forward_batch(forward, [rows[index] for index in indices], pad_id, device)
        except torch.OutOfMemoryError as error:
            if in_step or len(indices) == 1:
                raise
            reason, output = str(error), None  # the error holds frames that hold the batch
        if output is None:
            tokens = len(indices) // 2 * lengths[indices[0]]
            logger.warning("scoring %d rows at once: %s; going on with %d tokens", len(indices), reason, tokens)
            left = batches_by_length(lengths, [*indices, *itertools.chain(*left)], tokens)[::-1]
            continue
        for index, values in zip(indices, output, strict=True):
            found[index] = (values[: lengths[index]] if output.ndim == 3 else values).copy()
    return found


def _forward_batch(forward: Forward, rows: Sequence[tuple[int, ...]], pad_id: int, device: torch.device) -> np.ndarray:
    """Logits of some rows, padded to one length."""
    longest = padded_length(rows)
    input_ids = pad_rows(rows, pad_id, longest)
    real = torch.arange(longest)[None] < torch.tensor([len(row) for row in rows])[:, None]
    # Not `inference_mode`: under ZeRO 3 the hooks of a model in training gather weights here that later steps go on with.
    with torch.no_grad():
        output: np.ndarray = forward(input_ids.to(device), real.long().to(device)).float().cpu().numpy()
    return output


def _gather(mine: dict[int, np.ndarray], count: int, share: Share) -> list[np.ndarray]:
    merged = mine
    if share.workers > 1:
        parts: list[dict[int, np.ndarray] | None] = [None] * share.workers
        dist.all_gather_object(parts, mine)
        merged = {index: values for part in parts if part is not None for index, values in part.items()}
    return [merged[index] for index in range(count)]
