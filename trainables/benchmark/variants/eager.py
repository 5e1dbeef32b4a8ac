"""Eager PyTorch in fp32, bf16 or fp16."""

from __future__ import annotations

import torch

from trainables.benchmark.probes.hardware import cpu_has_bf16
from trainables.benchmark.variants.base import Variant
from trainables.evaluation import Forward
from trainables.models.task_model import TaskModel


class Fp32(Variant):
    name = "fp32"

    def prepare(self, model: TaskModel, device: torch.device) -> Forward:
        return self.weights(model, device).logits


class Bf16(Fp32):
    name = "bf16"
    dtype = torch.bfloat16

    def unavailable(self, device: torch.device) -> str | None:
        return no_bf16(device)


class Fp16(Fp32):
    name = "fp16"
    dtype = torch.float16

    def unavailable(self, device: torch.device) -> str | None:
        return None if device.type == "cuda" else "fp16 is for GPUs: CPUs compute it by way of fp32, or refuse"


def no_bf16(device: torch.device) -> str | None:
    """Why bf16 does not run natively on the device; None if it does."""
    if device.type == "cuda":
        native = torch.cuda.get_device_capability(device) >= (8, 0)
        return None if native else "the GPU emulates bf16 (it needs compute capability 8.0)"
    return None if cpu_has_bf16() else "the CPU emulates bf16 (it needs AVX512-BF16, AMX or ARM BF16)"
