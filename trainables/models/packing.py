"""Packed batches: the rows of a batch form one long row without padding, which the host lays out.

All layers but attention work on each token by itself. Attention stays inside the segments that the rows were
(`varlen`). Position ids and token types are those of each token in its own row. Everything that depends on a count is made
here, on CPU tensors, before a batch goes to the device: there, no kernel launch waits for a number of tokens.

The total is a multiple of 256, so that kernels for matrix products see few distinct shapes. A last segment of padding
tokens fills it up. Its outputs are not read, so its gradients are zero.

Heads read padded states of shape (rows, length, width): one copy a batch, where each layer without padding saves a share of
every matrix product.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from trainables.models.families import FAMILIES

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MULTIPLE = 256
PREFIX = "segment_"


@dataclass(frozen=True)
class Numbering:
    """How an encoder numbers the tokens of a row.

    `first_position` is the position id of a row's first token: fairseq's encoders start after the id of padding. `separator`
    ends the first text where the second one is marked by token types; None where it is not.
    """

    pad_id: int
    first_position: int
    separator: int | None

    @classmethod
    def of(cls, encoder: PreTrainedModel) -> Numbering:
        """As the encoder's family and its configuration, into which `import_encoder` wrote its card, say."""
        config = encoder.config
        family, pad_id = FAMILIES[config.model_type], int(config.pad_token_id)
        return cls(pad_id, pad_id + 1 if family.positions_after_padding else 0, family.separator(config))

    def positions(self, mask_NL: Tensor) -> Tensor:
        """Position ids of padded rows; those of padding mean nothing."""
        return mask_NL.cumsum(1) - 1 + self.first_position

    def types(self, ids_NL: Tensor, mask_NL: Tensor) -> Tensor | None:
        """Token types of padded rows, None where the encoder marks no second text."""
        return None if self.separator is None else second_segment(ids_NL, mask_NL, self.separator)


def second_segment(ids_NL: Tensor, mask_NL: Tensor, separator: int) -> Tensor:
    """1 for all tokens after the first separator, as BERT's tokenizer marks them, else 0."""
    separators_NL = ids_NL == separator
    return ((separators_NL.cumsum(1) - separators_NL.long() > 0) & mask_NL.bool()).long()


@dataclass(frozen=True)
class Segments:
    """The rows of a batch in one, among the inputs of a model each under its name here with `segment_` before it.

    Attributes:
        boundaries: their ends with 0 first (int32), as FlashAttention's `cu_seqlens`.
        longest: tokens of the longest segment or more, a number that the host knows.
        places: of each real token in the flattened padded batch.
        positions, types: position ids and token types, (1, tokens); no types where the encoder marks none.
    """

    boundaries: Tensor
    longest: int
    places: Tensor
    positions: Tensor
    types: Tensor | None = None

    @classmethod
    def among(cls, inputs: Mapping[str, Any]) -> Segments | None:
        """The segments among the inputs of a model, None for a padded batch."""
        given = {name: inputs[key] for name in cls.__dataclass_fields__ if (key := PREFIX + name) in inputs}
        return cls(**given) if given else None

    @property
    def inputs(self) -> dict[str, Tensor]:
        """Arguments of an encoder besides its ids."""
        types = {} if self.types is None else {"token_type_ids": self.types}
        return {"position_ids": self.positions, **types}

    def padded(self, values_TX: Tensor, shape: torch.Size) -> Tensor:
        """(tokens, ...) to (rows, length, ...) for a padded `shape`, with zeros where there is no token."""
        flat = values_TX.new_zeros(shape.numel(), *values_TX.shape[1:])
        flat = flat.index_copy(0, self.places, values_TX[: len(self.places)])
        return flat.view(*shape, *values_TX.shape[1:])


def pack(inputs: Mapping[str, Any], numbering: Numbering, *, multiple: int = MULTIPLE) -> dict[str, Any]:
    """A padded micro-batch on the CPU as a packed one: `input_ids` of shape (1, tokens), and its segments.

    Everything else stays, the attention mask too, which heads read. Rows are padded on the right.
    """
    ids_NL, mask_NL = inputs["input_ids"], inputs["attention_mask"]
    places = mask_NL.flatten().nonzero().squeeze(1)
    filler = -len(places) % multiple
    lengths = functional.pad(mask_NL.sum(1), (0, 1), value=filler)

    def packed(values_NL: Tensor, value: int) -> Tensor:
        return functional.pad(values_NL.flatten()[places], (0, filler), value=value)[None]

    types_NL = numbering.types(ids_NL, mask_NL)
    segments = {
        "boundaries": functional.pad(lengths.cumsum(0), (1, 0)).to(torch.int32),
        "longest": int(lengths.max()),
        "places": places,
        "positions": packed(numbering.positions(mask_NL), numbering.first_position),
        **({} if types_NL is None else {"types": packed(types_NL, 0)}),
    }
    named = {PREFIX + name: value for name, value in segments.items()}
    return {**inputs, "input_ids": packed(ids_NL, numbering.pad_id), **named}
