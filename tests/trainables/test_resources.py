"""Resources of a size, and the worker counts it may fall back to."""

from __future__ import annotations

import pytest

from trainables.resources import Resources


def test_fewer_workers_are_halves_that_keep_the_batch() -> None:
    assert Resources(workers=8, fewest_workers=2).worker_counts == (8, 4, 2)
    assert Resources(workers=6, fewest_workers=2).worker_counts == (6, 3)
    assert Resources(workers=8).worker_counts == (8,)
    with pytest.raises(ValueError, match="fewest_workers 9"):
        Resources(workers=8, fewest_workers=9)
