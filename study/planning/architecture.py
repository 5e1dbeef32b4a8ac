"""A size's encoder as the estimates see it, read from its configuration alone: no weights are loaded."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from transformers import PreTrainedConfig

from study.spec import LadderEncoder, PublishedEncoder, Size, Study
from trainables.models.catalogue import config_of
from trainables.models.encoder import ParameterCount, count_parameters
from trainables.models.families import FAMILIES

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PAD_ID = 1  # in the study's own vocabularies


@dataclass(frozen=True)
class Architecture:
    """Dimensions of an encoder. `largest` is the most parameters that a single module holds itself.

    `fused_attention` and `attention_bias` are those of its family.
    """

    count: ParameterCount
    largest: int
    layers: int
    width: int
    attention_width: int
    heads: int
    fused_attention: bool
    vocabulary: int
    attention_bias: bool = False


class UnknownArchitecture(ValueError):
    """An encoder outside the catalogue whose files are not available."""


def architecture_of(study: Study, size: Size) -> Architecture:
    """The architecture of the size's encoder.

    Raises:
        UnknownArchitecture: a published encoder in neither the catalogue nor the data root.
    """
    return _architecture(size.encoder, study.vocabulary_size)


def parameters(study: Study, size: Size) -> ParameterCount:
    """Parameter counts of the size's encoder.

    Raises:
        UnknownArchitecture: as in `architecture_of`.
    """
    return architecture_of(study, size).count


@lru_cache(maxsize=64)
def outline(encoder: LadderEncoder | PublishedEncoder, vocabulary_size: int | None) -> Architecture:
    """As `architecture_of`, with the weights of matrices alone counted and no model built: for estimates during a run.

    Raises:
        UnknownArchitecture: as in `architecture_of`.
    """
    config = _config(encoder, vocabulary_size)
    head_width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    attention_width = config.num_attention_heads * head_width
    inner = (getattr(config, name, None) for name in ("intermediate_size", "d_ff", "hidden_dim"))
    feed_forward = next(filter(None, inner), 4 * config.hidden_size)
    body = config.num_hidden_layers * config.hidden_size * (4 * attention_width + 2 * feed_forward)
    return Architecture(
        count=ParameterCount(body + config.vocab_size * config.hidden_size, body),
        largest=0,
        layers=config.num_hidden_layers,
        width=config.hidden_size,
        attention_width=attention_width,
        heads=config.num_attention_heads,
        fused_attention=False,
        vocabulary=config.vocab_size,
    )


@lru_cache(maxsize=64)
def _architecture(size_encoder: LadderEncoder | PublishedEncoder, vocabulary_size: int | None) -> Architecture:
    config = _config(size_encoder, vocabulary_size)
    family = FAMILIES[config.model_type]
    with torch.device("meta"):
        encoder: PreTrainedModel = family.model_class(config, **family.options)
    head_width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return Architecture(
        count=count_parameters(encoder),
        largest=max(sum(own.numel() for own in module.parameters(recurse=False)) for module in encoder.modules()),
        layers=config.num_hidden_layers,
        width=config.hidden_size,
        attention_width=config.num_attention_heads * head_width,
        heads=config.num_attention_heads,
        fused_attention=family.fused_attention,
        vocabulary=config.vocab_size,
        attention_bias=family.attention_bias,
    )


def _config(encoder: LadderEncoder | PublishedEncoder, vocabulary_size: int | None) -> PreTrainedConfig:
    if isinstance(encoder, LadderEncoder):
        assert vocabulary_size is not None  # validated for every ladder
        return encoder.shape.config(vocabulary_size, PAD_ID)
    config = config_of(encoder)
    if config is None:
        raise UnknownArchitecture(
            f"{encoder.repository} is not in the catalogue: its size is known only with its files under --data-root"
        )
    return config
