"""Kept files that are damaged: one reader, and what each of its users does then."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest

from trainables.resources import Resources
from trainables.store.kept import KeptFileUnusable, read_object, sealed
from trainables.store.manifests import MANIFEST, read_manifest
from trainables.training.micro_batches import known_limits

BROKEN = {
    "empty": b"",
    "cut": b'{"a": 1, "b": [',
    "another shape": b"[]",
    "not UTF-8": b'{"a": "\xff"}',
    "nested": b"[" * 100_000,
    "lacks a key": b'{"b": 1}',
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_a_damaged_file_is_one_error_that_names_it(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "kept.json"
    path.write_bytes(content)
    with pytest.raises(KeptFileUnusable, match=str(path)) as raised:
        read_object(path, ("a",))
    assert "\n" not in str(raised.value)
    assert str(pickle.loads(pickle.dumps(raised.value))) == str(raised.value)


def test_a_folder_in_its_place_is_damage_and_nothing_is_none(tmp_path: Path) -> None:
    with pytest.raises(KeptFileUnusable, match="directory"):
        read_object(tmp_path)
    assert read_object(tmp_path / "absent.json") is None
    (tmp_path / "file").touch()
    assert read_object(tmp_path / "file" / "below.json") is None


@pytest.mark.parametrize(
    "content",
    [*BROKEN.values(), b'{"files": []}', b'{"files": {"x": 3}}', b'{"files": {"x": {"bytes": 1}}}'],
)
def test_a_damaged_manifest_is_none(content: bytes, tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_bytes(content)
    assert read_manifest(tmp_path) is None


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_a_damaged_limit_of_a_micro_batch_is_skipped(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "micro_batches").mkdir()
    (tmp_path / "micro_batches" / "x@1.json").write_bytes(content)
    (tmp_path / "micro_batches" / "y@1.json").write_text(json.dumps({"stage": [], "resources": {}, "micro_batch": 1}))
    assert known_limits(tmp_path, Resources()) == {}


def test_a_byte_that_changed_inside_a_number_breaks_the_seal(tmp_path: Path) -> None:
    path, content = tmp_path / "kept.json", {"a": 41.25, "b": [("x", 1)], "c": {"d": None}}
    path.write_text(json.dumps(sealed(content)))
    assert read_object(path, ("a",)) == {**content, "b": [["x", 1]]}
    path.write_bytes(path.read_bytes().replace(b"41.25", b"91.25"))
    with pytest.raises(KeptFileUnusable, match="has changed since it was written"):
        read_object(path)


def test_what_an_earlier_version_wrote_without_a_seal_counts(tmp_path: Path) -> None:
    (tmp_path / "kept.json").write_text('{"a": 1}')
    assert read_object(tmp_path / "kept.json") == {"a": 1}
