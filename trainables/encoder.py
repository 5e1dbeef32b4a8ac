"""Encoders: rungs of the study's own ladder, and loading any saved `AutoModel` body."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from torch import nn
from transformers import AutoModel, PreTrainedModel, PreTrainedTokenizerFast, XLMRobertaConfig, XLMRobertaModel

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
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            config = self.config(len(tokenizer), tokenizer.pad_token_id)
            config._attn_implementation = attention_implementation()
            return XLMRobertaModel(config, add_pooling_layer=False)


@dataclass(frozen=True)
class ParameterCount:
    """Parameters in all, and without the embedding tables (the body, which decides speed)."""

    total: int
    body: int


def attention_implementation() -> str:
    """Fused attention on GPUs, plain on CPUs, where the backward pass of PyTorch's fused kernel took half of a whole step."""
    return "sdpa" if torch.cuda.is_available() else "eager"


def count_parameters(encoder: nn.Module) -> ParameterCount:
    """Counts of an `AutoModel` body; embedding tables are its `nn.Embedding` weights."""
    total = sum(parameter.numel() for parameter in encoder.parameters())
    tables = sum(module.weight.numel() for module in encoder.modules() if isinstance(module, nn.Embedding))
    return ParameterCount(total, total - tables)


def load_encoder(folder: Path) -> PreTrainedModel:
    """An encoder saved with `save_pretrained` as safetensors; no code from the folder is run."""
    encoder: PreTrainedModel = AutoModel.from_pretrained(
        folder,
        trust_remote_code=False,
        use_safetensors=True,
        add_pooling_layer=False,
        dtype=torch.float32,
        attn_implementation=attention_implementation(),
    )
    return encoder


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """The tokenizer saved beside an encoder."""
    tokenizer: PreTrainedTokenizerFast = PreTrainedTokenizerFast.from_pretrained(folder)
    return tokenizer
