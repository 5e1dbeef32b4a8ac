"""Encoders on the real tokens of a batch: its rows form one long row without padding.

All layers but attention work on each token by itself. Attention stays inside the segments that the rows were. Position ids are
those of each token in its own row. Hidden states return to their padded places, so heads are unaffected. Loss and gradients
equal those of the padded batch up to rounding; dropout draws different random numbers, as it does for another number of
workers.

In training, attention on GPUs is FlashAttention's kernel for rows of different lengths (Dao et al. 2022, arXiv 2205.14135),
built into PyTorch, which reads the boundaries of the segments. The operator is private, computes in bf16 and has only been
called on CPU tensors without memory (`Resources.unpad` is off by default). Scoring in between stays padded, as it is fp32. In
serving, attention pads its inputs and uses PyTorch's fused attention in any precision and on any device.
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

TRAINING, SERVING = "segments", "padding_free"  # names of the attention functions in transformers' registers


@dataclass(frozen=True)
class Segments:
    """The rows of a batch in one.

    `boundaries` are their ends with 0 first (int32, rows + 1), `indices` the positions of tokens in the flattened batch, and
    `mask` the batch's attention mask of shape (rows, length).
    """

    boundaries: Tensor
    indices: Tensor
    mask: Tensor

    @classmethod
    def of(cls, mask_NL: Tensor) -> Segments:
        boundaries = functional.pad(mask_NL.sum(1).cumsum(0), (1, 0)).to(torch.int32)
        return cls(boundaries, mask_NL.flatten().nonzero().squeeze(1), mask_NL)

    @property
    def longest(self) -> int:
        """At least the longest row: the padded length, which is known without synchronising with the device."""
        return self.mask.shape[1]

    def flat(self, values_NL: Tensor) -> Tensor:
        """(rows, length) to (1, tokens)."""
        return values_NL.flatten()[self.indices][None]

    def padded(self, values_TX: Tensor) -> Tensor:
        """(tokens, ...) to (rows, length, ...), with zeros where there is no token."""
        rows, length = self.mask.shape
        flat = values_TX.new_zeros(rows * length, *values_TX.shape[1:]).index_copy(0, self.indices, values_TX)
        return flat.view(rows, length, *values_TX.shape[1:])


def unpad_training(encoder: PreTrainedModel) -> None:
    """Let the encoder compute only real tokens while it is in training mode; its inputs and outputs stay as they are.

    On GPUs this needs bf16 and an Ampere card or newer. On CPUs attention goes segment by segment, for tests and not for speed.

    Raises:
        ValueError: its attention needs padding.
    """
    _unpad(encoder, TRAINING)


def unpad_serving(encoder: PreTrainedModel) -> None:
    """Let the encoder compute only real tokens, but for attention; its inputs and outputs stay as they are.

    Raises:
        ValueError: its attention needs padding.
    """
    _unpad(encoder, SERVING)


def _unpad(encoder: PreTrainedModel, attention: str) -> None:
    family = encoder.config.model_type
    if (reason := FAMILIES[family].needs_padding) is not None:
        raise ValueError(f"unpad: {family} cannot be computed without padding, as {reason}; leave it off")
    encoder.set_attn_implementation(attention)
    encoder.register_forward_pre_hook(_flatten, with_kwargs=True)
    encoder.register_forward_hook(_restore, with_kwargs=True)


def _flatten(
    encoder: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    if encoder.config._attn_implementation == TRAINING and not encoder.training:
        return None
    mask_NL: Tensor = kwargs["attention_mask"]
    segments = Segments.of(mask_NL)
    positions_NL = mask_NL.cumsum(1) - 1 + _first_position(encoder)
    inputs = {**kwargs, "position_ids": positions_NL}
    for name in ("input_ids", "token_type_ids", "position_ids"):
        if name in inputs:
            inputs[name] = segments.flat(inputs[name])
    return args, {**inputs, "attention_mask": None, "segments": segments}


def _restore(encoder: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
    segments: Segments | None = kwargs.get("segments")
    if segments is None:
        return None
    output.last_hidden_state = segments.padded(output.last_hidden_state[0])
    if output.get("hidden_states") is not None:
        output.hidden_states = tuple(segments.padded(hidden[0]) for hidden in output.hidden_states)
    return output


def _first_position(encoder: Any) -> int:
    """The number of a row's first position: fairseq's encoders start after the id of padding."""
    config = encoder.config
    return int(config.pad_token_id) + 1 if FAMILIES[config.model_type].positions_after_padding else 0


def _attend_segments(
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
    """Attention inside each segment, or over padded rows where there are no segments (in scoring).

    Tensors are (1, heads, tokens, width of a head), and the result is (1, tokens, heads, width). `sliding_window`, as
    transformers defines it, is one more than the distance a token may attend to on either side.
    """
    if segments is None:
        padded: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **options
        )
        return padded
    query_THW, key_THW, value_THW = (packed[0].transpose(0, 1) for packed in (query, key, value))
    reach = -1 if sliding_window is None else sliding_window - 1
    kernel = flash if query.is_cuda else segment_by_segment
    attended_THW = kernel(query_THW, key_THW, value_THW, segments, dropout=dropout, scaling=scaling, reach=reach)
    return attended_THW[None], None


def _attend_padded(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    segments: Segments,
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attention over the padded rows of the segments, without dropout or window. Shapes as in `_attend_segments`."""
    query_NHLD, key_NHLD, value_NHLD = (
        segments.padded(packed[0].transpose(0, 1)).transpose(1, 2) for packed in (query, key, value)
    )
    mask = None if segments.mask.all() else segments.mask[:, None, None, :].bool()
    attended_NHLD = functional.scaled_dot_product_attention(
        query_NHLD, key_NHLD, value_NHLD, attn_mask=mask, scale=scaling
    )
    return attended_NHLD.transpose(1, 2).flatten(0, 1)[segments.indices][None], None


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
    """PyTorch's FlashAttention over segments; a `reach` of -1 means no window.

    It calls the operator behind `torch.nn.attention.varlen.varlen_attn`, which lacks the dropout of attention weights that
    XLM-R and BERT are trained with.
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
    """The result of `flash`, one segment after the other, on any device and in any precision."""
    attended = []
    for first, last in itertools.pairwise(segments.boundaries.tolist()):
        query, key, value = (packed[first:last].transpose(0, 1) for packed in (query_THW, key_THW, value_THW))
        window = None
        if reach >= 0:
            position = torch.arange(last - first, device=query.device)
            window = (position[:, None] - position[None]).abs() <= reach
        part = functional.scaled_dot_product_attention(
            query, key, value, attn_mask=window, dropout_p=dropout, scale=scaling
        )
        attended.append(part.transpose(0, 1))
    return torch.cat(attended)


def _mask(*sizes: Any, attention_mask: Tensor | None = None, **options: Any) -> Tensor | None:
    """No mask over segments, whose attention needs none: its size would be the square of the number of tokens."""
    if attention_mask is None:
        return None
    mask: Tensor | None = sdpa_mask(*sizes, attention_mask=attention_mask, **options)
    return mask


for _name, _attend in ((TRAINING, _attend_segments), (SERVING, _attend_padded)):
    ALL_ATTENTION_FUNCTIONS.register(_name, _attend)
    ALL_MASK_ATTENTION_FUNCTIONS.register(_name, _mask)
