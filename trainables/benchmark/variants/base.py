"""What a serving variant is: one way to run a trained model for inference."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import nn

from trainables.evaluation import Forward
from trainables.models.task_model import TaskModel


class VariantUnavailable(RuntimeError):
    """A variant that cannot run on a device, with the reason."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"variant {name!r} cannot run here: {reason}")
        self.name, self.reason = name, reason

    def __reduce__(self) -> tuple[type[VariantUnavailable], tuple[str, str]]:
        return type(self), (self.name, self.reason)  # else unpickling, on the way out of a worker, lacks an argument


class Variant(ABC):
    """One way to run a model. It never changes the caller's model, and scoring uses the same `Forward` as timing.

    A new one is a subclass with a name and `prepare`, and a line in `VARIANTS`.
    """

    name: ClassVar[str]
    dtype: ClassVar[torch.dtype] = torch.float32

    @abstractmethod
    def prepare(self, model: TaskModel, device: torch.device) -> Forward:
        """The function to serve with; its tensors are on the device. It uses as many threads as torch does at the call.

        Raises:
            VariantUnavailable: this model cannot be run so.
        """

    def unavailable(self, device: torch.device) -> str | None:
        """Why the variant cannot run on the device; None if it can."""
        return None

    def shares_weights(self, model: TaskModel, device: torch.device) -> bool:
        """Whether `prepare` serves with the caller's own tensors; otherwise it makes a copy."""
        placed = all(tensor.device == _indexed(device) for tensor in model.state_dict().values())
        return placed and not model.training and all(weight.dtype == self.dtype for weight in model.parameters())

    def weights(self, model: TaskModel, device: torch.device) -> TaskModel:
        """The model in evaluation mode with the variant's dtype and device: the caller's own, or a copy."""
        if self.shares_weights(model, device):
            return model
        return copy_to(model, device, self.dtype)


def copy_to(model: TaskModel, device: torch.device, dtype: torch.dtype) -> TaskModel:
    """A copy in evaluation mode, each tensor of it made once and where it is to be: no second model is held on the host."""

    def moved(tensor: torch.Tensor) -> torch.Tensor:
        found = tensor.detach().to(device, dtype if tensor.is_floating_point() else tensor.dtype, copy=True)
        return nn.Parameter(found, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else found

    tensors = [*model.parameters(), *model.buffers()]  # each once, however many modules share it
    return copy.deepcopy(model, {id(tensor): moved(tensor) for tensor in tensors}).eval()


def _indexed(device: torch.device) -> torch.device:
    """`cuda` with the index of the current device, as tensors on it say."""
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return device
