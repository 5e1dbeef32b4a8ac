"""A head kind: how examples become model inputs, which head reads the encoder, and how its outputs become predictions.

The loop, the evaluation and the benchmark know this interface only. A *feature* is one unit of a batch: one or more rows of
token ids (a multiple-choice example has a row for each alternative) with its targets.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from trainables.data.examples import Example
from trainables.tasks.base import Task

E = TypeVar("E", bound=Example)
Pooling = Literal["first", "mean"]  # how a row of hidden states becomes one vector
IGNORED = -100  # target of a position that takes no part in the loss


@dataclass(frozen=True)
class Feature:
    """One unit of a batch.

    `example` indexes the example it came from; `rows` are token ids; `target` is read by the kind's `targets`; `weight` is
    how many supervised decisions it holds (a batch's loss is the sum over features divided by the sum of weights); `layout`
    is what decoding needs to find its way back to the text, as numbers, so that features can be kept in a table.
    """

    example: int
    rows: tuple[tuple[int, ...], ...]
    target: tuple[int, ...]
    weight: float = 1.0
    layout: tuple[int, ...] = ()

    @property
    def length(self) -> int:
        return max(len(row) for row in self.rows)


class Head(nn.Module, ABC):
    """Reads hidden states of one layer. Subclasses return logits and the loss summed over the batch.

    `layer` counts hidden layers from 1, 0 being the embeddings; None is the encoder's output.
    """

    layer: int | None = None

    @abstractmethod
    def forward(self, hidden_NLD: Tensor, mask_NL: Tensor) -> Tensor:
        """Logits, first dimension rows."""

    @abstractmethod
    def loss(self, logits: Tensor, targets: Mapping[str, Tensor]) -> Tensor:
        """Summed, not averaged, over supervised decisions."""

    def tie(self, table: nn.Embedding) -> None:
        """Take the encoder's input embedding, for a head that scores the vocabulary with it."""

    def training_loss(self, hidden_NLD: Tensor, mask_NL: Tensor, targets: Mapping[str, Tensor]) -> Tensor:
        """The loss of a batch from its hidden states; a head of many logits computes those alone that are supervised."""
        return self.loss(self(hidden_NLD, mask_NL), targets)

    def idle(self, hidden_NLD: Tensor, mask_NL: Tensor) -> Tensor:
        """A number that every parameter has a part in, at little cost: for the steps of a mixture's other tasks."""
        return self(hidden_NLD[:1], mask_NL[:1]).flatten()[0]


@dataclass(frozen=True)
class Outputs(Generic[E]):
    """What a model gave for one split of a task in one language; `logits` holds an array for each feature."""

    split: str
    language: str
    examples: Sequence[E]
    features: Sequence[Feature]
    logits: Sequence[np.ndarray]


class Kind(ABC, Generic[E]):
    """One of the head kinds. `masks`: pieces are masked anew in each step, and scored over the whole vocabulary."""

    name: ClassVar[str]
    masks: ClassVar[bool] = False

    @abstractmethod
    def features(
        self, examples: Sequence[E], *, task: Task, tokenizer: PreTrainedTokenizerFast, max_length: int
    ) -> list[Feature]:
        """The features of some examples, in their order; several for one whose long text is split.

        `Feature.example` indexes into `examples`. Taking many at a time lets the tokenizer work in parallel.
        """

    def rows(self, task: Task) -> int:
        """Rows of a feature of the task's training set: what a batch costs is counted with it before there are features."""
        return 1

    @abstractmethod
    def head(self, hidden_size: int, task: Task, pooling: Pooling = "mean") -> Head:
        """A head for the task over hidden states of that size.

        `pooling` is for heads that classify whole rows. Sentence vectors are means, as their protocol says.
        """

    @abstractmethod
    def targets(self, features: Sequence[Feature], padded_length: int) -> dict[str, Tensor]:
        """Target tensors of a batch of features whose rows are padded to that length."""

    @abstractmethod
    def decode(self, outputs: Outputs[E], task: Task) -> list[Any]:
        """One prediction for each example of a set, from the logits of all its features."""

    def decode_all(self, sets: Sequence[Outputs[E]], task: Task) -> list[list[Any]]:
        """Predictions for each set. Kinds that search through the texts of several sets read them here together."""
        return [self.decode(outputs, task) for outputs in sets]

    @abstractmethod
    def reference(self, example: E, task: Task) -> Any:
        """What the metric compares the prediction with; None for an example that is not scored."""

    def protocol(self, task: Task) -> str | None:
        """How vectors are read and searched, where a score means little without it."""
        return None


def by_example(outputs: Outputs[Any]) -> list[np.ndarray]:
    """Logits by example, for kinds with exactly one feature an example."""
    found = {feature.example: values for feature, values in zip(outputs.features, outputs.logits, strict=True)}
    return [found[index] for index in range(len(outputs.examples))]


def special_frame(tokenizer: PreTrainedTokenizerFast) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The special tokens that the tokenizer puts before and after a single text."""
    encoded = tokenizer("a", return_special_tokens_mask=True)
    ids, text = tuple(encoded["input_ids"]), [not special for special in encoded["special_tokens_mask"]]
    first, last = text.index(True), len(text) - text[::-1].index(True)
    return ids[:first], ids[last:]


def padded_length(rows: Sequence[Sequence[int]]) -> int:
    """The longest row, rounded up to a multiple of 8: few shapes, so that kernels made for one are used again."""
    return -(-max(len(row) for row in rows) // 8) * 8


def pad_rows(rows: Sequence[Sequence[int]], value: int, length: int) -> Tensor:
    """A (rows, length) tensor of ids, filled up with `value`."""
    padded = torch.full((len(rows), length), value, dtype=torch.long)
    for index, row in enumerate(rows):
        padded[index, : len(row)] = torch.tensor(row, dtype=torch.long)
    return padded


def mean_pool(hidden_NLD: Tensor, mask_NL: Tensor) -> Tensor:
    """Mean over real tokens: (N, D)."""
    weights = mask_NL.unsqueeze(-1).to(hidden_NLD.dtype)
    return (hidden_NLD * weights).sum(1) / weights.sum(1).clamp(min=1)


class PooledHead(Head):
    """Pooled hidden states through one tanh layer, as in RoBERTa's classification head, to `outputs` logits."""

    def __init__(self, hidden_size: int, outputs: int, pooling: Pooling = "mean") -> None:
        super().__init__()
        self.pooling = pooling
        self.dense = nn.Linear(hidden_size, hidden_size)
        self.out = nn.Linear(hidden_size, outputs)

    def forward(self, hidden_NLD: Tensor, mask_NL: Tensor) -> Tensor:
        pooled_ND = hidden_NLD[:, 0] if self.pooling == "first" else mean_pool(hidden_NLD, mask_NL)
        return self.out(torch.tanh(self.dense(pooled_ND)))
