"""Padding-free serving: the rows of a batch form one long row, so most layers compute no padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from trainables.benchmark.scenarios.queries import Query
from trainables.benchmark.variants.base import Variant, VariantUnavailable, copy_to
from trainables.benchmark.variants.eager import no_bf16
from trainables.evaluation import Forward
from trainables.models.task_model import TaskModel

# Their positions are looked up, and only attention depends on the boundaries of rows. mT5 and mDeBERTa add a bias by distance
# to the attention scores; ModernBERT rotates queries and keys by position and attends to neighbours.
FAMILIES = ("xlm-roberta", "xlm-roberta-xl", "bert", "distilbert")


class PaddingFree(Variant):
    """Fp32. Linear layers, norms and embeddings compute only real tokens; attention is computed over padded rows.

    It is faster where the rows of a batch differ in length. A single row has no padding: then it equals eager mode with
    PyTorch's fused attention.
    """

    name = "padding_free"

    def shares_weights(self, model: TaskModel, device: torch.device) -> bool:
        return False  # attention is part of the configuration, so the served model is a copy

    def prepare(self, model: TaskModel, device: torch.device) -> Forward:
        from trainables.models.unpadding import unpad_serving  # imports transformers' modelling code

        served = self.copied(model, device)
        unpad_serving(served.encoder)
        return served.logits

    def copied(self, model: TaskModel, device: torch.device) -> TaskModel:
        """A copy of the model.

        Raises:
            VariantUnavailable: its family needs padding outside attention.
        """
        family = model.encoder.config.model_type
        if family not in FAMILIES:
            raise VariantUnavailable(self.name, f"in {family}, more than the attention depends on where rows begin")
        return copy_to(model, device, self.dtype)


class PackedBf16(PaddingFree):
    """Bf16 without padding, in batches of about as many tokens each: a batch of short rows is as much work as one of long rows.

    On a GPU attention reads the boundaries of rows (`varlen`), and queries, keys and values are one product.
    """

    name = "packed_bf16"
    dtype = torch.bfloat16
    by_tokens = True

    def unavailable(self, device: torch.device) -> str | None:
        return no_bf16(device)

    def prepare(self, model: TaskModel, device: torch.device) -> Forward:
        if device.type != "cuda":
            return super().prepare(model, device)
        from trainables.models import varlen
        from trainables.models.projections import merge_in_serving
        from trainables.models.unpadding import unpad_serving

        config, served = model.encoder.config, self.copied(model, device)
        try:
            varlen.check(device, self.dtype, width=config.hidden_size // config.num_attention_heads)
        except varlen.KernelUnusable as error:
            raise VariantUnavailable(self.name, str(error)) from error
        merge_in_serving(served.encoder)
        unpad_serving(served.encoder, over_segments=True)
        return served.logits

    def context(self, queries: Sequence[Query]) -> dict[str, Any]:
        return {"batches_cut_by": "tokens"}
