"""Atomic writes: a file appears whole or not at all, whoever reads it meanwhile and wherever the writer is interrupted."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """The path of a temporary file in the same folder, which replaces `path` at the end of the block.

    Its name is unique, so that several processes may write the same path, and hidden, so that no pattern of finished files
    matches it. An error removes it. `durable` flushes its content to disk before the rename: otherwise a power cut may keep
    the name and lose the bytes.

    Raises:
        OSError: the folder is missing, full or read-only.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        yield temporary
        if durable:
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str, *, durable: bool = False) -> None:
    """Replace the file with this text in UTF-8. Arguments and errors as for `replacing`."""
    with replacing(path, durable=durable) as temporary:
        temporary.write_text(text, encoding="utf-8")
