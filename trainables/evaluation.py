"""Scoring a model on a task: features of all languages sorted by length together, predictions scored by language."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from trainables.batching import Share, collate
from trainables.kinds import KINDS, Feature, Kind
from trainables.metrics import METRICS, Counts
from trainables.tasks.base import Example, Task

Forward = Callable[[Tensor, Tensor], Tensor]  # input ids and attention mask of shape (rows, length) to logits
TOKENS_A_BATCH = 4096  # padded; evaluation keeps no gradients, so batches can be larger than in training


@dataclass(frozen=True)
class ExampleSet:
    """One split of a task in one language, with its features."""

    language: str
    examples: Sequence[Example]
    features: Sequence[Feature]


@dataclass(frozen=True)
class Score:
    """A language's score in percent, with the sums it came from and the number of examples."""

    language: str
    value: float
    examples: int
    counts: Counts
    per_example: tuple[Counts, ...]


def score(
    forward: Forward, task: Task, sets: Sequence[ExampleSet], pad_id: int, *, share: Share, device: torch.device
) -> list[Score]:
    """A score for each set. The work is divided over the workers of a group; every worker returns all scores."""
    kind, metric = KINDS[task.kind], METRICS[task.metric]
    flat = [feature for one in sets for feature in one.features]
    logits = _gather(_predict(forward, kind, flat, pad_id, share=share, device=device), len(flat), share)
    scores, start = [], 0
    for one in sets:
        values = logits[start : start + len(one.features)]
        start += len(one.features)
        predictions = kind.decode(values, one.features, one.examples, task)
        references = [kind.reference(example, task) for example in one.examples]
        counts = tuple(metric.count(said, right) for said, right in zip(predictions, references, strict=True))
        total = sum(counts, Counts())
        scores.append(Score(one.language, metric.value(total), len(counts), total, counts))
    return scores


def batches_by_length(features: Sequence[Feature], indices: Sequence[int]) -> list[list[int]]:
    """The indices in batches of similar length, longest first, of at most `TOKENS_A_BATCH` padded tokens."""
    batches: list[list[int]] = []
    for index in sorted(indices, key=lambda index: -features[index].length):
        if batches:
            longest = features[batches[-1][0]].length
            rows = sum(len(features[other].rows) for other in batches[-1]) + len(features[index].rows)
            if rows * longest <= TOKENS_A_BATCH:
                batches[-1].append(index)
                continue
        batches.append([index])
    return batches


def _predict(
    forward: Forward, kind: Kind[Any], features: Sequence[Feature], pad_id: int, *, share: Share, device: torch.device
) -> dict[int, np.ndarray]:
    """Logits by feature index for this worker's share: (rows of the feature, ...), cut to the feature's own length."""
    mine = range(share.rank, len(features), share.workers)
    found: dict[int, np.ndarray] = {}
    with torch.inference_mode():
        for indices in batches_by_length(features, mine):
            chosen = [features[index] for index in indices]
            inputs = collate(chosen, kind, pad_id)
            output = forward(inputs["input_ids"].to(device), inputs["attention_mask"].to(device)).float().cpu().numpy()
            row = 0
            for index, feature in zip(indices, chosen, strict=True):
                values = output[row : row + len(feature.rows)]
                row += len(feature.rows)
                per_token = values.ndim == 3
                found[index] = values[:, : feature.length] if per_token else values
    return found


def _gather(mine: dict[int, np.ndarray], count: int, share: Share) -> list[np.ndarray]:
    merged = mine
    if share.workers > 1:
        parts: list[dict[int, np.ndarray] | None] = [None] * share.workers
        dist.all_gather_object(parts, mine)
        merged = {index: values for part in parts if part is not None for index, values in part.items()}
    return [merged[index] for index in range(count)]
