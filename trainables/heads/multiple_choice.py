"""Multiple choice: one row for each alternative, scored independently; softmax over an example's alternatives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedTokenizerFast

from trainables.data.examples import ChoiceExample
from trainables.heads.base import Feature, Head, HeadModule, Outputs, PooledModule, Pooling, by_example, probabilities
from trainables.tasks.base import Task


class ChoiceModule(PooledModule):
    """One score for each row; the rows of an example are adjacent."""

    def __init__(self, hidden_size: int, pooling: Pooling = "mean") -> None:
        super().__init__(hidden_size, 1, pooling)

    def loss(self, logits: Tensor, targets: Mapping[str, Tensor]) -> Tensor:
        scores = logits.float().view(len(targets["labels"]), -1)
        return functional.cross_entropy(scores, targets["labels"], reduction="sum")


class MultipleChoice(Head[ChoiceExample]):
    name = "multiple_choice"
    comparable = True
    cascades = True

    def features(
        self, examples: Sequence[ChoiceExample], *, task: Task, tokenizer: PreTrainedTokenizerFast, max_length: int
    ) -> list[Feature]:
        contexts = [example.context for example in examples for _ in example.choices]
        choices = [choice for example in examples for choice in example.choices]
        # "longest_first" cuts a long context before the alternatives, which are all that differs between the rows.
        rows = iter(tokenizer(contexts, choices, truncation="longest_first", max_length=max_length)["input_ids"])
        return [
            Feature(index, tuple(tuple(next(rows)) for _ in example.choices), (example.label,))
            for index, example in enumerate(examples)
        ]

    def rows_per_feature(self, task: Task) -> int:
        return task.choices

    def module(self, hidden_size: int, task: Task, pooling: Pooling = "mean") -> HeadModule:
        return ChoiceModule(hidden_size, pooling)

    def targets(self, features: Sequence[Feature], padded_length: int) -> dict[str, Tensor]:
        return {"labels": torch.tensor([feature.target[0] for feature in features])}

    def decode(self, outputs: Outputs[ChoiceExample], task: Task) -> list[Any]:
        return [int(values.reshape(-1).argmax()) for values in by_example(outputs)]

    def confidence(self, outputs: Outputs[ChoiceExample], task: Task) -> list[float]:
        """The probability of the alternative."""
        return [float(probabilities(values.reshape(-1)).max()) for values in by_example(outputs)]

    def reference(self, example: ChoiceExample, task: Task) -> int:
        return example.label
