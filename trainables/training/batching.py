"""The examples of each batch: a function of the seed and the step only, the same for any number of workers."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from trainables.heads import HEADS, Feature, Head
from trainables.heads.base import pad_rows, padded_length
from trainables.heads.features import FeatureTable
from trainables.heads.masking import Masking
from trainables.models.packing import Numbering, pack
from trainables.resources import Resources
from trainables.tasks.base import Task
from trainables.training.token_budget import TokenBudget

Inputs = dict[str, Any]  # keyword arguments of a model: tensors on the CPU, or numbers that the host branches on
BUCKET_BATCHES = 16  # examples are sorted by length within this many batches, which limits padding


@dataclass(frozen=True)
class BatchOrder:
    """Length-bucketed batches, reshuffled every epoch. Examples that fill no batch are left out of that epoch."""

    lengths: tuple[int, ...]
    batch_size: int
    seed: int
    task: str = ""  # for the message
    _cached: dict[int, list[tuple[int, ...]]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if len(self.lengths) < self.batch_size:
            of = f"{self.task}: " if self.task else ""
            raise ValueError(f"{of}{len(self.lengths)} training examples do not fill a batch of {self.batch_size}")

    def at(self, step: int) -> tuple[int, ...]:
        """Indices of the examples in the batch of a step counted from 0."""
        batches_an_epoch = len(self.lengths) // self.batch_size
        epoch, batch = divmod(step, batches_an_epoch)
        if epoch not in self._cached:  # a single epoch is cached, as steps are requested in order
            self._cached.clear()
            self._cached[epoch] = self._shuffled(epoch)
        return self._cached[epoch][batch]

    def _shuffled(self, epoch: int) -> list[tuple[int, ...]]:
        rng = random.Random(f"{self.seed}|{epoch}")
        indices = list(range(len(self.lengths)))
        rng.shuffle(indices)
        indices = indices[: len(indices) // self.batch_size * self.batch_size]
        batches: list[tuple[int, ...]] = []
        bucket = BUCKET_BATCHES * self.batch_size
        for first in range(0, len(indices), bucket):
            by_length = sorted(indices[first : first + bucket], key=lambda index: self.lengths[index])
            batches += [
                tuple(by_length[start : start + self.batch_size]) for start in range(0, len(by_length), self.batch_size)
            ]
        rng.shuffle(batches)
        return batches


@dataclass(frozen=True)
class Share:
    """A worker's part of every batch, cut into micro-batches of at most `micro_batch` rows of token ids.

    An entry of a batch can have several rows, each with activations of its own: five alternatives of a question, or the 64
    sentences of a group of pairs. Memory follows the rows. With `micro_batch_tokens`, a micro-batch of entries whose lengths
    are known also has at most so many tokens, with padding or (`padded` false) without.
    """

    rank: int
    workers: int
    micro_batch: int
    micro_batch_tokens: int | None = None
    padded: bool = True

    def __post_init__(self) -> None:
        if self.workers < 1 or not 0 <= self.rank < self.workers or self.micro_batch < 1:
            raise ValueError(f"no worker {self.rank} of {self.workers} with micro-batches of {self.micro_batch}")

    @classmethod
    def of(cls, resources: Resources, rank: int = 0, workers: int = 1) -> Self:
        """The share of a worker with these resources; the group may have fewer workers than they say."""
        return cls(rank, workers, resources.micro_batch, resources.micro_batch_tokens, not resources.unpad)

    def limited(self, rows: int) -> Self:
        """With at most so many rows a micro-batch, and tokens reduced by the same factor."""
        tokens = self.micro_batch_tokens
        fewer = None if tokens is None else max(1, tokens * rows // self.micro_batch)
        return dataclasses.replace(self, micro_batch=rows, micro_batch_tokens=fewer)

    def accumulation(self, batch_size: int, *, group: int = 1, rows: int = 1) -> int:
        """Micro-batches per step, all of one size: at least one group, even of more than its rows. The most, if cut by tokens.

        Args:
            group: entries that stay together.
            rows: rows of an entry.

        Raises:
            ValueError: the batch cannot be divided evenly over the workers.
        """
        each, rest = divmod(batch_size, self.workers * group)
        if rest or not each:
            groups = "" if group == 1 else f" in groups of {group}"
            raise ValueError(f"a batch of {batch_size} cannot be divided evenly over {self.workers} workers{groups}")
        if self.micro_batch_tokens is not None:
            return each
        limit = max(1, self.micro_batch // (group * rows))
        return next(count for count in range(1, each + 1) if each % count == 0 and each // count <= limit)

    def micro_batch_rows(self, batch_size: int, *, group: int = 1, rows: int = 1) -> int:
        """The rows of a micro-batch; the most it may have, if cut by tokens. Arguments and errors as in `accumulation`."""
        size = batch_size // self.workers // self.accumulation(batch_size, group=group, rows=rows) * rows
        return size if self.micro_batch_tokens is None else max(size, self.micro_batch)

    def cut(
        self, batch: Sequence[int], *, group: int = 1, rows: int = 1, lengths: Sequence[int] | None = None
    ) -> list[Sequence[int]]:
        """This worker's micro-batches of a batch. Groups are dealt to the workers in turn, which balances lengths.

        `lengths` are those of the longest row of every entry; without them a batch is not cut by tokens. All workers get
        equally many micro-batches.
        """
        groups = [batch[start : start + group] for start in range(0, len(batch), group)]
        if self.micro_batch_tokens is not None and lengths is not None:
            shares = [groups[rank :: self.workers] for rank in range(self.workers)]
            budget = TokenBudget(self.micro_batch_tokens, self.micro_batch, self.padded)
            return [*budget.cut(shares, self.rank, lengths, rows=rows)]
        by_rows = dataclasses.replace(self, micro_batch_tokens=None)
        count = by_rows.accumulation(len(batch), group=group, rows=rows)
        indices = [index for members in groups[self.rank :: self.workers] for index in members]
        size = len(indices) // count
        return [indices[start : start + size] for start in range(0, len(indices), size)]


class Batches(Protocol):
    """The batches of a training, by step."""

    @property
    def group(self) -> int:
        """The number of batch entries that stay together on one worker."""

    @property
    def rows(self) -> int:
        """The most rows that a batch entry has."""

    def micro_batch_rows(self, batch_size: int, share: Share) -> int:
        """The most rows that a micro-batch of a worker's share has."""

    def micro_batches(self, step: int, share: Share) -> list[Inputs]:
        """Keyword arguments of the model for each micro-batch of a worker's share of a step: tensors, or numbers."""

    def weight(self, step: int) -> float:
        """Supervised decisions in the whole batch of a step, over all workers; the summed loss is divided by it."""


