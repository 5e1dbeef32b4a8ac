"""The interface of a serving variant: one way to run a trained model for inference."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import torch
from torch import nn
from transformers import PreTrainedTokenizerFast

from trainables.benchmark.scenarios.queries import Query
from trainables.evaluation import Forward
from trainables.models.task_model import TaskModel


class VariantUnavailable(RuntimeError):
    """A variant cannot run on a device; carries the reason."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"variant {name!r} cannot run here: {reason}")
        self.name, self.reason = name, reason

    def __reduce__(self) -> tuple[type[VariantUnavailable], tuple[str, str]]:
        # An exception is unpickled from its message alone, which lacks an argument; this one leaves worker processes.
        return type(self), (self.name, self.reason)


@dataclass(frozen=True)
class ServedTokens:
    """The token ids of the texts that are served, ascending; `unknown` is that of the unknown token, if there is one."""

    ids: tuple[int, ...]
    unknown: int | None

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerFast, ids: Iterable[int]) -> Self:
        """Those ids, and the tokenizer's special tokens."""
        return cls(tuple(sorted({*map(int, ids), *tokenizer.all_special_ids})), tokenizer.unk_token_id)

    def missing_in(self, queries: Iterable[Query]) -> int:
        """How many tokens of the queries are not among the ids."""
        return sum(token not in self._set for query in queries for row in query for token in row)

    @cached_property
    def _set(self) -> frozenset[int]:
        return frozenset(self.ids)


class Variant(ABC):
    """One way to run a model. It never changes the caller's model, and scoring uses the same `Forward` as timing.

    Measurements are stored and tracked by `name`; a variant whose behaviour changes needs a new name. `dtype` is that of the
    weights. With `by_tokens`, batches are cut by their tokens instead of their queries: a batch size of n stands for as many
    tokens as n queries have on average. `depends_on_batch`: the answer to a query depends on what else is in its batch, so that
    scores are made of single queries, on which latency is timed; else of batches, which are faster.
    """

    name: str
    dtype: torch.dtype = torch.float32
    by_tokens: bool = False
    depends_on_batch: bool = False

    @abstractmethod
    def prepare(self, model: TaskModel, device: torch.device) -> Forward:
        """The function to serve with, its tensors on the device. It computes with torch's number of threads at the call.

        Raises:
            VariantUnavailable: this model cannot run in this way.
        """

    def for_texts(self, tokens: Callable[[], ServedTokens]) -> Variant:
        """The variant for texts with these tokens. `tokens` reads all of them: call it only if they matter."""
        return self

    def context(self, queries: Sequence[Query]) -> dict[str, Any]:
        """What a measurement of these queries should record about the variant besides its name. JSON values."""
        return {}

    def unavailable(self, device: torch.device) -> str | None:
        """Why the variant cannot run on the device; None if it can."""
        return None

    def shares_weights(self, model: TaskModel, device: torch.device) -> bool:
        """Whether `prepare` serves with the caller's own tensors; otherwise it makes a copy."""
        on_device = all(tensor.device == _indexed(device) for tensor in model.state_dict().values())
        return on_device and not model.training and all(weight.dtype == self.dtype for weight in model.parameters())

    def weights(self, model: TaskModel, device: torch.device) -> TaskModel:
        """The model in evaluation mode with the variant's dtype and device: the caller's own, or a copy."""
        if self.shares_weights(model, device):
            return model
        return copy_to(model, device, self.dtype)


def copy_to(model: TaskModel, device: torch.device, dtype: torch.dtype) -> TaskModel:
    """A copy in evaluation mode. Each tensor is created once, on the device: the host never holds a second model."""

    def moved(tensor: torch.Tensor) -> torch.Tensor:
        copied = tensor.detach().to(device, dtype if tensor.is_floating_point() else tensor.dtype, copy=True)
        return nn.Parameter(copied, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else copied

    tensors = [*model.parameters(), *model.buffers()]  # a tensor that several modules share appears once
    return copy.deepcopy(model, {id(tensor): moved(tensor) for tensor in tensors}).eval()


def _indexed(device: torch.device) -> torch.device:
    """`cuda` with the index of the current device, which the device of a tensor always has."""
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return device
