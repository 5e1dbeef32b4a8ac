"""An output folder that moved: its SQLite store holds the absolute path of the files of its runs, and follows it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from analysis.store.database import ARTIFACTS, PATIENCE_S, PREFIX


def follow_folder(uri: str, output: Path) -> None:
    """Point the store in an output folder at the files beside it, where the folder has moved, or is a copy.

    Otherwise new files would go to the old place, into another study's records where that is the original of a copy.

    Raises:
        sqlite3.Error: the database cannot be written, or does not have MLflow's tables.
    """
    database, artifacts = Path(uri.removeprefix(PREFIX)), output.resolve() / ARTIFACTS
    if database.parent != output.resolve() or not database.is_file() or not artifacts.is_dir():
        return  # another store, which has its own place for files, or a new one
    here = artifacts.as_uri()
    with closing(sqlite3.connect(database, timeout=PATIENCE_S)) as connection, connection:
        stored = connection.execute(
            "SELECT experiment_id, artifact_location FROM experiments "
            f"WHERE artifact_location LIKE 'file:%/{ARTIFACTS}' AND artifact_location != ?",
            (here,),
        ).fetchall()
        for experiment, there in stored:
            connection.execute(
                "UPDATE experiments SET artifact_location = ? WHERE experiment_id = ?", (here, experiment)
            )
            connection.execute(
                "UPDATE runs SET artifact_uri = ? || substr(artifact_uri, ?) "
                "WHERE experiment_id = ? AND substr(artifact_uri, 1, ?) = ?",
                (here, len(there) + 1, experiment, len(there) + 1, f"{there}/"),
            )
