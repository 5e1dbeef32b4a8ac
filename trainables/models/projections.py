"""Queries, keys and values of a layer by one matrix product instead of three.

One product reads its input once, casts it once in mixed precision, and gives the device one large kernel to run instead of
three small ones; the backward pass has one gradient of the input instead of three and their sum.

In training the three layers keep their own parameters, and each forward pass joins the weights. State dicts, checkpoints,
trimming and the optimizer see no change, and autograd hands every layer its part of the gradient. Joining copies 3 D^2
weights, in the precision of the product, next to the 6 T D^2 operations of T tokens, and keeps that copy until the backward
pass. In mixed precision it replaces the copies that autocast would keep; in other precisions it is added memory, which
`Resources.activation_checkpointing` bounds to one layer. Under ZeRO 3 weights are gathered when their own layer is called,
which it is not here.

In serving a single layer replaces the three, in a model that is not saved.

On a CPU nothing is gained: with one thread and two layers of width 384, 32 rows of 64 tokens take 157 ms forward and 472 ms a
step, against 158 and 471 with separate layers (medians of seven; ranges overlap). On a GPU it has not been run.

ModernBERT has a merged layer of its own. mT5 and mDeBERTa compute their attention with biases between the projections and the
scores, and keep theirs.
"""

from __future__ import annotations

import sys
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

# Names of the layers in the attention modules of transformers 5.23, by family.
PROJECTIONS = {
    "xlm-roberta": ("query", "key", "value"),
    "xlm-roberta-xl": ("query", "key", "value"),
    "bert": ("query", "key", "value"),
    "distilbert": ("q_lin", "k_lin", "v_lin"),
}
MERGED = "query_key_value"


def merge_in_training(encoder: PreTrainedModel) -> bool:
    """Compute the three projections together; parameters stay as they are. Returns whether the family has separate ones."""
    modules = _attention_modules(encoder)
    for module in modules:
        module.forward = MethodType(_forward, module)
    return bool(modules)


def merge_in_serving(encoder: PreTrainedModel) -> bool:
    """Replace the three layers by one. Returns whether the family has separate ones. The encoder must not be saved."""
    modules = _attention_modules(encoder)
    for module in modules:
        parts = _parts(module)
        first = parts[0]
        with torch.no_grad():
            weight, bias = _joined(parts)
        merged = nn.Linear(first.in_features, len(weight), device="meta")
        merged.weight = nn.Parameter(weight, requires_grad=first.weight.requires_grad)
        merged.bias = nn.Parameter(bias, requires_grad=first.weight.requires_grad)
        for name in PROJECTIONS[module.config.model_type]:
            delattr(module, name)
        setattr(module, MERGED, merged.train(first.training))
        module.forward = MethodType(_forward, module)
    return bool(modules)


def _attention_modules(encoder: PreTrainedModel) -> list[Any]:
    names = PROJECTIONS.get(encoder.config.model_type, ())
    return [module for module in encoder.modules() if names and all(hasattr(module, name) for name in names)]


def _parts(module: Any) -> list[nn.Linear]:
    return [getattr(module, name) for name in PROJECTIONS[module.config.model_type]]


def _joined(parts: list[nn.Linear]) -> tuple[Tensor, Tensor]:
    """Weight and bias of the three layers in one, in the precision in which autocast multiplies."""
    device = parts[0].weight.device.type
    lower = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else parts[0].weight.dtype
    return (
        torch.cat([part.weight.to(lower) for part in parts]),
        torch.cat([part.bias.to(lower) for part in parts]),
    )


def _forward(
    module: Any,
    hidden_states: Tensor,
    attention_mask: Tensor | None = None,
    past_key_values: None = None,
    **options: Any,
) -> tuple[Tensor, Tensor | None]:
    """Self-attention as the families' own modules compute it, but for the projections. Encoders have no past."""
    merged = getattr(module, MERGED, None)
    projected = functional.linear(hidden_states, *_joined(_parts(module))) if merged is None else merged(hidden_states)
    *shape, _ = hidden_states.shape
    query, key, value = projected.view(*shape, 3, -1, module.attention_head_size).transpose(1, 3).unbind(2)
    eager = sys.modules[type(module).__module__].eager_attention_forward
    attend = ALL_ATTENTION_FUNCTIONS.get_interface(module.config._attn_implementation, eager)
    attended, weights = attend(
        *(module, query, key, value, attention_mask),
        dropout=module.dropout.p if module.training else 0.0,
        scaling=module.scaling,
        **options,
    )
    attended = attended.reshape(*shape, -1).contiguous()
    output = getattr(module, "out_lin", None)  # DistilBERT's last layer belongs to its attention
    return attended if output is None else output(attended), weights
