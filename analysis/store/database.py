"""The SQLite database of an output folder, as another process may have left it: damaged, locked, or moved with its folder."""

from __future__ import annotations

import sqlite3
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

PREFIX = "sqlite:///"
ARTIFACTS = "artifacts"  # the folder beside the database that holds the files of runs
PATIENCE_S = 60.0  # for another process's lock
POLL_S = 1.0


def file_of(tracking_uri: str) -> Path | None:
    """The file of an SQLite store; None for another store."""
    path = tracking_uri.removeprefix(PREFIX)
    return Path(path) if path != tracking_uri and path else None


def check_readable(path: Path, *, say: Callable[[str], object] = lambda line: print(line, file=sys.stderr)) -> None:
    """Wait while another process locks the database, and check that it can be read.

    Raises:
        ValueError: it is missing or damaged, no file, or stays locked; the message says what to do.
    """
    if not path.exists():
        raise ValueError(f"no MLflow store at {path}: the file does not exist; pass the URI the study wrote to")
    until, said = time.monotonic() + PATIENCE_S, False
    while True:
        try:
            with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=POLL_S)) as database:
                if database.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
                    raise sqlite3.DatabaseError("its pages are damaged")
                return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error):
                raise ValueError(f"{path} cannot be read ({error})") from error
            if time.monotonic() > until:
                raise ValueError(
                    f"{path} has been locked by another process for {PATIENCE_S:.0f} s; end that process, or wait for it"
                ) from error
            if not said:
                say(f"{path} is locked by another process; waiting for up to {PATIENCE_S:.0f} s")
                said = True
        except sqlite3.DatabaseError as error:
            raise ValueError(
                f"{path} is damaged ({error}). Restore it from a copy, or move it away and run `python -m study sync "
                f"{path.parent}`: the output folder keeps every result, and sends them to a new database"
            ) from error


def artifacts_beside(path: Path, stored: str) -> str:
    """Where a run's files are: beside the database, if its folder has moved since `stored` was written, else `stored`."""
    *_, outer, run_id, inner = ("", "", "", *stored.split("/"))
    beside = path.resolve().parent / ARTIFACTS / run_id / ARTIFACTS
    return beside.as_uri() if (outer, inner) == (ARTIFACTS, ARTIFACTS) and beside.is_dir() else stored
