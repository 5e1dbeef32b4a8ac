"""Fixtures for tests of studies."""

from __future__ import annotations

import pytest

from trainables.data.source import DATA_ROOT_VARIABLE


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """No data root, and a hub that does not answer."""
    monkeypatch.delenv(DATA_ROOT_VARIABLE, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
