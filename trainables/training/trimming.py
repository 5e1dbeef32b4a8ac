"""Exact vocabulary trimming: fine-tuning trains only those rows of the embedding table that its data look up.

A row that no batch looks up has a gradient of exactly zero. It adds nothing to the norm that clipping reads, and under AdamW
(Loshchilov and Hutter 2019, algorithm 2) its moments stay zero, its update is 0 / (0 + eps) = 0, and the decoupled decay alone
multiplies it by (1 - lr_t * weight_decay) in each step t. So such rows are left out of training and multiplied once, at the
end, by the product over its steps. The model goes on reading the tokenizer's ids, which position ids depend on, and draws the
same random numbers: dropout acts on activations, whose shapes stay. What the engine keeps for each parameter (gradient, two
moments) shrinks with the table.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from trainables.heads.features import FeatureTable
from trainables.hyperparameters import Training

PAYS_BELOW = 0.5  # share of the rows that occur


@dataclass(frozen=True)
class Lookups:
    """A model's input embedding, and every id that training looks up in it."""

    embedding: nn.Embedding
    ids: Tensor

    def pays(self, model: nn.Module) -> bool:
        """The rule where nobody decides: trimming is possible, and fewer than half of the rows occur.

        The table's share of gradient, optimizer state and communication falls to the share of rows that occur, against one
        more copy of these rows at the start and of the table at the end: with half of the rows left that is quickly earned
        back, with nearly all of them never.
        """
        return obstacle(model, self.embedding) is None and len(self.ids) < PAYS_BELOW * self.embedding.num_embeddings


def looked_up(embedding: nn.Embedding, tables: Iterable[FeatureTable], pad_id: int) -> Lookups:
    """What training on all features of these tables looks up: the ids of their rows, and padding.

    Raises:
        ValueError: an id has no row in the embedding table.
    """
    rows = embedding.num_embeddings
    padding = [] if embedding.padding_idx is None else [embedding.padding_idx]
    found = [np.asarray([pad_id, *padding]), *(table.token_ids() for table in tables)]
    ids = np.unique(np.concatenate(found))
    if ids[0] < 0 or ids[-1] >= rows:
        raise ValueError(
            f"token ids {ids[0]} to {ids[-1]}, embedding table of {rows} rows: not this encoder's tokenizer"
        )
    return Lookups(embedding, torch.from_numpy(ids))


def obstacle(model: nn.Module, embedding: nn.Embedding) -> str | None:
    """Why the rows that occur cannot be trained alone, or None.

    It sees which modules hold the table. A model that reads the weight itself (pre-training does, for its masked tokens)
    must not be trimmed.
    """
    table = embedding.weight
    if table.shape != (embedding.num_embeddings, embedding.embedding_dim):
        return "the table is partitioned over workers already"
    if not table.requires_grad:
        return "the table is not trained"
    for name, module in _holders(model, table):
        if not isinstance(module, nn.Embedding):
            return f"the output layer {name} is tied to the table and gives every row a gradient"
    return None


@dataclass(frozen=True)
class Trimmed:
    """What was taken out of a model: `table` is all rows as they were, `ids` those that are trained."""

    name: str
    table: Tensor
    ids: Tensor

    def restored(self, state: Mapping[str, Tensor], decay: float) -> dict[str, Tensor]:
        """A full state with the whole table: its trained rows, and the others times `decay`. To be called once.

        The old rows are changed in place: a second table of gigabytes would not fit where the first just did.
        """
        table = self.table.mul_(decay)
        table[self.ids] = state[self.name].to(table)
        return {**state, self.name: table}


def trim(model: nn.Module, lookups: Lookups) -> Trimmed:
    """Leave in the model only the rows that are looked up; before an engine is built around it.

    The model stays so. Its configuration still tells the full size, which the restored state has.

    Raises:
        ValueError: the result would not be that of untrimmed training.
    """
    reason = obstacle(model, lookups.embedding)
    if reason is not None:
        raise ValueError(f"trim_vocabulary: {reason}; leave it off for this model")
    table, ids = lookups.embedding.weight, lookups.ids
    (name,) = (name for name, parameter in model.named_parameters() if parameter is table)
    places = torch.full((len(table),), -1)  # an id that was said not to occur is an index error, never a wrong row
    places[ids] = torch.arange(len(ids))
    rows = nn.Parameter(table.detach()[ids])
    for _, module in _holders(model, table):
        _cut(module, rows, places)
    return Trimmed(name, table.detach(), ids)


def unseen_decay(training: Training, steps: int) -> float:
    """What AdamW's weight decay leaves of a row without gradient after the first `steps` steps."""
    return math.prod(1 - training.learning_rate_at(step) * training.weight_decay for step in range(steps))


def _holders(model: nn.Module, table: Tensor) -> list[tuple[str, nn.Module]]:
    """Modules with the table among their own parameters: some encoders keep it in two embeddings."""
    return [
        (name, module)
        for name, module in model.named_modules()
        if any(parameter is table for parameter in module.parameters(recurse=False))
    ]


def _cut(embedding: Any, rows: nn.Parameter, places: Tensor) -> None:
    """In place, whatever subclass of `nn.Embedding` it is: its own `forward` goes on, on the places of the ids."""
    embedding.weight, embedding.num_embeddings = rows, len(rows)
    if embedding.padding_idx is not None:
        embedding.padding_idx = int(places[embedding.padding_idx])
    embedding.register_buffer("places", places, persistent=False)
    embedding.register_forward_pre_hook(_to_places)


def _to_places(embedding: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor]:
    (ids,) = inputs
    return (embedding.places[ids],)
