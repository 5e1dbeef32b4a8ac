"""Small checkpoints with random weights under a data root, as `save_pretrained` writes them."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from tests.support import recipes
from tests.support.networks import ROWS, small_encoder
from trainables.models.vocabulary import train_vocabulary

NO_TOKEN_TYPES = {"model_input_names": ["input_ids", "attention_mask"]}  # as XLM-R's tokenizer has them
# sentence-transformers' list of modules, and its pooling in the older form
MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
]


@lru_cache(maxsize=1)
def small_tokenizer() -> PreTrainedTokenizerFast:
    """Of the tiny study's corpus; its ids fit the tables of `networks.small_encoder`."""
    corpus = recipes.tiny().corpus
    assert corpus is not None
    tokenizer = train_vocabulary((text for sentence in corpus.parallel() for text in sentence.values()), 400)
    assert len(tokenizer) <= ROWS
    return tokenizer


def save_checkpoint(
    root: Path,
    repository: str,
    family: str,
    *,
    layers: int = 2,
    tokenizer_settings: dict[str, Any] | None = None,
    pooling: dict[str, Any] | None = None,
    card: dict[str, Any] | None = None,
) -> PreTrainedModel:
    """Write `encoders/<repository>`, and return its encoder without dropout.

    `tokenizer_settings` are added to its tokenizer's, `pooling` makes it a checkpoint of sentence-transformers, and `card` is
    its `card.json`.
    """
    folder = root / "encoders" / repository
    torch.manual_seed(0)
    encoder = small_encoder(family, layers=layers, dropout=0.0).eval()
    for parameter in encoder.parameters():  # as initialised, layers change their inputs by less than tests could see
        torch.nn.init.normal_(parameter, std=0.3)
    encoder.save_pretrained(folder)
    small_tokenizer().save_pretrained(folder)
    settings = folder / "tokenizer_config.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), **(tokenizer_settings or {})}))
    if pooling is not None:
        (folder / "modules.json").write_text(json.dumps(MODULES))
        (folder / "1_Pooling").mkdir()
        (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    if card is not None:
        (folder / "card.json").write_text(json.dumps(card))
    return encoder
