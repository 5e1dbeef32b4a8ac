"""What a driver wrote, restored on another head; and of two drivers the one that took over goes on."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from pathlib import Path
from unittest import mock

import pytest

from tests.support.object_server import Fault, ObjectServer
from trainables.store.bucket import segments as module
from trainables.store.bucket.client import ObjectStore, StorageUnavailable, object_store
from trainables.store.bucket.leases import Lease
from trainables.store.bucket.segments import Segments, Superseded
from trainables.store.kept import sealed


@pytest.fixture
def store(object_server: ObjectServer) -> ObjectStore:
    return object_store(object_server.new_url())


@pytest.fixture
def head(store: ObjectStore, tmp_path: Path) -> Segments:
    (tmp_path / "head").mkdir()
    segments = Segments(store, tmp_path / "head")
    segments.take_over()
    return segments


def write(folder: Path, **files: str) -> None:
    for name, content in files.items():
        path = folder / {"optuna": "optuna.journal", "outbox": "outbox/journal.jsonl", "study": "study.json"}.get(
            name, name
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


def append(path: Path, text: str) -> None:
    with open(path, "a") as file:
        file.write(text)


def restored(store: ObjectStore, folder: Path) -> dict[str, str]:
    folder.mkdir(exist_ok=True)
    Segments(store, folder).restore()
    return contents(folder)


def contents(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_another_head_has_what_was_shipped(store: ObjectStore, head: Segments, tmp_path: Path) -> None:
    folder = tmp_path / "head"
    write(
        folder,
        optuna="one\n",
        outbox="first\n",
        study="{}",
        **{"benchmarks/x.json": "1", ".lock": "", "mlflow.db": "x"},
    )
    write(folder, **{"stages/a/model.bin": "w", "tune/state": "s"})
    assert head.ship()
    assert not head.ship(), "nothing is new"
    append(folder / "optuna.journal", "two\nhalf a li")
    (folder / "benchmarks" / "x.json").unlink()
    write(folder, study='{"a": 1}')
    assert head.ship()
    append(folder / "optuna.journal", "ne\n")
    assert head.ship()
    assert restored(store, tmp_path / "other") == {
        "optuna.journal": "one\ntwo\nhalf a line\n",
        "outbox/journal.jsonl": "first\n",
        "study.json": '{"a": 1}',
    }


def test_a_change_within_one_tick_of_the_clock_is_shipped(store: ObjectStore, head: Segments, tmp_path: Path) -> None:
    study, journal = tmp_path / "head" / "study.json", tmp_path / "head" / "optuna.journal"
    write(tmp_path / "head", study="{}", optuna="one\nhalf a li")
    for path in (study, journal):
        os.utime(path, ns=(10**18, 10**18))
    assert head.ship()
    assert not head.ship(), "half a line is not news"
    append(study, " ")
    append(journal, "ne\n")
    for path in (study, journal):
        os.utime(path, ns=(10**18, 10**18))
    assert head.ship()
    assert restored(store, tmp_path / "other") == {"study.json": "{} ", "optuna.journal": "one\nhalf a line\n"}


def test_only_what_was_appended_travels(
    store: ObjectStore, head: Segments, tmp_path: Path, object_server: ObjectServer
) -> None:
    write(tmp_path / "head", optuna="a line that was shipped before\n")
    head.ship()
    object_server.requests.clear()
    append(tmp_path / "head" / "optuna.journal", "new\n")
    head.ship()
    (put,) = (path for method, path in object_server.requests if method == "PUT")
    newest = store.get(put.partition(f"{store.url.rpartition('/')[2]}/")[2])
    assert newest is not None
    assert b"new" in newest.content
    assert b"shipped before" not in newest.content


def test_a_driver_that_was_taken_for_dead_ships_nothing_more(
    store: ObjectStore, head: Segments, tmp_path: Path
) -> None:
    write(tmp_path / "head", optuna="one\n")
    head.ship()
    successor = Segments(store, tmp_path / "successor")
    successor.take_over()
    write(tmp_path / "successor", study="{}")
    append(tmp_path / "head" / "optuna.journal", "of the one that was stopped\n")
    with pytest.raises(Superseded):
        head.ship()
    assert successor.ship()
    assert restored(store, tmp_path / "third") == {"optuna.journal": "one\n", "study.json": "{}"}


@pytest.mark.parametrize("shipped", [1, 2], ids=["segment", "base"])
def test_a_driver_that_slept_until_its_next_number_was_free_again_changes_nothing(
    store: ObjectStore, head: Segments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shipped: int
) -> None:
    monkeypatch.setattr(module, "MOST_SEGMENTS", 2)
    for number in range(shipped):
        write(tmp_path / "head", study=str(number))
        append(tmp_path / "head" / "optuna.journal", f"{number}\n")
        head.ship()
    successor = Segments(store, tmp_path / "successor")
    successor.take_over()
    for number in range(10, 16):
        write(tmp_path / "successor", study=str(number))
        successor.ship()
    write(tmp_path / "successor", study="0")
    successor.ship()
    before = store.names("")
    write(tmp_path / "head", study="of the one that slept")
    with pytest.raises(Superseded):
        head.ship()
    assert [name for name in store.names("") if not name.startswith("files/")] == [
        name for name in before if not name.startswith("files/")
    ]
    assert set(before) <= set(store.names(""))
    assert restored(store, tmp_path / "third") == contents(tmp_path / "successor")


@pytest.mark.parametrize("shipped", [1, 2], ids=["segment", "base"])
def test_a_driver_that_slept_in_the_middle_of_a_put_deletes_nothing(
    store: ObjectStore, head: Segments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shipped: int
) -> None:
    monkeypatch.setattr(module, "MOST_SEGMENTS", 2)
    for number in range(shipped):
        write(tmp_path / "head", study=str(number))
        head.ship()
    successor, put_new, slept = Segments(store, tmp_path / "successor"), store.put_new, list[list[str]]()

    def put_after_sleep(name: str, content: bytes) -> str | None:
        if name.startswith("journal/") and not slept:
            slept.append([])
            successor.take_over()
            for number in (11, 12, 13, 14, 15, 0):
                write(tmp_path / "successor", study=str(number))
                successor.ship()
            slept[0] = store.names("")
        return put_new(name, content)

    monkeypatch.setattr(store, "put_new", put_after_sleep)
    write(tmp_path / "head", study="of the one that slept")
    with pytest.raises(Superseded):
        head.ship()
    assert set(slept[0]) <= set(store.names(""))
    assert restored(store, tmp_path / "third") == contents(tmp_path / "successor")


def test_nothing_is_shipped_once_the_lease_is_lost(store: ObjectStore, tmp_path: Path) -> None:
    lease = mock.Mock(spec=Lease, lost=False)
    segments = Segments(store, tmp_path / "head", lease)
    segments.take_over()
    before = store.names("")
    lease.lost = True
    with pytest.raises(Superseded):
        segments.ship()
    write(tmp_path / "head", study="{}")
    with pytest.raises(Superseded):
        segments.ship()
    with pytest.raises(Superseded):
        segments.take_over()
    assert store.names("") == before


def test_files_that_a_driver_does_not_know_stay(
    store: ObjectStore, head: Segments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another driver put them, and is about to name them in a segment."""
    monkeypatch.setattr(module, "MOST_SEGMENTS", 1)
    store.put("files/of_another", b"x")
    for number in range(4):
        write(tmp_path / "head", study=str(number))
        head.ship()
    assert "files/of_another" in store.names("files/")


