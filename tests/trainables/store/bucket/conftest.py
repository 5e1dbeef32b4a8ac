"""Object stores of every protocol, for the tests of what must hold in each of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.azure_server import served_azure
from tests.support.gcs_server import served_google
from tests.support.object_http import ObjectServer


@pytest.fixture(scope="session")
def one_google_server() -> Iterator[ObjectServer]:
    with served_google() as server:
        yield server


@pytest.fixture(scope="session")
def one_azure_server() -> Iterator[ObjectServer]:
    with served_azure() as server:
        yield server


@pytest.fixture(params=["one_object_server", "one_google_server", "one_azure_server"], ids=["s3", "gs", "az"])
def cloud(request: pytest.FixtureRequest) -> ObjectServer:
    """A store on loopback without faults, and the environment to reach it: each protocol in turn."""
    server: ObjectServer = request.getfixturevalue(request.param)
    server.reset()
    return server
