"""Exact vocabulary trimming: fine-tuning trains only the rows of the embedding table that its data look up.

A row that no batch looks up has a gradient of exactly zero. It adds nothing to the norm used for clipping. Under AdamW
(Loshchilov and Hutter 2019, algorithm 2) its moments stay zero and its update is 0 / (0 + eps) = 0; only the decoupled decay
multiplies it by (1 - lr_t * weight_decay) in each step t. Such rows are therefore left out of training and multiplied once, at
the end, by the product over its steps. The model still reads the tokenizer's ids, which position ids depend on, and draws the
same random numbers: dropout acts on activations, whose shapes stay the same. The engine's state for each parameter (gradient,
two moments) shrinks with the table.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from trainables.heads.features import FeatureTable
from trainables.hyperparameters import Training

M = TypeVar("M", bound=nn.Module)
PAYS_BELOW = 0.5  # share of the rows that occur


@dataclass(frozen=True)
class Lookups:
    """A model's input embedding and every id that training looks up in it."""

    embedding: nn.Embedding
    ids: Tensor

    def pays(self, model: nn.Module) -> bool:
        """The default rule: trim where it is possible and fewer than half of the rows occur.

        The table's part of gradients, optimizer state and communication shrinks to the share of rows that occur. The cost is
        one copy of these rows at the start and one of the table at the end, which half of the rows earn back quickly and
        nearly all of them never.
        """
        return obstacle(model, self.embedding) is None and len(self.ids) < PAYS_BELOW * self.embedding.num_embeddings


def looked_up(embedding: nn.Embedding, tables: Iterable[FeatureTable], pad_id: int) -> Lookups:
    """The ids that training on all features of these tables looks up: those of their rows, and padding.

    Raises:
        ValueError: an id has no row in the embedding table.
    """
    rows = embedding.num_embeddings
    padding = [] if embedding.padding_idx is None else [embedding.padding_idx]
    ids = np.unique(np.concatenate([[pad_id, *padding], *(table.token_ids() for table in tables)]))
    if ids[0] < 0 or ids[-1] >= rows:
        raise ValueError(
            f"token ids {ids[0]} to {ids[-1]}, embedding table of {rows} rows: use the encoder's own tokenizer"
        )
    return Lookups(embedding, torch.from_numpy(ids))


def obstacle(model: nn.Module, embedding: nn.Embedding) -> str | None:
    """Why the table cannot be trimmed, or None.

    It checks the modules that own the table. A model that reads the weight directly (pre-training does, for its masked tokens)
    must not be trimmed either.
    """
    table = embedding.weight
    if table.shape != (embedding.num_embeddings, embedding.embedding_dim):
        return "the table is already partitioned over workers"
    if not table.requires_grad:
        return "the table is not trained"
    if (name := _tied_layer(model, table)) is not None:
        return f"the output layer {name} is tied to the table and gives every row a gradient"
    return None


@dataclass(frozen=True)
class Trimmed:
    """The original embedding table of a trimmed model with all its rows, and the ids of the rows that are trained."""

    name: str
    table: Tensor
    ids: Tensor

    def restored(self, state: Mapping[str, Tensor], decay: float, *, rounded: bool = False) -> dict[str, Tensor]:
        """The full state with the whole table: its trained rows, and the others multiplied by `decay`. Call it once.

        With `rounded` the others are first rounded to bf16, as a training in `bf16_master` rounds the weights it starts from.
        It changes the old table in place: a second one of gigabytes might not fit.
        """
        if rounded:
            self.table.copy_(self.table.bfloat16())
        table = self.table.mul_(decay)
        table[self.ids] = state[self.name].to(table)
        return {**state, self.name: table}


def trim(model: nn.Module, lookups: Lookups) -> Trimmed:
    """Keep only the rows that are looked up, for good. Call it before an engine is built.

    The model's configuration keeps the full size, which the restored state has.

    Raises:
        ValueError: the result would differ from untrimmed training.
    """
    reason = obstacle(model, lookups.embedding)
    if reason is not None:
        raise ValueError(f"trim_vocabulary: {reason}; leave it off for this model")
    table, ids = lookups.embedding.weight, lookups.ids
    (name,) = (name for name, parameter in model.named_parameters() if parameter is table)
    row_numbers = torch.full((len(table),), -1)  # an id outside the lookups is an index error, never a wrong row
    row_numbers[ids] = torch.arange(len(ids))
    rows = nn.Parameter(table.detach()[ids])
    for _, module in _owners(model, table):
        _replace_rows(module, rows, row_numbers)
    return Trimmed(name, table.detach(), ids)


def cut(model: M, embedding: nn.Embedding, ids: Tensor, *, unknown: int) -> M:
    """A copy of the model to serve texts with these ids: the table has only their rows, and that of `unknown` for all others.

    The model's own table is read and never copied. Weights are copied with their dtype and device.

    Raises:
        ValueError: an output layer reads every row.
    """
    table = embedding.weight
    if (name := _tied_layer(model, table)) is not None:
        raise ValueError(f"the output layer {name} is tied to the table and reads every row")
    ids = torch.unique(torch.cat([ids, torch.tensor([unknown])])).to(table.device)
    row_numbers = torch.full((len(table),), int((ids == unknown).nonzero()), device=table.device)
    row_numbers[ids] = torch.arange(len(ids), device=table.device)
    rows = nn.Parameter(table.detach()[ids], requires_grad=table.requires_grad)
    small = copy.deepcopy(model, {id(table): rows})
    for _, module in _owners(small, rows):
        _replace_rows(module, rows, row_numbers)
    return small


def unseen_decay(training: Training, steps: int) -> float:
    """The factor by which AdamW's weight decay shrinks a row without gradient in the first `steps` steps."""
    return math.prod(1 - training.learning_rate_at(step) * training.weight_decay for step in range(steps))


def _tied_layer(model: nn.Module, table: Tensor) -> str | None:
    """The name of a layer, other than an embedding, that has the table as its weights."""
    return next((name for name, module in _owners(model, table) if not isinstance(module, nn.Embedding)), None)


def _owners(model: nn.Module, table: Tensor) -> list[tuple[str, nn.Module]]:
    """Modules that have the table as a parameter: some encoders have it in two embeddings."""
    return [
        (name, module)
        for name, module in model.named_modules()
        if any(parameter is table for parameter in module.parameters(recurse=False))
    ]


def _replace_rows(embedding: Any, rows: nn.Parameter, row_numbers: Tensor) -> None:
    """Trim an embedding in place. Any subclass of `nn.Embedding` keeps its `forward`, which receives row numbers for ids."""
    embedding.weight, embedding.num_embeddings = rows, len(rows)
    if embedding.padding_idx is not None:
        embedding.padding_idx = int(row_numbers[embedding.padding_idx])
    embedding.register_buffer("row_numbers", row_numbers, persistent=False)
    embedding.register_forward_pre_hook(_to_row_numbers)


def _to_row_numbers(embedding: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor]:
    (ids,) = inputs
    return (embedding.row_numbers[ids],)