def test_the_same_head_goes_on_with_what_it_had_not_shipped(store: ObjectStore, head: Segments, tmp_path: Path) -> None:
    folder = tmp_path / "head"
    write(folder, optuna="one\n", study="{}")
    head.ship()
    append(folder / "optuna.journal", "two\n")
    write(folder, **{"mlflow.db": "database"})
    Segments(store, folder).take_over()
    assert contents(folder) == {"optuna.journal": "one\ntwo\n", "study.json": "{}", "mlflow.db": "database"}
    assert restored(store, tmp_path / "other") == {"optuna.journal": "one\ntwo\n", "study.json": "{}"}


def test_a_file_that_an_interrupted_restore_left_is_replaced(
    store: ObjectStore, head: Segments, tmp_path: Path
) -> None:
    folder = tmp_path / "head"
    write(folder, optuna="one\n", study='{"a": 1}', **{"benchmarks/x.json": "1"})
    head.ship()
    write(folder, study='{"a"', **{"benchmarks/y.json": "2"})
    append(folder / "optuna.journal", "two\n")
    kept = (folder / "benchmarks" / "x.json").stat()
    Segments(store, folder).restore()
    assert contents(folder) == {
        "optuna.journal": "one\ntwo\n",
        "study.json": '{"a": 1}',
        "benchmarks/x.json": "1",
        "benchmarks/y.json": "2",
    }
    assert (folder / "benchmarks" / "x.json").stat() == kept


