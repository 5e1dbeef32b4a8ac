"""Pair and sentence classification: both texts in one row, a label out of the task's labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedTokenizerFast

from trainables.data.examples import PairExample
from trainables.heads.base import Feature, Head, HeadModule, Outputs, PooledModule, Pooling, by_example, probabilities
from trainables.tasks.base import Task


class ClassificationModule(PooledModule):
    def loss(self, logits: Tensor, targets: Mapping[str, Tensor]) -> Tensor:
        return functional.cross_entropy(logits.float(), targets["labels"], reduction="sum")


class PairClassification(Head[PairExample]):
    name = "pair_classification"
    comparable = True
    cascades = True

    def features(
        self, examples: Sequence[PairExample], *, task: Task, tokenizer: PreTrainedTokenizerFast, max_length: int
    ) -> list[Feature]:
        # The examples of a task are either all pairs or all single texts.
        seconds = None if examples[0].second is None else [example.second for example in examples]
        firsts = [example.first for example in examples]
        rows = tokenizer(firsts, seconds, truncation=True, max_length=max_length)["input_ids"]
        return [
            Feature(index, (tuple(ids),), (example.label,))
            for index, (ids, example) in enumerate(zip(rows, examples, strict=True))
        ]

    def module(self, hidden_size: int, task: Task, pooling: Pooling = "mean") -> HeadModule:
        return ClassificationModule(hidden_size, len(task.labels), pooling)

    def targets(self, features: Sequence[Feature], padded_length: int) -> dict[str, Tensor]:
        return {"labels": torch.tensor([feature.target[0] for feature in features])}

    def decode(self, outputs: Outputs[PairExample], task: Task) -> list[Any]:
        return [int(values.argmax()) for values in by_example(outputs)]

    def confidence(self, outputs: Outputs[PairExample], task: Task) -> list[float]:
        """The probability of the label."""
        return [float(probabilities(values.reshape(-1)).max()) for values in by_example(outputs)]

    def reference(self, example: PairExample, task: Task) -> int:
        return example.label
