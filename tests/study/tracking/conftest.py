"""An MLflow server that misbehaves as a test asks for."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.mlflow_stub import Stub, stub_server


@pytest.fixture
def stub() -> Iterator[Stub]:
    with stub_server() as stub:
        yield stub
