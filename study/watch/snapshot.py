"""A copy of the store of an output folder that a run may be writing, made without any lock.

A reader of SQLite holds a lock that keeps the writer from committing, and on a network file system there may be none. So the
files are copied, and the copy counts if none of them changed meanwhile: then it is what a crash at that moment would have left,
which SQLite recovers from.
"""

from __future__ import annotations

import shutil
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from analysis.store.database import ARTIFACTS, PREFIX
from study.tracking.outbox import FOLDER, read_entries
from study.watch.store_files import DATABASE, DATABASE_FILES, database_version

ATTEMPTS, PAUSE_S = 10, 0.3


class NoSnapshot(RuntimeError):
    """There is nothing to copy yet, or it changed during every attempt; the message says which."""


def snapshot(output: Path, into: Path, *, sleep: Callable[[float], object] = time.sleep) -> str:
    """Copy the store into the empty folder `into`; the copy's URI.

    Without a database in the output folder, as with `--offline` or an MLflow server, the store is built from the outbox, and
    has no scores by example.

    Raises:
        NoSnapshot: there is no result yet, or the database changed during every attempt.
    """
    uri = f"{PREFIX}{into.resolve() / DATABASE}"
    if not (output / DATABASE).is_file():
        entries = read_entries(output / FOLDER)
        if not entries or entries[0]["do"] != "journal":
            raise NoSnapshot("no result yet")
        from study.tracking.sync import rebuild  # loads torch, in 3 s and 250 MB, which few builds need

        rebuild(entries, uri, output=into, say=lambda line: None)
        return uri
    for attempt in range(ATTEMPTS):
        if attempt:
            sleep(PAUSE_S)
        if _copied(output, into):
            (into / ARTIFACTS).symlink_to((output / ARTIFACTS).resolve(), target_is_directory=True)
            return uri
    raise NoSnapshot(f"{output / DATABASE} changed during each of {ATTEMPTS} attempts to copy it")


def _copied(output: Path, into: Path) -> bool:
    """Whether the database was copied whole, and the copy can be read."""
    before = database_version(output)
    for name in DATABASE_FILES:
        (into / name).unlink(missing_ok=True)
        try:
            shutil.copyfile(output / name, into / name)
        except FileNotFoundError:
            continue
    if before != database_version(output):
        return False
    try:
        with closing(sqlite3.connect(into / DATABASE)) as database:  # rolls an unfinished transaction back
            database.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.DatabaseError:
        return False
    return True
