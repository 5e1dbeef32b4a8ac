"""The head kinds by name."""

from __future__ import annotations

from typing import Any

from trainables.kinds.base import Feature, Head, Kind, Outputs
from trainables.kinds.bitext import BitextMining, BitextRetrieval
from trainables.kinds.classification import PairClassification
from trainables.kinds.dual_encoder import DualEncoder
from trainables.kinds.masked_lm import MaskedLanguageModelling
from trainables.kinds.multiple_choice import MultipleChoice
from trainables.kinds.span import SpanExtraction
from trainables.kinds.tagging import Tagging

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
