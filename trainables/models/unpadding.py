"""Encoders on the real tokens of a batch, in training and in serving.

In training the host packs each batch (`packing`), and attention reads the boundaries of its segments (`varlen`). Loss and
gradients equal those of the padded batch up to rounding; dropout draws different random numbers, as it does for another
number of workers. Scoring in between stays padded. It is for GPUs, none of which has run it yet
(`Resources.unpad` is off by default): on CPUs padded batches are faster.

In serving, hooks remove the padding on the device. Attention then reads the boundaries of rows too, or it pads its inputs and
uses PyTorch's fused attention, in any precision and on any device.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from trainables.models import varlen
from trainables.models.families import FAMILIES
from trainables.models.packing import Numbering, Segments

TRAINING, SERVING = "segments", "padding_free"  # names of the attention functions in transformers' registers


def unpad_training(encoder: PreTrainedModel, device: torch.device) -> None:
    """Let the encoder take packed batches; on padded ones it computes what it did.

    On GPUs this needs bf16 and an Ampere card or newer. On CPUs attention goes segment by segment, for tests and not for speed.

    Args:
        device: that will train. The attention kernel is tested there first.

    Raises:
        ValueError: its attention needs padding.
        KernelUnusable: the device's attention kernel is missing or wrong.
    """
    _set_attention(encoder, TRAINING)
    config = encoder.config
    width = config.hidden_size // config.num_attention_heads
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    varlen.check(device, dtype, width=width)


def unpad_serving(encoder: PreTrainedModel, *, over_segments: bool = False) -> None:
    """Let the encoder compute only real tokens; its inputs and outputs stay as they are.

    Args:
        over_segments: attention does so too, by the kernel of training, whose devices and precisions are the same; test it
            before (`varlen.check`). Otherwise attention computes padded rows.

    Raises:
        ValueError: its attention needs padding.
    """
    _set_attention(encoder, TRAINING if over_segments else SERVING)
    encoder.register_forward_pre_hook(_flatten, with_kwargs=True)
    encoder.register_forward_hook(_restore, with_kwargs=True)


def _set_attention(encoder: PreTrainedModel, attention: str) -> None:
    family = encoder.config.model_type
    if (reason := FAMILIES[family].needs_padding) is not None:
        raise ValueError(f"unpad: {family} cannot be computed without padding, as {reason}; leave it off")
    encoder.set_attn_implementation(attention)


def _flatten(encoder: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Packs the rows of a batch on the device, which waits for their number of tokens."""
    mask_NL: Tensor = kwargs["attention_mask"]
    places = mask_NL.flatten().nonzero().squeeze(1)

    def flat(values_NL: Tensor) -> Tensor:
        return values_NL.flatten()[places][None]

    types_NL = kwargs.get("token_type_ids")
    segments = Segments(
        boundaries=functional.pad(mask_NL.sum(1).cumsum(0), (1, 0)).to(torch.int32),
        longest=mask_NL.shape[1],
        places=places,
        positions=flat(Numbering.of(encoder).positions(mask_NL)),
        types=None if types_NL is None else flat(types_NL),
    )
    inputs = {**kwargs, "input_ids": flat(kwargs["input_ids"]), **segments.inputs}
    return args, {**inputs, "attention_mask": None, "segments": segments, "padded_mask": mask_NL}


def _restore(encoder: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
    segments, shape = kwargs["segments"], kwargs["padded_mask"].shape
    output.last_hidden_state = segments.padded(output.last_hidden_state[0], shape)
    if output.get("hidden_states") is not None:
        output.hidden_states = tuple(segments.padded(hidden[0], shape) for hidden in output.hidden_states)
    return output


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
    attended_THW = varlen.attend(
        *(query_THW, key_THW, value_THW, segments.boundaries, segments.longest),
        dropout=dropout,
        scaling=scaling,
        reach=-1 if sliding_window is None else sliding_window - 1,
    )
    return attended_THW[None], None


def _attend_padded(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    segments: Segments,
    padded_mask: Tensor,
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attention over the padded rows of the segments, without dropout or window. Shapes as in `_attend_segments`."""
    query_NHLD, key_NHLD, value_NHLD = (
        segments.padded(packed[0].transpose(0, 1), padded_mask.shape).transpose(1, 2) for packed in (query, key, value)
    )
    mask = None if padded_mask.all() else padded_mask[:, None, None, :].bool()
    attended_NHLD = functional.scaled_dot_product_attention(
        query_NHLD, key_NHLD, value_NHLD, attn_mask=mask, scale=scaling
    )
    return attended_NHLD.transpose(1, 2).flatten(0, 1)[segments.places][None], None


def _mask(*sizes: Any, attention_mask: Tensor | None = None, **options: Any) -> Tensor | None:
    """No mask over segments, whose attention needs none: its size would be the square of the number of tokens."""
    if attention_mask is None:
        return None
    mask: Tensor | None = sdpa_mask(*sizes, attention_mask=attention_mask, **options)
    return mask


for _name, _attend in ((TRAINING, _attend_segments), (SERVING, _attend_padded)):
    ALL_ATTENTION_FUNCTIONS.register(_name, _attend)
    ALL_MASK_ATTENTION_FUNCTIONS.register(_name, _mask)
