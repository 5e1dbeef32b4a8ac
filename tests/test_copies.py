"""Constants that `analysis` copies, because it must not import `trainables` (`tests/test_layers.py`)."""

from __future__ import annotations

from analysis.store import examples as bootstrapped
from analysis.store import frames, names
from analysis.tables.cascades import prediction
from analysis.tables.selection.candidates import LABEL_FREE
from trainables.benchmark import flips
from trainables.benchmark.subjects import cascade
from trainables.heads import span
from trainables.stages.chain import SCORE_PREFIXES
from trainables.store import examples


def test_copies_are_equal() -> None:
    assert names.FLIPS_BATCH == flips.BATCH
    assert names.FLIPS_CANDIDATES == flips.EXAMPLES
    assert names.MAX_ANSWER_TOKENS == span.MAX_ANSWER_TOKENS
    assert bootstrapped.CONFIDENCE == examples.CONFIDENCE
    assert prediction.SMALL == cascade.SMALL
    assert set(LABEL_FREE.values()) < set(frames.DIAGNOSTIC_SIGNALS) < set(SCORE_PREFIXES)
