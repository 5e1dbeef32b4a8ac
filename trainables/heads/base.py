"""A head: how examples become model inputs, which module reads the encoder, and how its outputs become predictions.

The training loop, the evaluation and the benchmark know only this interface. A *feature* is one unit of a batch: one or more
rows of token ids (a multiple-choice example has a row for each alternative) with its targets.
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
from trainables.metrics import Counts
from trainables.tasks.base import Task

E = TypeVar("E", bound=Example)
Pooling = Literal["first", "mean"]  # how a row of hidden states becomes one vector
IGNORED = -100  # target of a position that takes no part in the loss


@dataclass(frozen=True)
class Prefixes:
    """What texts begin with where an encoder was trained with it and sentence vectors are compared."""

    query: str = ""
    passage: str = ""

    def __str__(self) -> str:
        """A phrase for a protocol; "" without prefixes."""
        if not (self.query or self.passage):
            return ""
        if self.query == self.passage:
            return f"texts begin with {self.query!r}"
        return f"queries begin with {self.query!r} and passages with {self.passage!r}"


NO_PREFIXES = Prefixes()


@dataclass(frozen=True)
class Feature:
    """One unit of a batch.

    `example` indexes the example it comes from; `rows` are token ids; `target` is read by the head's `targets`; `weight` is
    the number of supervised decisions (a batch's loss is the sum over its features divided by the sum of their weights);
    `layout` holds what decoding needs to map positions back to the text, as integers, so that features fit in a table.
    """

    example: int
    rows: tuple[tuple[int, ...], ...]
    target: tuple[int, ...]
    weight: float = 1.0
    layout: tuple[int, ...] = ()

    @property
    def length(self) -> int:
        return max(len(row) for row in self.rows)


class HeadModule(nn.Module, ABC):
    """Maps the hidden states of one layer to logits; `loss` is summed over the batch.

    `layer` counts hidden layers from 1; 0 is the embeddings, None the encoder's output.
    """

    layer: int | None = None

    @abstractmethod
    def forward(self, hidden_NLD: Tensor, mask_NL: Tensor) -> Tensor:
        """Logits; the first dimension is rows."""

    @abstractmethod
    def loss(self, logits: Tensor, targets: Mapping[str, Tensor]) -> Tensor:
        """The loss summed, not averaged, over supervised decisions."""

    def tie(self, table: nn.Embedding) -> None:
        """Share the encoder's input embedding; only a head that scores the vocabulary uses it."""

    def training_loss(self, hidden_NLD: Tensor, mask_NL: Tensor, targets: Mapping[str, Tensor]) -> Tensor:
        """The loss of a batch from its hidden states; a head with many logits computes only the supervised ones."""
        return self.loss(self(hidden_NLD, mask_NL), targets)

    def idle(self, hidden_NLD: Tensor, mask_NL: Tensor) -> Tensor:
        """A cheap scalar that depends on every parameter, for the steps of a mixture that train another task."""
        return self(hidden_NLD[:1], mask_NL[:1]).flatten()[0]


@dataclass(frozen=True)
class Outputs(Generic[E]):
    """A model's outputs for one split of a task in one language; `logits` holds an array for each feature."""

    split: str
    language: str
    examples: Sequence[E]
    features: Sequence[Feature]
    logits: Sequence[np.ndarray]


class Head(ABC, Generic[E]):
    """The interface of every head.

    `comparable`: predictions are the same values in every language (labels, and not words of the text). `cascades`: how sure a
    prediction is follows from the outputs for its example alone, so a server can ask a larger model where it is not.
    `masks`: each step draws new masked tokens and scores them over the whole vocabulary. `fills_rows`: its texts are passages,
    which fill rows up to the maximum length; sentences seldom do.
    """

    name: ClassVar[str]
    comparable: ClassVar[bool] = False
    cascades: ClassVar[bool] = False
    masks: ClassVar[bool] = False
    fills_rows: ClassVar[bool] = False

    @abstractmethod
    def features(
        self, examples: Sequence[E], *, task: Task, tokenizer: PreTrainedTokenizerFast, max_length: int
    ) -> list[Feature]:
        """The features of some examples, in their order; a long text that is split gives several.

        `Feature.example` indexes into `examples`. A call takes many examples so that the tokenizer can work in parallel.
        """

    def prefixed(self, examples: Sequence[E], prefixes: Prefixes) -> Sequence[E]:
        """The examples as an encoder with prefixes reads them: unchanged but for heads that compare sentence vectors.

        Those heads read the encoder as its contrastive training left it. Other heads are trained on rows of their own, where a
        prefix would only cost tokens.
        """
        return examples

    def rows_per_feature(self, task: Task) -> int:
        """Rows of a feature of the task's training set, to estimate the cost of a batch before there are features."""
        return 1

    @abstractmethod
    def module(self, hidden_size: int, task: Task, pooling: Pooling = "mean") -> HeadModule:
        """The module for the task over hidden states of that size.

        `pooling` matters only to modules that classify whole rows. Sentence vectors are always means, as their protocol states.
        """

    @abstractmethod
    def targets(self, features: Sequence[Feature], padded_length: int) -> dict[str, Tensor]:
        """Target tensors of a batch whose rows are padded to that length."""

    @abstractmethod
    def decode(self, outputs: Outputs[E], task: Task) -> list[Any]:
        """One prediction for each example, from the logits of all its features."""

    def decode_all(self, sets: Sequence[Outputs[E]], task: Task) -> list[list[Any]]:
        """Predictions for each set. Heads that search the texts of several sets override this."""
        return [self.decode(outputs, task) for outputs in sets]

    def decisions(self, outputs: Outputs[E], task: Task) -> list[Any]:
        """The single answers for one set taken by itself, to compare two ways of serving it; None where none is asked for."""
        return self.decode(outputs, task)

    def confidence(self, outputs: Outputs[E], task: Task) -> list[float] | None:
        """How sure the model is of each prediction, 0 to 1 and without labels; None if the head has no such measure."""
        return None

    @abstractmethod
    def reference(self, example: E, task: Task) -> Any:
        """What the metric compares the prediction with; None if the example is not scored."""

    def candidate_names(self, sets: Sequence[Outputs[E]]) -> list[Mapping[str, str]]:
        """For each set, names of the candidates that predictions and references give as texts, so that these can be stored.

        Empty for heads whose predictions and references have no texts of candidates.
        """
        return [{} for _ in sets]

    def ceiling(
        self, examples: Sequence[E], features: Sequence[Feature], *, task: Task, language: str
    ) -> Counts | None:
        """The metric's sums for the best predictions that `decode` can give; None if it can give every right one.

        `features` are those of the examples.
        """
        return None

    def protocol(self, task: Task, prefixes: Prefixes = NO_PREFIXES) -> str | None:
        """How vectors are read and searched, for heads whose scores mean little without it."""
        return None


def by_example(outputs: Outputs[Any]) -> list[np.ndarray]:
    """Logits by example, for heads with exactly one feature an example."""
    logits = {feature.example: values for feature, values in zip(outputs.features, outputs.logits, strict=True)}
    return [logits[index] for index in range(len(outputs.examples))]


def probabilities(logits: np.ndarray) -> np.ndarray:
    """Softmax over the last dimension."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    result: np.ndarray = shifted / shifted.sum(axis=-1, keepdims=True)
    return result


def special_frame(tokenizer: PreTrainedTokenizerFast) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The special tokens that the tokenizer puts before and after a single text."""
    encoded = tokenizer("a", return_special_tokens_mask=True)
    ids, text = tuple(encoded["input_ids"]), [not special for special in encoded["special_tokens_mask"]]
    first, last = text.index(True), len(text) - text[::-1].index(True)
    return ids[:first], ids[last:]


def padded_length(rows: Sequence[Sequence[int]]) -> int:
    """The longest row, rounded up to a multiple of 8: few distinct shapes, so that compiled kernels are reused."""
    return -(-max(len(row) for row in rows) // 8) * 8


def pad_rows(rows: Sequence[Sequence[int]], value: int, length: int) -> Tensor:
    """A (rows, length) tensor of ids, padded with `value`."""
    padded = torch.full((len(rows), length), value, dtype=torch.long)
    for index, row in enumerate(rows):
        padded[index, : len(row)] = torch.tensor(row, dtype=torch.long)
    return padded


def supervised(labels_NL: Tensor) -> Tensor:
    """Where labels are not ignored, in the flattened batch. For the host: a device would wait for the count."""
    return (labels_NL.flatten() != IGNORED).nonzero().squeeze(1)


def mean_pool(hidden_NLD: Tensor, mask_NL: Tensor) -> Tensor:
    """Mean over the tokens that are not padding: (N, D)."""
    weights = mask_NL.unsqueeze(-1).to(hidden_NLD.dtype)
    return (hidden_NLD * weights).sum(1) / weights.sum(1).clamp(min=1)


class PooledModule(HeadModule):
    """Pooled hidden states through one tanh layer, as in RoBERTa's classification head, to `outputs` logits."""

    def __init__(self, hidden_size: int, outputs: int, pooling: Pooling = "mean") -> None:
        super().__init__()
        self.pooling = pooling
        self.dense = nn.Linear(hidden_size, hidden_size)
        self.out = nn.Linear(hidden_size, outputs)

    def forward(self, hidden_NLD: Tensor, mask_NL: Tensor) -> Tensor:
        pooled_ND = hidden_NLD[:, 0] if self.pooling == "first" else mean_pool(hidden_NLD, mask_NL)
        return self.out(torch.tanh(self.dense(pooled_ND)))
