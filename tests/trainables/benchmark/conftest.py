"""Fixtures of the benchmark's tests."""

from __future__ import annotations

import pytest

from tests.support.serving import tiny_model
from trainables.models.task_model import TaskModel


@pytest.fixture
def model() -> TaskModel:
    return tiny_model()
