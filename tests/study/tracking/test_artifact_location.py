"""Where an experiment's artifacts go, by the kind of its store."""

from pathlib import Path

import pytest

from study.tracking.mlflow_store import artifact_location


@pytest.mark.parametrize("uri", ["sqlite:///mlflow.db", "postgresql://u@db/mlflow", "mysql+pymysql://u:p@db/mlflow"])
def test_artifacts_of_a_database_are_beside_the_stages(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not in `mlruns` of the current directory, which is MLflow's choice."""
    monkeypatch.chdir(tmp_path)
    assert artifact_location(uri, Path("runs/a")) == (tmp_path / "runs" / "a" / "artifacts").as_uri()


@pytest.mark.parametrize("uri", ["http://127.0.0.1:5000", "https://mlflow.example.org/x", "databricks"])
def test_a_server_has_a_place_of_its_own(uri: str, tmp_path: Path) -> None:
    assert artifact_location(uri, tmp_path) is None
