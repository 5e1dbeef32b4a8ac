"""The head kinds by name."""

from __future__ import annotations

from typing import Any

from trainables.heads.base import Feature, Head, Kind, Outputs
from trainables.heads.bitext import BitextMining, BitextRetrieval
from trainables.heads.classification import PairClassification
from trainables.heads.dual_encoder import DualEncoder
from trainables.heads.masked_lm import MaskedLanguageModelling
from trainables.heads.multiple_choice import MultipleChoice
from trainables.heads.span import SpanExtraction
from trainables.heads.tagging import Tagging

KINDS: dict[str, Kind[Any]] = {
    kind.name: kind
    for kind in (
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

__all__ = ["KINDS", "Feature", "Head", "Kind", "Outputs"]
