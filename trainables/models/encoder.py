"""Encoders: the sizes of the study's own ladder, and loading encoders that stages have saved."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedTokenizerFast, XLMRobertaConfig

from trainables.heads.base import Pooling
from trainables.models.families import FAMILIES, Family
from trainables.models.packing import Segments, second_segment

if TYPE_CHECKING:  # importing transformers' modelling code takes two seconds, which reading a recipe need not pay
    from transformers import PreTrainedModel, XLMRobertaModel

POSITIONS = 512
CPU = torch.device("cpu")

transformers.utils.logging.disable_progress_bar()  # one bar a stage of each trial would hide the study's own progress


@dataclass(frozen=True)
class Shape:
    """A size of the ladder by depth and width; the feed-forward is four times the width, and heads are 32 wide."""

    layers: int
    width: int

    def __post_init__(self) -> None:
        if self.layers < 1 or self.width % 32:
            raise ValueError(f"shape {self.layers}x{self.width}: needs at least one layer and a width divisible by 32")

    def __str__(self) -> str:
        return f"{self.layers}x{self.width}"

    def config(self, vocabulary_size: int, pad_id: int) -> XLMRobertaConfig:
        """Without dropout: models of a few million parameters underfit, and launchers must agree on the loss."""
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

    def build(self, tokenizer: PreTrainedTokenizerFast, seed: int, *, device: torch.device = CPU) -> XLMRobertaModel:
        """An encoder on the CPU with random weights that depend only on the seed, for use on the device."""
        from transformers import XLMRobertaModel

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            config = self.config(len(tokenizer), tokenizer.pad_token_id)
            config._attn_implementation = FAMILIES[config.model_type].attention(device)
            return XLMRobertaModel(config, add_pooling_layer=False)


@dataclass(frozen=True)
class ParameterCount:
    """All parameters, and the body: those outside the embedding tables, which determine speed."""

    total: int
    body: int

    @property
    def embeddings(self) -> int:
        return self.total - self.body


def count_parameters(encoder: PreTrainedModel) -> ParameterCount:
    """Counts the parameters of an encoder.

    Embedding tables are those of which a token reads one row (tokens, positions, segments): the token table and the other
    tables in its module. Tied tables count once. mT5's relative biases and mDeBERTa's relative embeddings belong to the body:
    every layer, or every pair of tokens, computes with them.
    """
    total = sum(parameter.numel() for parameter in encoder.parameters())
    tokens = encoder.get_input_embeddings()
    owner = next(module for module in encoder.modules() if any(child is tokens for child in module.children()))
    tables = sum(child.weight.numel() for child in owner.children() if isinstance(child, nn.Embedding))
    return ParameterCount(total, total - tables)


def load_encoder(folder: Path, *, device: torch.device = CPU) -> PreTrainedModel:
    """An encoder saved by `save_pretrained` as safetensors, on the CPU, for use on the device. No code in the folder is run."""
    family = FAMILIES[AutoConfig.from_pretrained(folder, trust_remote_code=False).model_type]
    encoder: PreTrainedModel = family.model_class.from_pretrained(
        folder,
        use_safetensors=True,
        dtype=torch.float32,
        attn_implementation=family.attention(device),
        **family.options,
    )
    return _with_segments(encoder, family)


def encoder_on_meta(folder: Path, *, device: torch.device = CPU) -> PreTrainedModel:
    """The encoder of `load_encoder` with its parameters on the meta device: shapes without memory."""
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    family = FAMILIES[config.model_type]
    config._attn_implementation = family.attention(device)
    with _parameters_on_meta():
        encoder: PreTrainedModel = family.model_class(config, **family.options)
    return _with_segments(encoder, family)


def _with_segments(encoder: PreTrainedModel, family: Family) -> PreTrainedModel:
    """The encoder, which marks the second segment of its rows from now on, if it has one (`Family.separator`)."""
    if family.separator(encoder.config) is not None:
        encoder.register_forward_pre_hook(_mark_second_segment, with_kwargs=True)
    return encoder


def _mark_second_segment(
    encoder: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """Adds `token_type_ids` as BERT's tokenizer does; a packed batch has them already."""
    if "token_type_ids" in kwargs:
        return None
    types_NL = second_segment(kwargs["input_ids"], kwargs["attention_mask"], encoder.config.sep_token_id)
    return args, {**kwargs, "token_type_ids": types_NL}


def hidden_states(
    encoder: PreTrainedModel,
    input_ids: Tensor,
    attention_mask: Tensor,
    others: Mapping[str, Any] | None = None,
    *,
    layer: int | None = None,
) -> Tensor:
    """The states that heads read, (rows, length, width), of a padded batch, or of a packed one (`packing.pack`).

    A packed batch has ids of shape (1, tokens), and its segments among the `others` of a model's inputs. `layer` counts hidden
    layers from 1; 0 is the embeddings, None the encoder's output. States of padding mean nothing.
    """
    segments = None if others is None else Segments.among(others)
    if segments is None:
        how: dict[str, Any] = {"attention_mask": attention_mask}
    else:
        how = {**segments.inputs, "segments": segments}
    output = encoder(input_ids=input_ids, output_hidden_states=layer is not None, **how)
    hidden: Tensor = output.last_hidden_state if layer is None else output.hidden_states[layer]
    return hidden if segments is None else segments.padded(hidden[0], attention_mask.shape)


def is_on_meta(model: nn.Module) -> bool:
    """Whether some weights have not been read yet."""
    return any(parameter.is_meta for parameter in model.parameters())


def pooling_of(encoder: PreTrainedModel) -> Pooling:
    """How a row becomes a vector: as `import_encoder` wrote in the configuration, else the mean.

    The ladder's ranking objective uses the mean.
    """
    pooling: Pooling = getattr(encoder.config, "pooling", "mean")
    return pooling


def checkpoint_activations(model: nn.Module) -> None:
    """Keep only the inputs of layers for the backward pass, which recomputes the layers."""
    encoder_of(model).activation_checkpointing_enable({"use_reentrant": False})


def compile_layers(model: nn.Module) -> None:
    """Compile each layer of the encoder separately: one graph for each kind of layer.

    Numbers of rows and tokens are symbols in it, so that it serves packed and padded batches of any size.
    """
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
    """Modules built in the block have parameters on the meta device.

    Their buffers are real: no file holds them, so nothing could fill them later, as `torch.device("meta")` would require.
    """
    register = nn.Module.register_parameter

    def register_on_meta(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        if parameter is not None and not parameter.is_meta:
            parameter = nn.Parameter(parameter.to("meta"), requires_grad=parameter.requires_grad)
        register(module, name, parameter)

    nn.Module.register_parameter = register_on_meta  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """A tokenizer saved by `save_pretrained`."""
    tokenizer: PreTrainedTokenizerFast = PreTrainedTokenizerFast.from_pretrained(folder)
    return tokenizer
