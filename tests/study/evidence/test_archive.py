"""Archives that are made to harm their reader are refused, and none is written."""

from __future__ import annotations

import json
import random
import stat
import zipfile
from pathlib import Path

import pytest
from typer.testing import CliRunner

from study.cli.app import app
from study.evidence.archive import INDEX, Archive, BadArchive, write_archive
from trainables.store.kept import sealed


def hostile(path: Path, name: str = "runs/0/x", content: bytes = b"x", *, mode: int = 0, twice: bool = False) -> Path:
    """An archive with one member besides a valid index that lists it."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for _ in range(2 if twice else 1):
            info = zipfile.ZipInfo(name)
            info.compress_type, info.external_attr = zipfile.ZIP_DEFLATED, mode << 16
            archive.writestr(info, content)
        archive.writestr(INDEX, json.dumps(sealed({"format": 1, "files": {}})))
    return path


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../../x", "C:/x", "a\\..\\x", "a//x", "./x", "runs/"])
def test_names_that_lead_elsewhere_are_refused(name: str, tmp_path: Path) -> None:
    path = hostile(tmp_path / "bundle.zip", name)
    with pytest.raises(BadArchive, match="member"):
        Archive(path)
    ran = CliRunner().invoke(app, ["verify", str(path)])
    assert (ran.exit_code, ran.stdout.count("\n")) == (1, 2)
    with pytest.raises(BadArchive, match="cannot be a member"):
        write_archive(tmp_path / "mine.zip", {name: b""}, {})
    assert not (tmp_path / "mine.zip").exists()


def test_links_bombs_and_doubled_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadArchive, match="not a file"):
        Archive(hostile(tmp_path / "link.zip", mode=stat.S_IFLNK | 0o777))
    with pytest.raises(BadArchive, match="expands from"):
        Archive(hostile(tmp_path / "bomb.zip", content=bytes(50_000_000)))
    with pytest.warns(UserWarning, match="Duplicate name"):
        doubled = hostile(tmp_path / "doubled.zip", twice=True)
    with pytest.raises(BadArchive, match="two members have one name"):
        Archive(doubled)


def test_members_that_share_bytes_are_refused(tmp_path: Path) -> None:
    """As in a bomb of overlapping files: two entries of the directory point at one member."""
    path = hostile(tmp_path / "bundle.zip", content=random.Random(0).randbytes(5000))
    whole = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        start, entries = archive.start_dir, len(archive.infolist())
    first = whole.index(b"PK\x01\x02", start)
    entry = whole[first : whole.index(b"PK\x01\x02", first + 4)]
    copies = b"".join(entry.replace(b"runs/0/x", f"runs/0/{n}".encode()) for n in range(9))
    end = bytearray(whole[whole.rindex(b"PK\x05\x06") :])
    count, size = entries + 9, len(whole[start : whole.rindex(b"PK\x05\x06")]) + len(copies)
    end[8:10] = end[10:12] = count.to_bytes(2, "little")
    end[12:16] = size.to_bytes(4, "little")
    path.write_bytes(whole[:first] + copies + whole[first : whole.rindex(b"PK\x05\x06")] + bytes(end))
    with pytest.raises(BadArchive, match=r"overlap"):
        Archive(path)


@pytest.mark.parametrize("content", [b"", b"PK", b"text", b"PK\x05\x06" + bytes(18)])
def test_other_files_are_no_bundles(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "bundle.zip"
    path.write_bytes(content)
    ran = CliRunner().invoke(app, ["verify", str(path)])
    assert ran.exit_code == 1
    assert ran.stdout.startswith("bundle.zip: ")
    assert CliRunner().invoke(app, ["report", str(path)]).exit_code == 2


def test_a_missing_bundle_is_refused_in_a_sentence(tmp_path: Path) -> None:
    ran = CliRunner().invoke(app, ["verify", str(tmp_path / "bundle.zip")])
    assert (ran.exit_code, ran.stderr.count("\n")) == (2, 1)
