"""Float8 on GPUs from Ada and Hopper on, by torchao, which is an optional extra."""

from __future__ import annotations

import importlib.util

import torch

from trainables.benchmark.variants.compiled import CompiledBf16
from trainables.benchmark.variants.graphs import merged_copy
from trainables.models.task_model import TaskModel


class Float8(CompiledBf16):
    """As `compiled_bf16`, with the encoder's matrix products in float8 (e4m3).

    Weights have a scale for each output row, and activations one for each token, computed at each call: another row of the
    batch never changes a token's rounding. Embeddings, norms, attention and the head stay in bf16, as do products whose
    dimensions are not multiples of 16 (torchao leaves these out). Inductor fuses the scaling with the operations before it;
    eagerly it would cost more than float8 saves.
    """

    name = "float8"

    def unavailable(self, device: torch.device) -> str | None:
        if importlib.util.find_spec("torchao") is None:
            return "torchao not installed; pip install 'xstilts[float8]'"
        if device.type != "cuda":
            return "float8 has kernels for GPUs only"
        if torch.cuda.get_device_capability(device) < (8, 9):
            return "the GPU has no float8 arithmetic (it needs compute capability 8.9)"
        return super().unavailable(device)

    def shares_weights(self, model: TaskModel, device: torch.device) -> bool:
        return False

    def weights(self, model: TaskModel, device: torch.device) -> TaskModel:
        from torchao.quantization import Float8DynamicActivationFloat8WeightConfig, PerRow, quantize_

        served = merged_copy(model, device, self.dtype)
        # torchao's settings of inductor are for the whole process, and `compiled_bf16` is compared with this one.
        quantize_(
            served.encoder, Float8DynamicActivationFloat8WeightConfig(granularity=PerRow(), set_inductor_config=False)
        )
        return served
