"""Constants that `analysis` copies, because it must not import `trainables` (`tests/test_layers.py`)."""

from __future__ import annotations

from analysis.store import names
from trainables.benchmark import flips
from trainables.heads import span


def test_copies_are_equal() -> None:
    assert names.FLIPS_BATCH == flips.BATCH
    assert names.FLIPS_CANDIDATES == flips.EXAMPLES
    assert names.MAX_ANSWER_TOKENS == span.MAX_ANSWER_TOKENS
