"""Heads by name: how a task's examples become model inputs, which module reads the encoder, how outputs become predictions."""

from __future__ import annotations

from typing import Any

from trainables.heads.base import Feature, Head, HeadModule, Outputs
from trainables.heads.bitext import BitextMining, BitextRetrieval
from trainables.heads.classification import PairClassification
from trainables.heads.dual_encoder import DualEncoder
from trainables.heads.masked_lm import MaskedLanguageModelling
from trainables.heads.multiple_choice import MultipleChoice
from trainables.heads.span import SpanExtraction
from trainables.heads.tagging import Tagging

HEADS: dict[str, Head[Any]] = {
    head.name: head
    for head in (
        PairClassification(),
        MultipleChoice(),
        Tagging(),
        SpanExtraction(),
        BitextRetrieval(),
        BitextMining(),
        DualEncoder(),
        MaskedLanguageModelling(),
    )
}

__all__ = ["HEADS", "Feature", "Head", "HeadModule", "Outputs"]
