"""Manifests: the files of a folder with size and sha256, written last. A folder without a valid manifest counts as absent.

Files are flushed to disk before the manifest that lists them: otherwise a power cut may keep the manifest and the sizes and
leave zeros as content.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from trainables.store.atomic import write_text
from trainables.store.kept import KeptFileUnusable, parse_object, read_object, sealed

MANIFEST = "manifest.json"
Files = dict[str, dict[str, Any]]  # size and sha256 by path in the folder
OBJECTS = ("identity", "metrics", "context")  # in a stage's manifest
HASHING_THREADS = 8  # hashing releases the interpreter's lock


def write_manifest(folder: Path, content: Mapping[str, Any], *, files: Files | None = None) -> dict[str, Any]:
    """Write and return the manifest of every file now in the folder: `content` with `files`.

    It appears atomically, once the files it lists would survive a power cut. Where `files` are given, they have been hashed and
    flushed already.
    """
    entries = sorted(folder.rglob("*"))
    if files is None:
        paths = [path for path in entries if path.is_file() and path != folder / MANIFEST]
        files = {
            str(path.relative_to(folder)): {"bytes": path.stat().st_size, "sha256": digest}
            for path, digest in zip(paths, _digests(paths, durable=True), strict=True)
        }
    for directory in (*(path for path in entries if path.is_dir()), folder):
        sync_folder(directory)
    manifest = {**content, "files": files}
    write_text(folder / MANIFEST, json.dumps(sealed(manifest), indent=1, allow_nan=False), durable=True)
    sync_folder(folder)
    return manifest


def sync_folder(folder: Path) -> None:
    """Flush the folder's list of files to disk, on file systems that can."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EBADF):  # some file systems cannot sync a folder
            raise
    finally:
        os.close(descriptor)


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The folder's manifest, or None where it is missing or not valid."""
    try:
        manifest = read_object(folder / MANIFEST, ("files",))
    except KeptFileUnusable:
        return None
    return manifest if manifest is not None and _is_manifest(manifest) else None


def parse_manifest(content: bytes) -> dict[str, Any] | None:
    """The manifest in a file's content, or None where it is not valid."""
    try:
        manifest = parse_object(content)
    except ValueError:
        return None
    return manifest if _is_manifest(manifest) else None


def _is_manifest(content: Mapping[str, Any]) -> bool:
    return _lists_files(content.get("files")) and all(isinstance(content.get(name, {}), dict) for name in OBJECTS)


def seconds_of(manifest: Mapping[str, Any]) -> float:
    """The seconds that the stage took; 0 where its manifest does not say.

    Those of a resumed training are of its last attempt: all its steps are taken to last as long as the ones of that attempt.
    """
    seconds, metrics = manifest.get("context", {}).get("seconds"), manifest.get("metrics", {})
    if not isinstance(seconds, (int, float)):
        return 0.0
    before, steps = metrics.get("resumed_at", 0), metrics.get("steps_done", 0)
    return float(seconds) * (steps / (steps - before) if steps > before else 1.0)


def _lists_files(files: object) -> bool:
    return isinstance(files, dict) and all(
        isinstance(entry, dict) and {"bytes", "sha256"} <= entry.keys() for entry in files.values()
    )


def wrong_sizes(folder: Path, manifest: Mapping[str, Any]) -> Iterator[str]:
    """Files that are missing or have another size, as interrupted writes and copies leave them."""
    for name, entry in manifest["files"].items():
        path = folder / name
        if not path.is_file():
            yield f"{name}: missing"
        elif path.stat().st_size != entry["bytes"]:
            yield f"{name}: {path.stat().st_size} bytes, {entry['bytes']} expected"


def wrong_contents(folder: Path, manifest: Mapping[str, Any]) -> list[str]:
    """As `wrong_sizes`, and files with other content. Reads every file."""
    problems = list(wrong_sizes(folder, manifest))
    if problems:
        return problems
    names = list(manifest["files"])
    try:
        digests = _digests([folder / name for name in names])
    except FileNotFoundError as error:  # another process is replacing the folder
        return [f"{Path(error.filename).name}: missing"]
    return [
        f"{name}: sha256 differs from the manifest's"
        for name, digest in zip(names, digests, strict=True)
        if digest != manifest["files"][name]["sha256"]
    ]


def _digests(paths: list[Path], *, durable: bool = False) -> list[str]:
    with ThreadPoolExecutor(HASHING_THREADS) as pool:
        return list(pool.map(_durable_sha256 if durable else _sha256, paths))


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _durable_sha256(path: Path) -> str:
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()
