"""Dynamic int8: int8 weights in linear layers, activations quantised at each call."""

from __future__ import annotations

import copy
import warnings

import torch
from torch import nn

from trainables.benchmark.variants.base import Variant
from trainables.evaluation import Forward
from trainables.models.task_model import TaskModel


class Int8(Variant):
    """PyTorch's dynamic quantisation, per tensor; embeddings, norms and attention stay in fp32."""

    name = "int8"
    depends_on_batch = True  # activations are quantised over the range of the whole batch

    def unavailable(self, device: torch.device) -> str | None:
        if device.type != "cpu":
            return "dynamic int8 has kernels for CPUs only"
        return None if torch.backends.quantized.engine != "none" else "this PyTorch was built without int8 kernels"

    def shares_weights(self, model: TaskModel, device: torch.device) -> bool:
        return False

    def prepare(self, model: TaskModel, device: torch.device) -> Forward:
        served = copy.deepcopy(model).float().eval()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecated in favour of torchao, a separate package
            torch.ao.quantization.quantize_dynamic(  # type: ignore[no-untyped-call]
                served, {nn.Linear}, dtype=torch.qint8, inplace=True
            )
        return served.logits
