"""What a stage's manifest says of the time that it took."""

from __future__ import annotations

from typing import Any

import pytest

from trainables.store.manifests import seconds_of


@pytest.mark.parametrize(
    ("metrics", "seconds"),
    [
        ({}, 60.0),
        ({"steps_done": 40}, 60.0),  # stopped early
        ({"resumed_at": 30, "steps_done": 40}, 240.0),
        ({"resumed_at": 40, "steps_done": 40}, 60.0),  # nothing was left but to save the model
        ({"resumed_at": 30}, 60.0),  # of an earlier version
    ],
)
def test_a_resumed_training_took_longer_than_its_last_attempt(metrics: dict[str, Any], seconds: float) -> None:
    assert seconds_of({"context": {"seconds": 60.0}, "metrics": metrics}) == pytest.approx(seconds)
    assert seconds_of({"metrics": metrics}) == 0.0
