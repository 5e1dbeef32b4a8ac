"""Padding-free: the rows of a batch one after the other, so that no layer computes what is only padding."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainables.benchmark.variants.base import Variant, VariantUnavailable, copy_to
from trainables.evaluation import Forward
from trainables.models.task_model import TaskModel

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ATTENTION = "padding_free"
# Positions are looked up and nothing else in the layers knows of rows. mT5 and mDeBERTa add a bias by distance to the
# attention, ModernBERT turns queries and keys by their place and looks at neighbours only.
FAMILIES = ("xlm-roberta", "xlm-roberta-xl", "bert")


@dataclass
class _Rows:
    """Which tokens of the batch are real: their places (T) in the flattened batch, and its mask (N, L)."""

    places: Tensor
    mask: Tensor


_now = threading.local()


class PaddingFree(Variant):
    """Fp32. Linear layers, norms and embeddings see real tokens alone; attention is computed over padded rows.

    It gains where rows of a batch differ in length. A single row has no padding: then it is eager with PyTorch's fused
    attention.
    """

    name = "padding_free"

    def shares_weights(self, model: TaskModel, device: torch.device) -> bool:
        return False  # the attention is part of the configuration, so that the model is a copy

    def prepare(self, model: TaskModel, device: torch.device) -> Forward:
        from transformers import AttentionInterface

        family = model.encoder.config.model_type
        if family not in FAMILIES:
            raise VariantUnavailable(
                self.name, f"{family} needs to know where rows begin in more places than attention"
            )
        served = copy_to(model, device, self.dtype)
        AttentionInterface.register(ATTENTION, _attend)
        served.encoder.set_attn_implementation(ATTENTION)
        packed = TaskModel(_Packed(served.encoder), served.head)
        return packed.logits


class _Packed(nn.Module):
    """An encoder that takes padded rows and gives padded hidden states, and between them works on packed tokens."""

    def __init__(self, encoder: PreTrainedModel) -> None:
        super().__init__()
        self.encoder, self.config = encoder, encoder.config
        roberta = encoder.config.model_type.startswith("xlm-roberta")
        self._first_position = encoder.config.pad_token_id + 1 if roberta else 0  # as in their own position ids

    def forward(self, input_ids: Tensor, attention_mask: Tensor, output_hidden_states: bool = False) -> Any:
        places_T = attention_mask.flatten().nonzero().squeeze(1)
        _now.rows = _Rows(places_T, attention_mask)
        positions_T = (attention_mask.cumsum(1) - 1 + self._first_position).flatten()[places_T]
        output = self.encoder(
            input_ids=input_ids.flatten()[places_T][None],
            position_ids=positions_T[None],
            output_hidden_states=output_hidden_states,
        )
        output.last_hidden_state = _padded(output.last_hidden_state[0], _now.rows)
        if output_hidden_states:
            output.hidden_states = tuple(_padded(hidden[0], _now.rows) for hidden in output.hidden_states)
        return output


def _padded(values_TX: Tensor, rows: _Rows) -> Tensor:
    """(tokens, ...) to (rows, length, ...), zeros where there is no token."""
    count, length = rows.mask.shape
    padded = values_TX.new_zeros((count * length, *values_TX.shape[1:]))
    padded[rows.places] = values_TX
    return padded.view(count, length, *values_TX.shape[1:])


def _attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """Attention within each row, for transformers' interface: (1, heads, tokens, width) to (1, tokens, heads, width)."""
    rows: _Rows = _now.rows
    query_NHLD, key_NHLD, value_NHLD = (
        _padded(one[0].transpose(0, 1), rows).transpose(1, 2) for one in (query, key, value)
    )
    mask = None if rows.mask.all() else rows.mask[:, None, None, :].bool()
    found_NHLD = functional.scaled_dot_product_attention(
        query_NHLD, key_NHLD, value_NHLD, attn_mask=mask, scale=options.get("scaling")
    )
    found_NLHD = found_NHLD.transpose(1, 2)
    return found_NLHD.flatten(0, 1)[rows.places][None], None
