"""The outbox on disk: cut short, damaged, on a full disk or gone; and offsets that claim more than it has."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
from pathlib import Path
from typing import Any

import pytest

from study.tracking.outbox import DeliveryOffset, Outbox, OutboxUnusable
from study.tracking.sync import send
from tests.study.tracking.helpers import assert_received, open_tracker, write_trials
from tests.support.mlflow_stub import Stub
from trainables.store.kept import parse_object, sealed


def test_a_partial_last_line_is_removed_and_damage_elsewhere_is_refused(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path, "demo")
    for number in range(3):
        outbox.append({"do": "describe", "tags": {"n": str(number)}})
    with pytest.raises(OutboxUnusable, match="another process"):
        Outbox(tmp_path, "demo")
    outbox.close()
    path = tmp_path / "journal.jsonl"
    whole = path.read_bytes()
    for cut in range(len(whole) - 20, len(whole)):
        path.write_bytes(whole[:cut])
        reopened = Outbox(tmp_path, "demo")
        assert len(reopened.take_recovered()) == 3
        reopened.append({"do": "describe", "tags": {"n": "2"}})
        reopened.close()
        assert path.read_bytes() == whole
    path.write_bytes(whole.replace(b'"n":"1"', b'"n":"1'))
    with pytest.raises(OutboxUnusable, match=r"line 3: damaged.*move the file away"):
        Outbox(tmp_path, "demo")
    path.write_bytes(whole)
    with pytest.raises(OutboxUnusable, match="belongs to the study 'demo'"):
        Outbox(tmp_path, "other")


def test_a_full_disk_delays_results_and_loses_none(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path, "demo")
    entries = [{"do": "describe", "tags": {"n": str(number)}} for number in range(3)]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (outbox.end + 10, hard))  # enough for a part of a line
    try:
        for entry in entries[:2]:
            outbox.append(entry)
        assert outbox.error is not None
        assert outbox.count(outbox.end) == 2
        assert outbox.read(outbox.end) == []
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    outbox.append(entries[2])
    assert outbox.error is None
    assert [stored.entry for stored in outbox.read(0)][1:] == entries
    outbox.close()


def test_a_disk_that_cannot_even_truncate_raises_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outbox = Outbox(tmp_path, "demo")
    entries = [{"do": "describe", "tags": {"n": str(number)}} for number in range(2)]
    write = os.pwrite

    def half(file: int, data: bytes, offset: int) -> int:
        if offset > outbox.end:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return write(file, data[:10], offset)

    def fail(*_: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    with monkeypatch.context() as broken:
        broken.setattr(os, "pwrite", half)
        broken.setattr(os, "ftruncate", fail)
        outbox.append(entries[0])
        assert outbox.error is not None
        assert outbox.read(outbox.end) == []
    outbox.append(entries[1])
    assert outbox.error is None
    assert [stored.entry for stored in outbox.read(0)][1:] == entries
    monkeypatch.setattr(os, "fsync", fail)
    outbox.close()
    assert outbox.error is not None, "the last write may not be on disk"


def test_closing_without_the_folder_does_not_hide_the_error_of_the_study(stub: Stub, tmp_path: Path) -> None:
    lines: list[str] = []
    output = tmp_path / "out"

    def study() -> None:
        with open_tracker(stub, output, lines) as tracker:
            write_trials(tracker, 1)
            assert tracker.flush()
            shutil.rmtree(output)
            tracker.tags("trial:s:t0", {"late": "yes"})
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        study()
    assert "the outbox cannot be read" in lines[-1]


@pytest.mark.parametrize("removed", ["journal.jsonl", "."])
def test_a_study_without_its_outbox_resumes_even_after_the_folder_moved(
    stub: Stub, removed: str, tmp_path: Path
) -> None:
    with open_tracker(stub, tmp_path / "a") as tracker:
        write_trials(tracker, 2)
    shutil.move(tmp_path / "a" / "outbox" / removed, tmp_path / "kept")
    shutil.move(tmp_path / "a", tmp_path / "b")
    with open_tracker(stub, tmp_path / "b") as tracker:
        write_trials(tracker, 3)
        assert tracker.flush()
    assert set(stub.by_key()) == {"size:s", "trial:s:t0", "trial:s:t1", "trial:s:t2"}


def test_entries_are_on_the_disk_before_the_offset_that_vouches_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outbox = Outbox(tmp_path / "outbox", "demo")
    delivery = DeliveryOffset(outbox, "a store")
    outbox.append({"do": "tag"})
    saved: list[bool] = []

    def fsync(descriptor: int) -> None:
        saved.append(bool(list(outbox.folder.glob("receipt-*.json"))))

    monkeypatch.setattr(os, "fsync", fsync)
    delivery.advance(outbox.end)
    assert saved == [False], "the outbox is flushed once, before there is an offset"
    outbox.close()
    assert DeliveryOffset(outbox, "a store").offset == outbox.end


def test_a_crash_between_a_delivery_and_its_offset_duplicates_nothing(stub: Stub, tmp_path: Path) -> None:
    """The delivery offset is set back to earlier states: what came after was delivered, but not recorded."""
    with open_tracker(stub, tmp_path, offline=True) as tracker:
        write_trials(tracker)
    (offset_file,) = (tmp_path / "outbox").glob("receipt-*.json")
    assert send(tmp_path, say=lambda line: None)
    expected = stub.content()
    whole = json.loads(offset_file.read_text())
    del whole["line"]  # as files of earlier versions, whose offsets count where a line ends
    lines = (tmp_path / "outbox" / "journal.jsonl").read_bytes().splitlines(keepends=True)
    for count in range(0, len(lines), 3):
        offset_file.write_text(json.dumps({**whole, "offset": sum(map(len, lines[:count]))}))
        assert send(tmp_path, say=lambda line: None)
        assert stub.content() == expected
        assert_received(stub)


@pytest.mark.parametrize("damage", ["last line lost", "end cut off", "last line is another"])
def test_an_offset_that_the_outbox_does_not_bear_out_is_not_believed(stub: Stub, damage: str, tmp_path: Path) -> None:
    with open_tracker(stub, tmp_path) as tracker:
        write_trials(tracker)
        assert tracker.flush()
    journal = tmp_path / "outbox" / "journal.jsonl"
    content = journal.read_bytes()
    before, last = content[: content.rfind(b"\n", 0, -1) + 1], content[content.rfind(b"\n", 0, -1) + 1 :]
    another = json.dumps(parse_object(last)).replace("t2", "t1")
    damaged = {
        "last line lost": before,
        "end cut off": content[:-25],
        "last line is another": before + json.dumps(sealed(json.loads(another))).encode() + b"\n",
    }
    journal.write_bytes(damaged[damage])
    with open_tracker(stub, tmp_path) as tracker:
        write_trials(tracker, 4)
        assert tracker.flush()
    assert_received(stub, 4)
    lines: list[str] = []
    assert send(tmp_path, say=lines.append)
    assert lines[-1].endswith("has everything; 0 writes were sent")


@pytest.mark.parametrize(
    "content", ["[]", "", "{", '{"offset": 3}', '{"destination": "x", "offset": -5, "refused": []}', "\xff"]
)
def test_a_damaged_offset_sends_everything_again(stub: Stub, content: str, tmp_path: Path) -> None:
    with open_tracker(stub, tmp_path) as tracker:
        write_trials(tracker)
    (offset_file,) = (tmp_path / "outbox").glob("receipt-*.json")
    offset_file.write_bytes(content.encode("latin-1"))
    lines: list[str] = []
    assert send(tmp_path, stub.uri, say=lines.append)
    assert_received(stub)
    journal = (tmp_path / "outbox" / "journal.jsonl").read_bytes()
    assert f"{journal.count(bytes([10]))} writes were sent" in lines[-1]
