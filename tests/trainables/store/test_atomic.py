"""Atomic writes: a file is replaced whole or not at all, and no temporary file stays."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from trainables.store.atomic import replacing, write_text


def _names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def test_a_file_is_written_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "study.json"
    write_text(path, "ein Satz: 句子")
    assert path.read_text(encoding="utf-8") == "ein Satz: 句子"
    write_text(path, "another", durable=True)
    assert path.read_text(encoding="utf-8") == "another"
    assert _names(tmp_path) == ["study.json"]


def test_an_interrupted_write_keeps_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "study.json"
    write_text(path, "old")
    with pytest.raises(KeyboardInterrupt):
        _interrupted(path)
    assert path.read_text() == "old"
    assert _names(tmp_path) == ["study.json"]


def _interrupted(path: Path) -> None:
    with replacing(path) as temporary:
        temporary.write_text("half")
        assert path.read_text() == "old"
        raise KeyboardInterrupt


def test_a_temporary_file_matches_no_pattern_of_finished_ones(tmp_path: Path) -> None:
    with replacing(tmp_path / "a.json") as temporary:
        temporary.write_text("{")
        assert list(tmp_path.glob("*.json")) == []
        assert temporary.parent == tmp_path, "a rename is atomic inside a file system only"


def test_writers_of_one_file_do_not_disturb_each_other(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    texts = [str(number) * 100_000 for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda text: write_text(path, text), texts))
    assert path.read_text() in texts
    assert _names(tmp_path) == ["a.json"]


def test_a_durable_write_reaches_the_disk_before_it_is_visible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, visible = tmp_path / "a.json", list[bool]()
    sync = os.fsync

    def synced(descriptor: int) -> None:
        sync(descriptor)
        visible.append(path.exists())

    monkeypatch.setattr(os, "fsync", synced)
    write_text(path, "x")
    assert visible == []
    path.unlink()
    write_text(path, "x", durable=True)
    assert visible == [False]
