"""An output folder that was moved or copied, and an MLflow database that is damaged, locked, or had runs deleted."""

from __future__ import annotations

import shutil
import sqlite3
import threading
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient
from typer.testing import CliRunner

import analysis
from analysis.store import database
from study.cli.app import app
from study.tracking.tracker import Tracker, default_uri
from tests.support.studies import Planted, plant

SMALL = Planted(
    sizes={"2x128": 0.4}, targets={"xnli": 55.0}, gains={"topic": {"xnli": 2.0}}, seeds=1, sampled=0, examples=20
)


@pytest.fixture
def planted(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    plant(folder, SMALL)
    return folder


def _report(folder: Path, *options: str) -> tuple[int, str]:
    ran = CliRunner().invoke(app, ["report", str(folder), *options])
    return ran.exit_code, ran.stderr


def _refused(folder: Path, *options: str) -> str:
    code, said = _report(folder, *options)
    assert code == 2, said
    assert len(said.splitlines()) == 1
    return said


def _artifacts(folder: Path) -> dict[str, str]:
    files = (path for path in (folder / "artifacts").rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_text() for path in files}


def _write(output: Path, content: str) -> None:
    with Tracker(default_uri(output), "demo", output=output, say=lambda line: None) as tracker:
        path = output / "examples.parquet"
        path.write_text(content)
        tracker.artifact(tracker.size("s"), path)
        assert tracker.flush()


def test_a_copy_writes_its_files_beside_itself_and_leaves_the_original_alone(tmp_path: Path) -> None:
    original, copy = tmp_path / "original", tmp_path / "copy"
    _write(original, "first")
    before = _artifacts(original)
    shutil.copytree(original, copy)
    # In a process of its own: MLflow remembers where the files of a run are.
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        process.submit(_write, copy, "second").result()
    assert _artifacts(original) == before
    (stored,) = (copy / "artifacts").rglob("examples.parquet")
    assert stored.read_text() == "second"
    client = MlflowClient(default_uri(copy))
    (experiment,) = (found for found in client.search_experiments() if found.name == "demo")
    assert experiment.artifact_location == (copy / "artifacts").as_uri()


def test_a_moved_folder_keeps_its_intervals(planted: Path, tmp_path: Path) -> None:
    def with_examples(folder: Path) -> bool:
        return bool(analysis.gains(analysis.load(default_uri(folder), "planted"))["with_examples"].all())

    assert with_examples(planted)
    moved = tmp_path / "elsewhere"
    planted.rename(moved)
    assert with_examples(moved)
    code, said = _report(moved)
    assert code == 0, said
    assert list((moved / "artifacts").rglob("report.html"))
    assert not planted.exists()


@pytest.mark.parametrize("content", [b"hello", b"SQLite format 3\x00" + bytes(5000)])
def test_a_damaged_database_is_one_sentence_with_the_way_out(content: bytes, planted: Path) -> None:
    (planted / "mlflow.db").write_bytes(content)
    assert "is damaged" in _refused(planted)
    said = CliRunner().invoke(app, ["ui", str(planted), "--port", "65000"])
    assert said.exit_code == 2
    assert "python -m study sync" in said.stderr


def test_a_truncated_database_is_damaged(planted: Path) -> None:
    whole = (planted / "mlflow.db").read_bytes()
    (planted / "mlflow.db").write_bytes(whole[: len(whole) // 2])
    assert "is damaged" in _refused(planted)


def test_a_lock_is_waited_for_and_said(planted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lock = sqlite3.connect(planted / "mlflow.db", isolation_level=None, check_same_thread=False)
    lock.execute("BEGIN EXCLUSIVE")
    threading.Timer(1.5, lock.rollback).start()
    code, said = _report(planted, "--no-attach")
    lock.close()
    assert code == 0, said
    assert "is locked by another process; waiting for up to 60 s" in said


def test_a_lock_that_stays_is_refused(planted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "PATIENCE_S", 0.0)
    with closing(sqlite3.connect(planted / "mlflow.db", isolation_level=None)) as lock:
        lock.execute("BEGIN EXCLUSIVE")
        assert "has been locked by another process" in _refused(planted)


def test_a_deleted_experiment_says_how_to_restore_it(planted: Path) -> None:
    client = MlflowClient(default_uri(planted))
    (experiment,) = (found for found in client.search_experiments() if found.name == "planted")
    client.delete_experiment(experiment.experiment_id)
    said = _refused(planted)
    assert "the experiment 'planted' was deleted: `mlflow experiments restore --experiment-id" in said
    assert "run one first" not in said


def test_deleted_runs_are_counted_and_said(planted: Path) -> None:
    client = MlflowClient(default_uri(planted))
    (experiment,) = (found for found in client.search_experiments() if found.name == "planted")
    runs: list[Any] = list(client.search_runs([experiment.experiment_id]))
    client.delete_run(runs[0].info.run_id)
    code, said = _report(planted, "--no-attach")
    assert code == 0
    assert "1 runs were deleted in MLflow and are not in the report" in said
    for run in runs[1:]:
        client.delete_run(run.info.run_id)
    assert f"all {len(runs)} runs of the experiment 'planted' were deleted" in _refused(planted)


@pytest.mark.parametrize(("to", "reason"), [("", "a folder; give the file"), ("mlflow.db/x.html", "cannot be written")])
def test_a_report_that_cannot_be_written_is_refused(to: str, reason: str, planted: Path) -> None:
    assert reason in _refused(planted, "--to", str(planted / to))
