"""Digests of files."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path


def file_digest(path: Path) -> str:
    """The SHA-256 digest of a file's content; computed again only if its modification time changes."""
    return _file_digest(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=4096)
def _file_digest(path: Path, modified_ns: int) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
