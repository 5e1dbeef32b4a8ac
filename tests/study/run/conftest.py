"""A study whose output is in a bucket, as its driver sees it and as another machine does."""

from __future__ import annotations

from pathlib import Path

import pytest

from study.run.bucket import driving
from tests.support.object_server import ObjectServer
from trainables.store.bucket.client import ObjectStore, object_store
from trainables.store.bucket.location import WORK_VARIABLE, work_folder


@pytest.fixture
def delay_s() -> float:
    """How long a driver waits between two shipments."""
    return 0.05


@pytest.fixture
def url(object_server: ObjectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, delay_s: float) -> str:
    """The study's bucket; work folders are the driver's."""
    monkeypatch.setenv(WORK_VARIABLE, str(tmp_path / "head"))
    monkeypatch.setattr(driving, "DELAY_S", delay_s)
    return object_server.new_url()


@pytest.fixture
def output(url: str) -> Path:
    """The driver's work folder."""
    return _created(work_folder(url))


@pytest.fixture
def there(url: str, tmp_path: Path) -> Path:
    """The study's work folder on another machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(WORK_VARIABLE, str(tmp_path / "other"))
        return _created(work_folder(url))


@pytest.fixture
def bucket(url: str) -> ObjectStore:
    return object_store(url)


def _created(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder
