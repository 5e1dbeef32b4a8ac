"""Manifests: which files a folder holds, with size and sha256, written last. What has no valid manifest does not exist."""

from __future__ import annotations

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
    """Vouch for every file that is in the folder now; the manifest, `content` with `files`, appears whole or not at all."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and path != folder / MANIFEST]
    files = {
        str(path.relative_to(folder)): {"bytes": path.stat().st_size, "sha256": digest}
        for path, digest in zip(paths, _digests(paths), strict=True)
    }
    manifest = {**content, "files": files}
    temporary = folder / f".{MANIFEST}"
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump(manifest, file, indent=1, allow_nan=False)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, folder / MANIFEST)
    return manifest


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
            yield f"{name} is missing"
        elif path.stat().st_size != entry["bytes"]:
            yield f"{name} has {path.stat().st_size} bytes, not {entry['bytes']}"


def wrong_contents(folder: Path, manifest: Mapping[str, Any]) -> list[str]:
    """As `wrong_sizes`, and files of other bytes. Reads everything."""
    found = list(wrong_sizes(folder, manifest))
    if found:
        return found
    names = list(manifest["files"])
    digests = zip(names, _digests([folder / name for name in names]), strict=True)
    return [
        f"{name}: sha256 differs from the manifest's"
        for name, digest in digests
        if digest != manifest["files"][name]["sha256"]
    ]


def _digests(paths: list[Path]) -> list[str]:
    with ThreadPoolExecutor(HASHED_AT_ONCE) as pool:
        return list(pool.map(_sha256, paths))


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