class FeatureBatches:
    """Batches of a task's training features. With `masking`, masks depend only on the seed, the step and the feature."""

    def __init__(
        self, features: FeatureTable, task: Task, pad_id: int, order: BatchOrder, *, masking: Masking | None = None
    ) -> None:
        self._features, self._head, self._pad_id, self._order = features, HEADS[task.head], pad_id, order
        self._group, self._rows, self._masking = task.group, self._head.rows_per_feature(task), masking

    @property
    def group(self) -> int:
        return self._group

    @property
    def rows(self) -> int:
        return self._rows

    def micro_batch_rows(self, batch_size: int, share: Share) -> int:
        return share.micro_batch_rows(batch_size, group=self.group, rows=self.rows)

    def micro_batches(self, step: int, share: Share) -> list[Inputs]:
        return [
            collate(self._read(step, indices), self._head, self._pad_id)
            for indices in share.cut(
                self._order.at(step), group=self.group, rows=self.rows, lengths=self._order.lengths
            )
        ]

    def weight(self, step: int) -> float:
        indices = self._order.at(step)
        if self._masking is None:
            return self._features.weight(indices)
        # By chance no token of a few short rows may be masked: their loss is then 0 and not 0 / 0.
        return max(1.0, sum(feature.weight for feature in self._read(step, indices)))

    def _read(self, step: int, indices: Sequence[int]) -> list[Feature]:
        """The features at these indices, masked for the step."""
        features = self._features.take(indices)
        if self._masking is None:
            return features
        return [
            self._masking.masked(feature, random.Random(f"{self._order.seed}|{step}|{index}"))
            for index, feature in zip(indices, features, strict=True)
        ]


def collate(features: Sequence[Feature], head: Head[Any], pad_id: int) -> dict[str, Tensor]:
    """`input_ids` and `attention_mask` of shape (rows, padded length), and the targets that the head makes."""
    rows = [row for feature in features for row in feature.rows]
    longest = padded_length(rows)
    attention_mask = torch.zeros(len(rows), longest, dtype=torch.long)
    for index, row in enumerate(rows):
        attention_mask[index, : len(row)] = 1
    return {
        "input_ids": pad_rows(rows, pad_id, longest),
        "attention_mask": attention_mask,
        **head.targets(features, longest),
    }


@dataclass(frozen=True)
class PackedBatches:
    """Batches without padding, for an encoder that numbers tokens like this: those of `padded`, packed on the host."""

    padded: Batches
    numbering: Numbering

    @property
    def group(self) -> int:
        return self.padded.group

    @property
    def rows(self) -> int:
        return self.padded.rows

    def micro_batch_rows(self, batch_size: int, share: Share) -> int:
        return self.padded.micro_batch_rows(batch_size, share)

    def micro_batches(self, step: int, share: Share) -> list[Inputs]:
        return [pack(inputs, self.numbering) for inputs in self.padded.micro_batches(step, share)]

    def weight(self, step: int) -> float:
        return self.padded.weight(step)
