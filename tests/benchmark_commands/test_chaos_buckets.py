"""The monkey's object store, which keeps what it has answered for, and what a lost machine takes from a study in a bucket."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from study.run.bucket.driving import kept_in_bucket
from study.search.journal import JOURNAL
from tests.support.chaos.places import Bucket, Folder, work_variables
from tests.support.chaos.servers import StorageServer
from trainables.store.bucket.client import PART_BYTES, object_store


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StorageServer]:
    """A running store, and the environment to reach it."""
    pytest.importorskip("obstore", reason="obstore is not installed: pip install obstore")
    storage = StorageServer(tmp_path / "storage")
    for name, value in (storage.environment | work_variables(tmp_path / "disk")).items():
        monkeypatch.setenv(name, value)
    storage.start()
    try:
        storage.wait()
        yield storage
    finally:
        storage.end()


def again(server: StorageServer) -> None:
    server.end()
    server.start()
    server.wait()


def test_a_killed_store_has_every_object_with_its_version_when_it_starts_again(server: StorageServer) -> None:
    bucket = object_store("gs://studies/killed")
    first = bucket.put_new("claims/driver.json", b"first")
    bucket.put("stages/a/model", b"w" * 100)
    bucket.put("report.html", b"gone")
    bucket.delete(["report.html"])
    again(server)
    assert bucket.names("") == ["claims/driver.json", "stages/a/model"]
    assert bucket.put_new("claims/driver.json", b"other") is None
    present = bucket.get("claims/driver.json")
    assert present is not None
    assert (present.content, present.tag) == (b"first", first)
    second = bucket.put_over("claims/driver.json", b"second", present.tag)
    assert second not in (None, first)
    assert bucket.put_over("claims/driver.json", b"late", present.tag) is None
    assert (server.objects / "killed/stages/a/model").read_bytes() == b"w" * 100


def test_an_upload_in_parts_survives_the_death_of_its_store(server: StorageServer, tmp_path: Path) -> None:
    bucket, source, target = object_store("gs://studies/parts"), tmp_path / "source", tmp_path / "target"
    source.write_bytes(b"".join(bytes([number]) * PART_BYTES for number in range(6)))
    upload = threading.Thread(target=bucket.upload, args=(source, "model"))
    upload.start()
    until = time.monotonic() + 240
    while not list(server.folder.glob("parts/*/*")):
        assert time.monotonic() < until
        assert not (server.objects / "parts/model").exists()
        time.sleep(0.001)
    again(server)
    upload.join(300)
    assert bucket.download("model", target) is not None
    assert target.read_bytes() == source.read_bytes()


def test_a_lost_machine_takes_its_work_folder_and_not_what_was_shipped(server: StorageServer, tmp_path: Path) -> None:
    place = Bucket(tmp_path / "disk", "lost", server.objects)
    place.work.mkdir(parents=True)
    journal = place.work / JOURNAL
    with kept_in_bucket(place.work) as shipping:
        assert shipping is not None
        journal.write_bytes(b"shipped\n")
    with open(journal, "ab") as file:
        file.write(b"not shipped\n")
    assert place.lose_machine()
    assert not place.work.exists()
    with place.read() as stored:
        assert stored != place.work
        assert (stored / JOURNAL).read_bytes() == b"shipped\n"
    assert place.committed.is_dir()
    place.remove()
    assert object_store(place.output).names("") == []


def test_a_lost_machine_takes_nothing_from_a_shared_folder(tmp_path: Path) -> None:
    place = Folder(tmp_path, "shared")
    place.work.mkdir()
    assert place.lose_machine() == ""
    with place.read() as stored:
        assert stored == place.work == place.committed == Path(place.output)
    place.remove()
    assert not place.work.exists()
