"""The files of an output folder's store, and whether they changed."""

from __future__ import annotations

from pathlib import Path

from study.tracking.outbox import FOLDER

DATABASE = "mlflow.db"
DATABASE_FILES = (DATABASE, f"{DATABASE}-journal", f"{DATABASE}-wal")
_COUNTER = slice(24, 28)  # of an SQLite file: changes with every transaction

Stamp = tuple[int, int, int, bytes] | None
Version = tuple[Stamp, ...]


def version_of(output: Path) -> Version:
    """What changes whenever the store or the outbox of the folder does; all None where there is neither."""
    return (*database_version(output), _stamp(output / FOLDER / "journal.jsonl"))


def database_version(output: Path) -> Version:
    """The same of the database alone."""
    return tuple(_stamp(output / name) for name in DATABASE_FILES)


def _stamp(path: Path) -> Stamp:
    """Identity, size, time and change counter of a file; None if there is none."""
    try:
        with open(path, "rb") as file:
            head = file.read(_COUNTER.stop)
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns, head[_COUNTER]
