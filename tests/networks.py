"""Small networks with random weights, and features to train them on."""

from __future__ import annotations

import random
from pathlib import Path

from transformers import PreTrainedModel, XLMRobertaConfig, XLMRobertaModel

from trainables.features import write_features
from trainables.kinds import Feature
from trainables.kinds.classification import ClassificationHead
from trainables.model import TaskModel

ROWS, PAD, WIDTH = 1000, 1, 32


def random_features(path: Path) -> Path:
    """64 sentences of 200 ids from all over the table."""
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


def classifier(encoder: PreTrainedModel) -> TaskModel:
    return TaskModel(encoder, ClassificationHead(WIDTH, 3, "mean"))