def test_a_file_appears_whole_in_a_restored_folder(store: ObjectStore, head: Segments, tmp_path: Path) -> None:
    """The disk is full in the middle of a file: it is not there, or as it was before."""
    write(tmp_path / "head", optuna="one\n", study="{}")
    head.ship()
    other = tmp_path / "other"
    restored(store, other)
    write(tmp_path / "head", study='{"a": 1}')
    head.ship()

    def half(path: Path, content: bytes) -> None:
        with open(path, "wb") as file:
            file.write(content[: len(content) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    with mock.patch.object(Path, "write_bytes", half), pytest.raises(OSError, match="No space left"):
        Segments(store, other).restore()
    assert contents(other) == {"optuna.journal": "one\n", "study.json": "{}"}


def test_a_head_that_another_one_has_overtaken_starts_from_the_bucket(
    store: ObjectStore, head: Segments, tmp_path: Path
) -> None:
    """Its unshipped lines, and a database that has them, are of trials which the other head has run again."""
    folder = tmp_path / "head"
    write(folder, optuna="one\n")
    head.ship()
    append(folder / "optuna.journal", "lost\n")
    write(folder, **{"mlflow.db": "database", "stages/a/model.bin": "w"})
    successor = Segments(store, tmp_path / "successor")
    successor.take_over()
    append(tmp_path / "successor" / "optuna.journal", "two\n")
    successor.ship()
    Segments(store, folder).take_over()
    assert contents(folder) == {"optuna.journal": "one\ntwo\n", "stages/a/model.bin": "w"}


def test_a_reader_s_folder_is_continued_and_keeps_its_database(
    store: ObjectStore, head: Segments, tmp_path: Path
) -> None:
    folder, other = tmp_path / "head", tmp_path / "other"
    write(folder, outbox="a\n", study="{}", gone="x")
    head.ship()
    other.mkdir()
    reader = Segments(store, other, apart=frozenset({"outbox/receipt.json"}))
    reader.restore()
    write(other, **{"mlflow.db": "database", "outbox/receipt.json": "its own"})
    newest = reader.newest()
    append(folder / "outbox" / "journal.jsonl", "b\n")
    write(folder, optuna="one\n", study='{"a": 1}', **{"outbox/receipt.json": "the head's"})
    (folder / "gone").unlink()
    head.ship()
    assert reader.newest() > newest
    reader.restore()
    assert contents(other) == {
        "outbox/journal.jsonl": "a\nb\n",
        "optuna.journal": "one\n",
        "study.json": '{"a": 1}',
        "mlflow.db": "database",
        "outbox/receipt.json": "its own",
    }


def test_a_reader_reads_every_segment_once(
    store: ObjectStore, head: Segments, tmp_path: Path, object_server: ObjectServer
) -> None:
    reader = Segments(store, tmp_path / "other")
    for number in range(4):
        append(tmp_path / "head" / "optuna.journal", f"{number}\n")
        head.ship()
        reader.restore()
    object_server.requests.clear()
    append(tmp_path / "head" / "optuna.journal", "last\n")
    head.ship()
    shipped = len(object_server.requests)
    reader.restore()
    assert len(object_server.requests) - shipped == 2, "a listing, and the new segment"
    assert (tmp_path / "other" / "optuna.journal").read_text() == "0\n1\n2\n3\nlast\n"


def test_a_folder_that_was_copied_to_the_bucket_is_gone_on_with(store: ObjectStore, tmp_path: Path) -> None:
    for name in ("optuna.journal", "outbox/journal.jsonl", "stages/a/manifest.json", "mlflow.db", ".lock"):
        store.put(name, b"line\n")
    Segments(store, tmp_path / "head").take_over()
    assert contents(tmp_path / "head") == {"optuna.journal": "line\n", "outbox/journal.jsonl": "line\n"}
    assert restored(store, tmp_path / "other") == contents(tmp_path / "head")


def test_many_segments_become_one(
    store: ObjectStore, head: Segments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_SEGMENTS", 4)
    for number in range(12):
        write(tmp_path / "head", study=str(number))
        append(tmp_path / "head" / "optuna.journal", f"{number}\n")
        head.ship()
    assert len(store.names("journal/")) <= 5
    assert len(store.names("files/")) <= 6
    assert restored(store, tmp_path / "other") == contents(tmp_path / "head")


def test_damage_is_named_and_changes_no_folder(store: ObjectStore, head: Segments, tmp_path: Path) -> None:
    write(tmp_path / "head", optuna="one\n")
    head.ship()
    store.put(store.names("journal/")[-1], b"{}]")
    with pytest.raises(StorageUnavailable, match=r"journal/.*damaged|damaged.*journal/"):
        Segments(store, tmp_path / "head").restore()
    assert contents(tmp_path / "head") == {"optuna.journal": "one\n"}


@pytest.mark.parametrize(
    "name", ["../../evil", "{outside}/evil", "a/../../evil", "a//evil", "", ".lock", "stages/evil"]
)
def test_a_name_that_leads_out_of_the_folder_is_refused_before_anything_changes(
    store: ObjectStore, tmp_path: Path, name: str
) -> None:
    digest = hashlib.sha256(b"evil").hexdigest()
    store.put(f"files/{digest}", b"evil")
    files = {name.format(outside=tmp_path): digest}
    segment = {"base": True, "files": files, "appended": {}, "removed": [], "write": ""}
    store.put(f"journal/{1:012d}", json.dumps(sealed(segment)).encode())
    folder = tmp_path / "deep" / "head"
    folder.mkdir(parents=True)
    write(folder, optuna="own\n")
    with pytest.raises(StorageUnavailable, match="refused"):
        Segments(store, folder).restore()
    assert contents(tmp_path) == {"deep/head/optuna.journal": "own\n"}


def test_what_a_store_did_not_take_is_shipped_later(
    store: ObjectStore, head: Segments, tmp_path: Path, object_server: ObjectServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "_patience_s", 0.3)
    write(tmp_path / "head", optuna="one\n")
    object_server.faults.append(Fault("PUT", "journal/", lose="request", times=10**6))
    with pytest.raises(StorageUnavailable):
        head.ship()
    object_server.faults.clear()
    append(tmp_path / "head" / "optuna.journal", "two\n")
    assert head.ship()
    assert restored(store, tmp_path / "other") == {"optuna.journal": "one\ntwo\n"}


def test_a_copied_folder_that_was_read_before_keeps_its_database(store: ObjectStore, tmp_path: Path) -> None:
    for name in ("optuna.journal", "study.json"):
        store.put(name, b"line\n")
    other = tmp_path / "other"
    restored(store, other)
    write(other, study="cut", **{"mlflow.db": "database"})
    assert restored(store, other) == {"optuna.journal": "line\n", "study.json": "line\n", "mlflow.db": "database"}
    write(other, optuna="another\n")
    assert restored(store, other) == {"optuna.journal": "line\n", "study.json": "line\n"}


def test_a_journal_s_file_is_in_the_segment_that_has_the_journal_s_line(
    store: ObjectStore, head: Segments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Written while a segment is put together: the file first, then the line that names it."""
    folder, read = head._folder, module._content

    def read_and_go_on(path: Path) -> bytes | None:
        if path.name == "journal.jsonl" and not (folder / "examples").exists():
            (folder / "examples").mkdir()
            (folder / "examples" / "t0.parquet").write_bytes(b"scores")
            with open(path, "ab") as journal:
                journal.write(b'{"do": "file", "path": "examples/t0.parquet"}\n')
        return read(path)

    (folder / "outbox").mkdir(exist_ok=True)
    (folder / "outbox" / "journal.jsonl").write_bytes(b'{"do": "journal"}\n')
    monkeypatch.setattr(module, "_content", read_and_go_on)
    head.ship()
    monkeypatch.undo()
    there = tmp_path / "there"
    Segments(store, there).restore()
    assert b"examples/t0.parquet" in (there / "outbox" / "journal.jsonl").read_bytes()
    assert (there / "examples" / "t0.parquet").read_bytes() == b"scores"
