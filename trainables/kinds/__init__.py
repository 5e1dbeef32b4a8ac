"""The head kinds by name."""

from __future__ import annotations

from typing import Any

from trainables.kinds.base import Feature, Head, Kind
from trainables.kinds.bitext import BitextRetrieval
from trainables.kinds.classification import PairClassification
from trainables.kinds.multiple_choice import MultipleChoice
from trainables.kinds.span import SpanExtraction
from trainables.kinds.tagging import Tagging

KINDS: dict[str, Kind[Any]] = {
    kind.name: kind for kind in (PairClassification(), MultipleChoice(), Tagging(), SpanExtraction(), BitextRetrieval())
}

__all__ = ["KINDS", "Feature", "Head", "Kind"]
