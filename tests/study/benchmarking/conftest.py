"""Fixtures of the benchmark's tests."""

from __future__ import annotations

import pytest

from tests.support import measurements


@pytest.fixture
def replace_actor(monkeypatch: pytest.MonkeyPatch) -> measurements.ReplaceActor:
    """Replaces the actor that measures; see `measurements.replace_actor`."""
    return measurements.replace_actor(monkeypatch)
