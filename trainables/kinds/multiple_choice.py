"""Multiple choice: one row for each alternative, scored alone; softmax over the alternatives of an example."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedTokenizerFast

from trainables.kinds.base import Feature, Head, Kind, PooledHead, first_of
from trainables.tasks.base import ChoiceExample, Task


class ChoiceHead(PooledHead):
    """One score for each row; rows of an example stand together."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__(hidden_size, 1)

    def loss(self, logits: Tensor, targets: Mapping[str, Tensor]) -> Tensor:
        scores = logits.float().view(len(targets["labels"]), -1)
        return functional.cross_entropy(scores, targets["labels"], reduction="sum")


class MultipleChoice(Kind[ChoiceExample]):
    name = "multiple_choice"

    def features(
        self, example: ChoiceExample, index: int, *, task: Task, tokenizer: PreTrainedTokenizerFast, max_length: int
    ) -> list[Feature]:
        rows = tuple(
            tuple(tokenizer(example.context, choice, truncation=True, max_length=max_length)["input_ids"])
            for choice in example.choices
        )
        return [Feature(index, rows, (example.label,))]

    def head(self, hidden_size: int, task: Task) -> Head:
        return ChoiceHead(hidden_size)

    def targets(self, features: Sequence[Feature], padded_length: int) -> dict[str, Tensor]:
        return {"labels": torch.tensor([feature.target[0] for feature in features])}

    def decode(
        self, logits: Sequence[np.ndarray], features: Sequence[Feature], examples: Sequence[ChoiceExample], task: Task
    ) -> list[Any]:
        return [int(values.reshape(-1).argmax()) for values in first_of(features, logits, len(examples))]

    def reference(self, example: ChoiceExample, task: Task) -> int:
        return example.label
