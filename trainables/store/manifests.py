"""Manifests: which files a folder holds, with size and sha256, written last. What has no valid manifest does not exist.

Files reach the disk before the manifest that vouches for them does: a power cut may otherwise keep the manifest and the sizes,
and leave zeros for the rest.
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

MANIFEST = "manifest.json"
HASHED_AT_ONCE = 8  # hashing lets go of the interpreter's lock


def write_manifest(folder: Path, content: Mapping[str, Any]) -> dict[str, Any]:
    """Vouch for every file that is in the folder now; the manifest, `content` with `files`, appears whole or not at all, and
    not before what it names would outlive a power cut."""
    inside = sorted(folder.rglob("*"))
    paths = [path for path in inside if path.is_file() and path != folder / MANIFEST]
    files = {
        str(path.relative_to(folder)): {"bytes": path.stat().st_size, "sha256": digest}
        for path, digest in zip(paths, _digests(paths, durable=True), strict=True)
    }
    for place in (*(path for path in inside if path.is_dir()), folder):
        sync_folder(place)
    manifest = {**content, "files": files}
    temporary = folder / f".{MANIFEST}"
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump(manifest, file, indent=1, allow_nan=False)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, folder / MANIFEST)
    sync_folder(folder)
    return manifest


def sync_folder(folder: Path) -> None:
    """Make durable which files the folder holds, on file systems that can."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EBADF):  # some have no such thing for folders
            raise
    finally:
        os.close(descriptor)


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The folder's manifest, or None where there is none or it is no manifest."""
    try:
        with open(folder / MANIFEST, encoding="utf-8") as file:
            manifest = json.load(file)
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError, UnicodeDecodeError):
        return None
    return manifest if isinstance(manifest, dict) and isinstance(manifest.get("files"), dict) else None


def wrong_sizes(folder: Path, manifest: Mapping[str, Any]) -> Iterator[str]:
    """Files that are missing or of another size: what interrupted writing and copying leave."""
    for name, entry in manifest["files"].items():
        path = folder / name
        if not path.is_file():
            yield f"{name}: missing"
        elif path.stat().st_size != entry["bytes"]:
            yield f"{name}: {path.stat().st_size} bytes, {entry['bytes']} expected"


def wrong_contents(folder: Path, manifest: Mapping[str, Any]) -> list[str]:
    """As `wrong_sizes`, and files of other bytes. Reads everything."""
    found = list(wrong_sizes(folder, manifest))
    if found:
        return found
    names = list(manifest["files"])
    try:
        digests = _digests([folder / name for name in names])
    except FileNotFoundError as error:  # somebody else replaces the folder
        return [f"{Path(error.filename).name}: missing"]
    return [
        f"{name}: sha256 differs from the manifest's"
        for name, digest in zip(names, digests, strict=True)
        if digest != manifest["files"][name]["sha256"]
    ]


def _digests(paths: list[Path], *, durable: bool = False) -> list[str]:
    with ThreadPoolExecutor(HASHED_AT_ONCE) as pool:
        return list(pool.map(_durable_sha256 if durable else _sha256, paths))


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _durable_sha256(path: Path) -> str:
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()
