"""Pair and sentence classification: both texts in one row, a label out of the task's labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedTokenizerFast

from trainables.kinds.base import Feature, Head, Kind, PooledHead, first_of
from trainables.tasks.base import PairExample, Task


class ClassificationHead(PooledHead):
    def loss(self, logits: Tensor, targets: Mapping[str, Tensor]) -> Tensor:
        return functional.cross_entropy(logits.float(), targets["labels"], reduction="sum")


class PairClassification(Kind[PairExample]):
    name = "pair_classification"

    def features(
        self, example: PairExample, index: int, *, task: Task, tokenizer: PreTrainedTokenizerFast, max_length: int
    ) -> list[Feature]:
        ids = tokenizer(example.first, example.second, truncation=True, max_length=max_length)["input_ids"]
        return [Feature(index, (tuple(ids),), (example.label,))]

    def head(self, hidden_size: int, task: Task) -> Head:
        return ClassificationHead(hidden_size, len(task.labels))

    def targets(self, features: Sequence[Feature], padded_length: int) -> dict[str, Tensor]:
        return {"labels": torch.tensor([feature.target[0] for feature in features])}

    def decode(
        self, logits: Sequence[np.ndarray], features: Sequence[Feature], examples: Sequence[PairExample], task: Task
    ) -> list[Any]:
        return [int(values.argmax()) for values in first_of(features, logits, len(examples))]

    def reference(self, example: PairExample, task: Task) -> int:
        return example.label
