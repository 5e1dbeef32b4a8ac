"""Training on the real tokens of a batch alone: its rows stand one after the other in a single long one, without padding.

Everything but attention works on each token by itself, so that the encoder's layers see one row of all tokens. Attention keeps
to the segments that the rows were: FlashAttention's kernel for rows of different lengths (Dao et al. 2022, arXiv 2205.14135;
PyTorch has it built in) reads their boundaries. Position ids are those that each token had in its own row, and hidden states go
back to where they were, so that heads see what they always see. Loss and gradients are those of the padded batch up to
rounding; dropout draws other random numbers, as it does for another number of workers.

Scoring goes on with padding: it is fp32, and the kernel computes in bf16. The operator is PyTorch's own and private, and has
been called on a CPU's tensors without memory alone: `Resources.unpad` is off unless a recipe asks for it.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from trainables.models.families import FAMILIES

NAME = "segments"  # of the attention in transformers' registers


@dataclass(frozen=True)
class Segments:
    """Rows in one: `boundaries` has their ends, 0 first (int32, rows + 1); `places` says where in the flattened padded batch
    of this shape (rows, length) each token was."""

    boundaries: Tensor
    places: Tensor
    shape: tuple[int, int]

    @property
    def longest(self) -> int:
        """At least the longest row: the padded length, which is known without waiting for the device."""
        return self.shape[1]


def unpad(encoder: PreTrainedModel) -> None:
    """Let the encoder compute real tokens alone while it is in training mode; its inputs and outputs stay as they are.

    On GPUs it is for training in bf16, from Ampere on. On a CPU attention goes segment by segment, which is there to be tested
    and not to be fast.

    Raises:
        ValueError: its attention needs padding.
    """
    family = encoder.config.model_type
    if (reason := FAMILIES[family].needs_padding) is not None:
        raise ValueError(f"unpad: {family} cannot be trained so, {reason}; leave it off")
    encoder.set_attn_implementation(NAME)
    encoder.register_forward_pre_hook(_flatten, with_kwargs=True)
    encoder.register_forward_hook(_back, with_kwargs=True)


def _flatten(
    encoder: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    if not encoder.training:
        return None
    mask_NL: Tensor = kwargs["attention_mask"]
    places_T = mask_NL.flatten().nonzero().squeeze(1)
    positions_NL = mask_NL.cumsum(1) - 1 + _first_position(encoder)
    segments = Segments(
        functional.pad(mask_NL.sum(1).cumsum(0), (1, 0)).to(torch.int32), places_T, (mask_NL.shape[0], mask_NL.shape[1])
    )
    inputs: dict[str, Any] = {
        **kwargs,
        **{name: kwargs[name].flatten()[places_T][None] for name in ("input_ids", "token_type_ids") if name in kwargs},
        "position_ids": positions_NL.flatten()[places_T][None],
        "attention_mask": None,
        "segments": segments,
    }
    return args, inputs


def _back(encoder: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
    segments: Segments | None = kwargs.get("segments")
    if segments is None:
        return None
    rows, length = segments.shape
    hidden_TD = output.last_hidden_state[0]
    hidden_PD = hidden_TD.new_zeros(rows * length, hidden_TD.shape[1]).index_copy(0, segments.places, hidden_TD)
    output.last_hidden_state = hidden_PD.view(rows, length, -1)
    return output


def _first_position(encoder: Any) -> int:
    """Number of a row's first position: fairseq's encoders count from behind that of padding."""
    config = encoder.config
    return int(config.pad_token_id) + 1 if FAMILIES[config.model_type].positions_after_padding else 0


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    segments: Segments | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attention inside each segment; over padded rows where there are no segments, in scoring.

    Tensors are (1, heads, tokens, width of a head), and the result (1, tokens, heads, width). `sliding_window` is one more than
    the distance that a token may look to either side, as transformers says it.
    """
    if segments is None:
        padded: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **options
        )
        return padded
    query_THW, key_THW, value_THW = (whole[0].transpose(0, 1) for whole in (query, key, value))
    reach = -1 if sliding_window is None else sliding_window - 1
    kernel = flash if query.is_cuda else segment_by_segment
    attended_THW = kernel(query_THW, key_THW, value_THW, segments, dropout=dropout, scaling=scaling, reach=reach)
    return attended_THW[None], None


def flash(
    query_THW: Tensor,
    key_THW: Tensor,
    value_THW: Tensor,
    segments: Segments,
    *,
    dropout: float,
    scaling: float | None,
    reach: int,
) -> Tensor:
    """PyTorch's FlashAttention over segments; `reach` -1 is no window.

    The operator behind `torch.nn.attention.varlen.varlen_attn`, which leaves out the dropout of attention weights that XLM-R
    and BERT are trained with.
    """
    attended: Tensor = torch.ops.aten._flash_attention_forward(
        *(query_THW, key_THW, value_THW, segments.boundaries, segments.boundaries, segments.longest, segments.longest),
        *(dropout, False, False),
        scale=scaling,
        window_size_left=reach,
        window_size_right=reach,
    )[0]
    return attended


def segment_by_segment(
    query_THW: Tensor,
    key_THW: Tensor,
    value_THW: Tensor,
    segments: Segments,
    *,
    dropout: float,
    scaling: float | None,
    reach: int,
) -> Tensor:
    """What `flash` computes, one segment after the other, on any device and in any precision."""
    attended = []
    for first, last in itertools.pairwise(segments.boundaries.tolist()):
        query, key, value = (whole[first:last].transpose(0, 1) for whole in (query_THW, key_THW, value_THW))
        near = None
        if reach >= 0:
            place = torch.arange(last - first, device=query.device)
            near = (place[:, None] - place[None]).abs() <= reach
        part = functional.scaled_dot_product_attention(
            query, key, value, attn_mask=near, dropout_p=dropout, scale=scaling
        )
        attended.append(part.transpose(0, 1))
    return torch.cat(attended)


def _mask(*sizes: Any, attention_mask: Tensor | None = None, **options: Any) -> Tensor | None:
    """No mask over segments, whose attention needs none: it would be as large as the square of all tokens."""
    if attention_mask is None:
        return None
    mask: Tensor | None = sdpa_mask(*sizes, attention_mask=attention_mask, **options)
    return mask


ALL_ATTENTION_FUNCTIONS.register(NAME, _attend)
ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, _mask)
