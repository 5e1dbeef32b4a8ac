"""Every estimator by name. A new one is a subclass of `Estimate` in a file of its own, and an entry here."""

from __future__ import annotations

from trainables.estimators.base import Estimate
from trainables.estimators.embedding_map import EmbeddingMap
from trainables.estimators.logme import LogME
from trainables.estimators.probe import LinearProbe
from trainables.estimators.text_similarity import TextSimilarity

ESTIMATORS: dict[str, type[Estimate]] = {cls.name: cls for cls in (LogME, LinearProbe, EmbeddingMap, TextSimilarity)}
