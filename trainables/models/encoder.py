"""Encoders: rungs of the study's own ladder, and loading any encoder that a stage has saved."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from torch import nn
from transformers import AutoConfig, PreTrainedTokenizerFast, XLMRobertaConfig

from trainables.heads.base import Pooling
from trainables.models.families import FAMILIES, Family

if TYPE_CHECKING:  # transformers' modelling code is two seconds that reading a recipe does without
    from transformers import PreTrainedModel, XLMRobertaModel

POSITIONS = 512

transformers.utils.logging.disable_progress_bar()  # one bar for each stage of each trial would bury the study's own progress


@dataclass(frozen=True)
class Shape:
    """One rung: depth, width, and the usual feed-forward of four times the width and heads of 32."""

    layers: int
    width: int

    def __post_init__(self) -> None:
        if self.layers < 1 or self.width % 32:
            raise ValueError(f"shape {self.layers}x{self.width}: at least one layer, and a width that 32 divides")

    def __str__(self) -> str:
        return f"{self.layers}x{self.width}"

    def config(self, vocabulary_size: int, pad_id: int) -> XLMRobertaConfig:
        """No dropout: rungs of a few million parameters underfit, and launchers must agree on the loss."""
        return XLMRobertaConfig(
            vocab_size=vocabulary_size,
            hidden_size=self.width,
            num_hidden_layers=self.layers,
            num_attention_heads=self.width // 32,
            intermediate_size=4 * self.width,
            max_position_embeddings=POSITIONS + pad_id + 1,
            type_vocab_size=1,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            pad_token_id=pad_id,
            bos_token_id=0,
            eos_token_id=2,
        )

    def build(self, tokenizer: PreTrainedTokenizerFast, seed: int) -> XLMRobertaModel:
        """The rung with random weights that depend on the seed alone."""
        from transformers import XLMRobertaModel

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            config = self.config(len(tokenizer), tokenizer.pad_token_id)
            config._attn_implementation = FAMILIES[config.model_type].attention
            return XLMRobertaModel(config, add_pooling_layer=False)


@dataclass(frozen=True)
class ParameterCount:
    """Parameters in all, and without the embedding tables (the body, which decides speed)."""

    total: int
    body: int

    @property
    def embeddings(self) -> int:
        return self.total - self.body


def count_parameters(encoder: PreTrainedModel) -> ParameterCount:
    """Counts of an encoder's body.

    Its embedding tables are those of tokens, positions and segments, of which a token reads one row: the token table and the
    tables beside it in the same module. Tied tables count once. mT5's relative biases and mDeBERTa's relative embeddings are
    body: every layer, or every pair of tokens, computes with them.
    """
    total = sum(parameter.numel() for parameter in encoder.parameters())
    tokens = encoder.get_input_embeddings()
    holder = next(module for module in encoder.modules() if any(child is tokens for child in module.children()))
    tables = sum(child.weight.numel() for child in holder.children() if isinstance(child, nn.Embedding))
    return ParameterCount(total, total - tables)


def load_encoder(folder: Path) -> PreTrainedModel:
    """An encoder saved with `save_pretrained` as safetensors; no code from the folder is run."""
    family = FAMILIES[AutoConfig.from_pretrained(folder, trust_remote_code=False).model_type]
    encoder: PreTrainedModel = family.model_class.from_pretrained(
        folder, use_safetensors=True, dtype=torch.float32, attn_implementation=family.attention, **family.options
    )
    return _marking(encoder, family)


def outline_encoder(folder: Path) -> PreTrainedModel:
    """The encoder that `load_encoder` would give, with parameters that have a shape and no memory."""
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    family = FAMILIES[config.model_type]
    config._attn_implementation = family.attention
    with _parameters_on_meta():
        encoder: PreTrainedModel = family.model_class(config, **family.options)
    return _marking(encoder, family)


def _marking(encoder: PreTrainedModel, family: Family) -> PreTrainedModel:
    """The encoder, which from now on tells the second segment of its rows from the first where its family has two."""
    if family.second_segment:
        encoder.register_forward_pre_hook(_mark_second_segment, with_kwargs=True)
    return encoder


def _mark_second_segment(
    encoder: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """`token_type_ids` as BERT's tokenizer gives them: 1 for what is behind the first separator, the second one too."""
    ends_NL = kwargs["input_ids"] == encoder.config.sep_token_id
    behind_NL = (ends_NL.cumsum(1) - ends_NL.long() > 0) & kwargs["attention_mask"].bool()
    return args, {**kwargs, "token_type_ids": behind_NL.long()}


def is_outline(model: nn.Module) -> bool:
    """Whether some weights are still to be read."""
    return any(parameter.is_meta for parameter in model.parameters())


def pooling_of(encoder: PreTrainedModel) -> Pooling:
    """How a row becomes a vector: as noted in the configuration of an imported encoder; the mean in the study's own ladder,
    whose ranking objective pooled so."""
    pooling: Pooling = getattr(encoder.config, "pooling", "mean")
    return pooling


def checkpoint_activations(model: nn.Module) -> None:
    """Keep only the layers' inputs for the backward pass, which computes each layer once more."""
    encoder_of(model).activation_checkpointing_enable({"use_reentrant": False})


def compile_layers(model: nn.Module) -> None:
    """Each of the encoder's layers by itself, for batches of any length: as few graphs as there are kinds of layers."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    for module in encoder_of(model).modules():
        if isinstance(module, GradientCheckpointingLayer):
            module.compile(dynamic=True)


def encoder_of(model: nn.Module) -> PreTrainedModel:
    """The encoder inside a model with heads."""
    from transformers import PreTrainedModel

    return next(module for module in model.modules() if isinstance(module, PreTrainedModel))


@contextlib.contextmanager
def _parameters_on_meta() -> Iterator[None]:
    """Modules made meanwhile have parameters without memory. Buffers are real: no file holds them, so that nothing could fill
    them later, as it would have to be under `torch.device("meta")`."""
    register = nn.Module.register_parameter

    def outlined(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        if parameter is not None and not parameter.is_meta:
            parameter = nn.Parameter(parameter.to("meta"), requires_grad=parameter.requires_grad)
        register(module, name, parameter)

    nn.Module.register_parameter = outlined  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """The tokenizer saved beside an encoder."""
    tokenizer: PreTrainedTokenizerFast = PreTrainedTokenizerFast.from_pretrained(folder)
    return tokenizer
