"""Small networks with random weights, and random features to train them on."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedModel, XLMRobertaConfig, XLMRobertaModel

from trainables.heads import Feature
from trainables.heads.classification import ClassificationModule
from trainables.heads.features import write_features
from trainables.models.families import FAMILIES
from trainables.models.task_model import TaskModel

ROWS, PAD, WIDTH = 1000, 1, 32


def random_features(path: Path) -> Path:
    """64 sentences over 200 ids from the whole table."""
    rng = random.Random(0)
    ids = rng.sample(range(5, ROWS), 200)
    rows = [(0, *rng.choices(ids, k=rng.randint(3, 14)), 2) for _ in range(64)]
    write_features(path, [("train/en", [Feature(at, (row,), (rng.randrange(3),)) for at, row in enumerate(rows)])])
    return path


def roberta(dropout: float = 0.1) -> XLMRobertaModel:
    config = XLMRobertaConfig(
        vocab_size=ROWS,
        hidden_size=WIDTH,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=40,
        type_vocab_size=1,
        pad_token_id=PAD,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        attn_implementation="eager",
    )
    return XLMRobertaModel(config, add_pooling_layer=False)


def wide_roberta() -> XLMRobertaModel:
    """One layer with XLM-R large's width and heads, a quarter of its feed-forward width, and a small vocabulary."""
    config = XLMRobertaConfig(
        vocab_size=ROWS,
        hidden_size=1024,
        num_hidden_layers=1,
        num_attention_heads=16,
        intermediate_size=1024,
        max_position_embeddings=40,
        type_vocab_size=1,
        pad_token_id=PAD,
        attn_implementation="eager",
    )
    return XLMRobertaModel(config, add_pooling_layer=False)


def small_encoder(family: str, *, layers: int = 1, dropout: float = 0.1) -> PreTrainedModel:
    """A small encoder of a family; in two of three layers of mmBERT, tokens attend to 4 others on either side."""
    shape: dict[str, Any] = {
        "hidden_size": WIDTH,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
        "intermediate_size": 64,
    }
    usual = {**shape, "max_position_embeddings": 40}
    usual |= {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    own: dict[str, dict[str, Any]] = {
        "mt5": {
            "d_model": WIDTH,
            "d_kv": 16,
            "d_ff": 64,
            "num_layers": layers,
            "num_heads": 2,
            "dropout_rate": dropout,
        },
        "modernbert": {
            **{**shape, "local_attention": 8, "embedding_dropout": dropout, "mlp_dropout": dropout},
            **{"bos_token_id": 0, "cls_token_id": 0, "eos_token_id": 2, "sep_token_id": 2},
        },
        "distilbert": {
            **{"dim": WIDTH, "n_layers": layers, "n_heads": 2, "hidden_dim": 64},
            **{"max_position_embeddings": 40, "dropout": dropout, "attention_dropout": dropout},
        },
        "deberta-v2": {**usual, "relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_buckets": 8},
    }
    config = AutoConfig.for_model(family, vocab_size=ROWS, pad_token_id=PAD, **own.get(family, usual))
    known = FAMILIES[family]
    config._attn_implementation = known.attention(torch.device("cpu"))
    return known.model_class(config, **known.options)


def classifier(encoder: PreTrainedModel) -> TaskModel:
    return TaskModel(encoder, ClassificationModule(encoder.config.hidden_size, 3, "mean"))


def embedding_of(model: nn.Module) -> nn.Embedding:
    """The word embeddings of a model's encoder."""
    table: nn.Embedding = model.get_submodule("encoder").get_input_embeddings()  # type: ignore[operator]
    return table


class WordScores(nn.Module):
    """Learns to predict the word at the first position, with scores over the whole vocabulary."""

    def __init__(self, encoder: PreTrainedModel, *, tied: bool) -> None:
        super().__init__()
        self.encoder, self.out = encoder, nn.Linear(WIDTH, ROWS, bias=False)
        if tied:
            self.out.weight = encoder.get_input_embeddings().weight

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor) -> Tensor:
        hidden_NLD = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return nn.functional.cross_entropy(self.out(hidden_NLD[:, 0]), input_ids[:, 1], reduction="sum")
