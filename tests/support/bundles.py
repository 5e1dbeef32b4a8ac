"""Bundles of evidence with other members, as somebody who wants to be believed would make them."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from study.evidence.archive import INDEX, write_archive
from trainables.store.kept import sealed, unsealed


def contents(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist() if name != INDEX}


def index_of(path: Path) -> dict[str, Any]:
    with zipfile.ZipFile(path) as archive:
        return unsealed(json.loads(archive.read(INDEX)))


def rewritten(path: Path, members: dict[str, bytes]) -> Path:
    """A bundle with other members, whose index agrees with them."""
    about = {name: value for name, value in index_of(path).items() if name not in ("files", "format")}
    write_archive(path, members, about)
    return path


def with_table(content: bytes, change: Callable[[pd.DataFrame], pd.DataFrame], folder: Path) -> bytes:
    """A Parquet file with a changed table."""
    path = folder / "table.parquet"
    path.write_bytes(content)
    change(pd.read_parquet(path)).to_parquet(path, index=False)
    return path.read_bytes()


def resealed(manifest: bytes, **files: bytes) -> bytes:
    """A manifest that lists other contents of files, sealed again."""
    content = unsealed(json.loads(manifest))
    for name, data in files.items():
        entry = content["files"][f"{name}.parquet"]
        entry |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    return json.dumps(sealed(content)).encode()
