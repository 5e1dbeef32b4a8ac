"""Zip archives that are the same bytes for the same members, and that are read without trusting whoever wrote them.

Nothing is ever extracted under a member's own name, and nothing is read whose size was not checked first.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Self

from trainables.store.atomic import replacing
from trainables.store.kept import parse_object, sealed

INDEX = "bundle.json"  # the last member: size and sha256 of all others, sealed
FORMAT = 1
EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time a zip can hold, given to every member
BLOCK = 1 << 20
STORED = (".safetensors",)  # hardly compressible; the footers of small Parquet files are
MOST_MEMBERS = 1_000_000
MOST_IN_MEMORY = 2 << 30  # bytes of a member that is read whole
MOST_EXPANSION = 200  # times; JSON of manifests shrinks to a tenth, and deflate reaches 1032 with zeros
SMALL = 1 << 20  # bytes; below this a member may expand as it likes
UNREADABLE = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, RuntimeError, ValueError)


class BadArchive(ValueError):
    """A file that is not an archive of ours, is damaged, or could harm its reader; the message says which."""


def write_archive(path: Path, members: Mapping[str, Path | bytes], about: Mapping[str, Any]) -> str:
    """Write the members, sorted by name, and the index with `about`; returns the sha256 of the archive.

    The same members give the same bytes, with one version of zlib. Files are copied in blocks. The archive appears whole or
    not at all.

    Raises:
        OSError: a member cannot be read, or the archive cannot be written.
    """
    files: dict[str, dict[str, Any]] = {}
    with replacing(path) as temporary:
        with zipfile.ZipFile(temporary, "w") as archive:
            for name in sorted(members):
                files[name] = _write_member(archive, name, members[name])
            index = sealed({"format": FORMAT, **about, "files": files})
            _write_member(archive, INDEX, json.dumps(index, indent=1, allow_nan=False).encode())
        with open(temporary, "rb") as written:
            return hashlib.file_digest(written, "sha256").hexdigest()


def _write_member(archive: zipfile.ZipFile, name: str, content: Path | bytes) -> dict[str, Any]:
    """Write a member; its size and sha256."""
    if (problem := _name_problem(name)) is not None:
        raise BadArchive(f"{name!r} cannot be a member: {problem}")
    info = zipfile.ZipInfo(name, EPOCH)
    info.compress_type = zipfile.ZIP_STORED if name.endswith(STORED) else zipfile.ZIP_DEFLATED
    info.create_system, info.external_attr = 3, (stat.S_IFREG | 0o644) << 16  # as Unix writes it, on every system
    digest, size = hashlib.sha256(), 0
    large = isinstance(content, Path) and content.stat().st_size >= zipfile.ZIP64_LIMIT
    with archive.open(info, "w", force_zip64=large) as member:
        for block in [content] if isinstance(content, bytes) else _blocks(content):
            member.write(block)
            digest.update(block)
            size += len(block)
    return {"bytes": size, "sha256": digest.hexdigest()}


def _blocks(path: Path) -> Iterator[bytes]:
    with open(path, "rb") as file:
        while block := file.read(BLOCK):
            yield block


class Archive:
    """An archive that `write_archive` wrote, or that somebody else made to look like one."""

    def __init__(self, path: Path) -> None:
        """Open the archive and read its index.

        Raises:
            BadArchive: it is no archive of ours, or a reader must not go on with it.
            OSError: the file cannot be read.
        """
        self.path = path
        with open(path, "rb"):
            pass  # a missing file is an error of its own
        try:
            self._zip = zipfile.ZipFile(path)
        except UNREADABLE as error:
            raise BadArchive(f"{path}: not a zip archive, or a damaged one ({error})") from error
        try:
            self._infos = self._checked_infos()
            self.index = self._read_index()
        except BaseException:
            self._zip.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._zip.close()

    @property
    def files(self) -> Mapping[str, Mapping[str, Any]]:
        """Size and sha256 by member, as the index lists them."""
        files: Mapping[str, Mapping[str, Any]] = self.index["files"]
        return files

    def faults(self) -> Iterator[tuple[str, str]]:
        """Members that are missing, not listed, or not what was written, with the reason. Reads every member."""
        for name in sorted(self._infos.keys() - self.files.keys() - {INDEX}):
            yield name, f"is not listed in {INDEX}"
        for name, entry in sorted(self.files.items()):
            if name not in self._infos:
                yield name, f"is missing, and {INDEX} lists it"
            elif self._infos[name].file_size != entry["bytes"]:
                yield name, f"has {self._infos[name].file_size} bytes; {INDEX} says {entry['bytes']}"
            else:
                try:
                    if self._digest(name) != entry["sha256"]:
                        yield name, f"its sha256 differs from the one in {INDEX}"
                except UNREADABLE as error:
                    yield name, f"cannot be read ({error})"

    def read(self, name: str, *, checked: bool = True) -> bytes:
        """A member in memory; if `checked`, what the index vouches for.

        Raises:
            BadArchive: it is missing, too large, cannot be read, or differs from the index.
        """
        if name not in self._infos:
            raise BadArchive(f"{self.path}: {name}: missing")
        if self._infos[name].file_size > MOST_IN_MEMORY:
            raise BadArchive(f"{self.path}: {name}: {self._infos[name].file_size} bytes are too many to read at once")
        try:
            content = self._zip.read(name)
        except UNREADABLE as error:
            raise BadArchive(f"{self.path}: {name}: cannot be read ({error})") from error
        if checked and hashlib.sha256(content).hexdigest() != self.files.get(name, {}).get("sha256"):
            raise BadArchive(f"{self.path}: {name}: its sha256 differs from the one in {INDEX}; see `verify`")
        return content

    def copy(self, name: str, path: Path) -> None:
        """Copy a member to a file, in blocks, and check it.

        Raises:
            BadArchive: it cannot be read, or differs from the index.
        """
        try:
            with self._zip.open(name) as member, open(path, "wb") as file:
                shutil.copyfileobj(member, file, BLOCK)
        except (KeyError, *UNREADABLE) as error:
            raise BadArchive(f"{self.path}: {name}: cannot be read ({error})") from error
        with open(path, "rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != self.files[name]["sha256"]:
                raise BadArchive(f"{self.path}: {name}: its sha256 differs from the one in {INDEX}; see `verify`")

    def _digest(self, name: str) -> str:
        digest = hashlib.sha256()
        with self._zip.open(name) as member:
            while block := member.read(BLOCK):
                digest.update(block)
        return digest.hexdigest()

    def _checked_infos(self) -> dict[str, zipfile.ZipInfo]:
        infos = self._zip.infolist()
        if len(infos) > MOST_MEMBERS:
            raise BadArchive(f"{self.path}: {len(infos)} members, more than the {MOST_MEMBERS} that are read")
        for info in infos:
            if (problem := _name_problem(info.filename) or _kind_problem(info)) is not None:
                raise BadArchive(f"{self.path}: member {info.filename!r} {problem}")
        by_name = {info.filename: info for info in infos}
        if len(by_name) < len(infos):
            raise BadArchive(f"{self.path}: two members have one name")
        if sum(info.compress_size for info in infos) > self.path.stat().st_size:
            raise BadArchive(f"{self.path}: its members overlap")  # so that few bytes expand to many
        return by_name

    def _read_index(self) -> dict[str, Any]:
        if INDEX not in self._infos:
            raise BadArchive(f"{self.path}: no {INDEX} in it; give a bundle that `export` or `merge` wrote")
        try:
            index = parse_object(self.read(INDEX, checked=False))
        except ValueError as error:
            raise BadArchive(f"{self.path}: {INDEX}: {error}") from error
        if index.get("format") != FORMAT:
            raise BadArchive(f"{self.path}: of format {index.get('format')!r}, and this version reads {FORMAT}")
        files = index.get("files")
        if not isinstance(files, dict) or not all(_is_entry(entry) for entry in files.values()):
            raise BadArchive(f"{self.path}: {INDEX}: does not list its files with size and sha256")
        return index


def _is_entry(entry: object) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get("bytes"), int) and isinstance(entry.get("sha256"), str)


def _name_problem(name: str) -> str | None:
    """Why a member must not have this name; None if it may."""
    path = PurePosixPath(name)
    if not path.parts or name.startswith("/") or "\\" in name or "\0" in name or ":" in path.parts[0]:
        return "is not a relative path"
    if ".." in path.parts or str(path) != name:
        return "leads out of the archive, or is not in its plain form"
    return None


def _kind_problem(info: zipfile.ZipInfo) -> str | None:
    """Why a member must not be read; None if it may."""
    kind = stat.S_IFMT(info.external_attr >> 16)
    if info.is_dir() or kind not in (0, stat.S_IFREG):
        return "is not a file"
    if info.flag_bits & 0x1:
        return "is encrypted"
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "is compressed in a way that bundles are not"
    if info.file_size > SMALL and info.file_size > MOST_EXPANSION * info.compress_size:
        return f"expands from {info.compress_size} to {info.file_size} bytes"
    return None
