"""Serving variants: the ways a trained model is run for inference."""

from __future__ import annotations

import copy
import importlib.util
import os
import shutil
from abc import ABC, abstractmethod
from typing import ClassVar

import torch

from trainables.benchmark.hardware import cpu_has_bf16
from trainables.evaluation import Forward
from trainables.model import TaskModel


class VariantUnavailable(RuntimeError):
    """A variant that cannot run on a device, with the reason."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"variant {name!r} cannot run here: {reason}")
        self.name, self.reason = name, reason

    def __reduce__(self) -> tuple[type[VariantUnavailable], tuple[str, str]]:
        return type(self), (self.name, self.reason)  # else unpickling, on the way out of a worker, lacks an argument


class Variant(ABC):
    """One way to run a model. It never changes the caller's model, and scoring uses the same `Forward` as timing."""

    name: ClassVar[str]
    dtype: ClassVar[torch.dtype] = torch.float32

    @abstractmethod
    def prepare(self, model: TaskModel, device: torch.device) -> Forward:
        """The function to serve with; its tensors are on the device."""

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
        return copy.deepcopy(model).to(device=device, dtype=self.dtype).eval()


class Fp32(Variant):
    name = "fp32"

    def prepare(self, model: TaskModel, device: torch.device) -> Forward:
        return self.weights(model, device).logits


class Bf16(Variant):
    name = "bf16"
    dtype = torch.bfloat16

    def unavailable(self, device: torch.device) -> str | None:
        if device.type == "cuda":
            native = torch.cuda.get_device_capability(device) >= (8, 0)
            return None if native else "the GPU emulates bf16 (it needs compute capability 8.0)"
        return None if cpu_has_bf16() else "the CPU emulates bf16 (it needs AVX512-BF16, AMX or ARM BF16)"

    def prepare(self, model: TaskModel, device: torch.device) -> Forward:
        return self.weights(model, device).logits


class Compiled(Variant):
    """Fp32 through torch.compile (inductor) with dynamic shapes; compilation happens in the first query: cold start.

    A batch of one and larger batches are two compilations (sizes 0 and 1 are always specialised).
    """

    name = "compiled"

    def unavailable(self, device: torch.device) -> str | None:
        if device.type == "cuda":
            return None if importlib.util.find_spec("triton") else "torch.compile needs triton on a GPU"
        compilers = (os.environ.get("CXX"), "g++", "clang++")
        found = any(shutil.which(compiler) for compiler in compilers if compiler)
        return None if found else "torch.compile needs a C++ compiler (g++, clang++ or $CXX) on a CPU"

    def prepare(self, model: TaskModel, device: torch.device) -> Forward:
        # Graphs are kept by code object: without a reset, the ninth model of a process would silently run eagerly
        # (recompile_limit), and an earlier model's graphs would shorten this one's cold start.
        torch.compiler.reset()
        return torch.compile(self.weights(model, device).logits, dynamic=True)


def _indexed(device: torch.device) -> torch.device:
    """`cuda` with the index of the current device, as tensors on it say."""
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return device


VARIANTS: dict[str, Variant] = {variant.name: variant for variant in (Fp32(), Bf16(), Compiled())}


def variant_named(name: str) -> Variant:
    """The variant with that name.

    Raises:
        ValueError: there is none.
    """
    if name not in VARIANTS:
        raise ValueError(f"no serving variant {name!r}; there are {', '.join(sorted(VARIANTS))}")
    return VARIANTS[name]
