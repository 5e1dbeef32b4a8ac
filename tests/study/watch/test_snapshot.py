"""Copies of a store that a run is writing: whole, and made without a lock."""

from __future__ import annotations

import itertools
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import analysis
from study.tracking.tracker import Tracker, default_uri
from study.watch.snapshot import NoSnapshot, snapshot
from study.watch.store_files import version_of

COUNT = "SELECT count(*) FROM numbers"


@pytest.fixture
def output(tmp_path: Path) -> Path:
    folder = tmp_path / "output"
    folder.mkdir()
    with closing(sqlite3.connect(folder / "mlflow.db")) as database, database:
        database.execute("CREATE TABLE numbers (value TEXT)")
        database.executemany("INSERT INTO numbers VALUES (?)", [("x" * 1000,)] * 10)
    return folder


def _into(tmp_path: Path) -> Path:
    into = tmp_path / "into"
    into.mkdir()
    return into


def _rows(uri: str) -> int:
    with closing(sqlite3.connect(uri.removeprefix("sqlite:///"))) as database:
        return int(database.execute(COUNT).fetchone()[0])


def test_a_copy_is_made_while_a_writer_holds_every_lock(output: Path, tmp_path: Path) -> None:
    """A reader of the file itself gets nothing then; and the copy lacks what is not committed, though the file has it."""
    with closing(sqlite3.connect(output / "mlflow.db", isolation_level=None)) as writer:
        writer.execute("PRAGMA cache_spill = ON")
        writer.execute("PRAGMA cache_size = 1")
        writer.execute("BEGIN EXCLUSIVE")
        writer.executemany("INSERT INTO numbers VALUES (?)", [("y" * 1000,)] * 1000)
        assert (output / "mlflow.db-journal").exists()
        assert (output / "mlflow.db").stat().st_size > 500_000, "pages of the transaction are in the file"
        with (
            pytest.raises(sqlite3.OperationalError, match="locked"),
            closing(sqlite3.connect(output / "mlflow.db", timeout=0)) as reader,
        ):
            reader.execute(COUNT)
        assert _rows(snapshot(output, _into(tmp_path))) == 10
        writer.execute("COMMIT")
    with closing(sqlite3.connect(output / "mlflow.db")) as database:
        assert database.execute(COUNT).fetchone() == (1010,), "the copy did not disturb the writer"


def test_a_file_that_changes_during_the_copy_is_copied_again(
    output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy, copies = shutil.copyfile, []

    def changing(source: Path, target: Path) -> Any:
        done = copy(source, target)
        copies.append(source)
        if len(copies) == 1:
            with closing(sqlite3.connect(output / "mlflow.db")) as database, database:
                database.execute("INSERT INTO numbers VALUES ('late')")
        return done

    monkeypatch.setattr("shutil.copyfile", changing)
    waits: list[float] = []
    assert _rows(snapshot(output, _into(tmp_path), sleep=waits.append)) == 11
    assert len(waits) == 1


def test_a_store_that_never_rests_is_given_up_for_now(
    output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions = itertools.count()
    monkeypatch.setattr("study.watch.snapshot.database_version", lambda folder: next(versions))
    with pytest.raises(NoSnapshot, match="changed during each of"):
        snapshot(output, _into(tmp_path), sleep=lambda seconds: None)


def test_files_beside_the_store_are_found_through_the_copy(output: Path, tmp_path: Path) -> None:
    (output / "artifacts" / "run").mkdir(parents=True)
    snapshot(output, into := _into(tmp_path))
    assert (into / "artifacts" / "run").is_dir()


def test_a_folder_without_results_has_no_copy(tmp_path: Path) -> None:
    assert not any(version_of(tmp_path))
    with pytest.raises(NoSnapshot, match="no result yet"):
        snapshot(tmp_path, _into(tmp_path))


def test_every_change_shows_in_the_version(output: Path) -> None:
    before = version_of(output)
    assert version_of(output) == before
    with closing(sqlite3.connect(output / "mlflow.db")) as database, database:
        database.execute("UPDATE numbers SET value = 'z'")
    assert version_of(output) != before


@pytest.mark.slow
def test_an_offline_run_is_read_from_its_outbox_while_it_is_open(tmp_path: Path) -> None:
    output = tmp_path / "output"
    params: dict[str, str | float | None] = {
        "intermediate": "none",
        "lr_intermediate": None,
        "lr_target": 1e-3,
        "seed": 0,
    }
    with Tracker(default_uri(output), "tiny", output=output, offline=True) as tracker:
        tracker.describe({"study.seed": 0})
        tracker.metrics(tracker.trial("1x32", "t0", default_cell=True, params=params), {"dev/score": 40.0})
        frames = analysis.load(snapshot(output, _into(tmp_path)))
    assert frames.trials["dev_score"].tolist() == [40.0]
