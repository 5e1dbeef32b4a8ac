"""MLflow: runs are found again instead of made again, nothing non-finite is logged, an unreachable store is said."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from mlflow import MlflowClient

from study.tracking import Tracking, TrackingUnavailable, default_uri


@pytest.fixture(scope="module")
def tracking(tmp_path_factory: pytest.TempPathFactory) -> Tracking:
    folder = tmp_path_factory.mktemp("mlflow")
    return Tracking(default_uri(folder), "demo", folder / "artifacts")


def test_the_same_trial_is_one_run_however_often_it_is_written(tracking: Tracking) -> None:
    params = {"intermediate": "none", "lr_intermediate": None, "lr_target": 1e-3}
    first = tracking.trial("s", "t1", default_cell=True, params=params)
    count = tracking.runs()
    assert tracking.trial("s", "t1", default_cell=True, params=params) == first
    assert tracking.runs() == count
    other_size = tracking.trial("other", "t1", default_cell=True, params=params)
    assert other_size != first
    run = MlflowClient(tracking_uri=tracking.uri).get_run(first)
    assert run.data.params["lr_intermediate"] == "none"
    assert run.data.tags["mlflow.parentRunId"] == tracking.size("s")


def test_a_number_that_is_none_is_tagged_not_logged(tracking: Tracking) -> None:
    run = tracking.benchmark("s", "fp32", {})
    tracking.metrics(run, {"bench/p50_ms": 1.5, "bench/p99_ms": math.nan, "bench/energy_j_per_sample": None})
    data = MlflowClient(tracking_uri=tracking.uri).get_run(run).data
    assert data.metrics == {"bench/p50_ms": 1.5}
    assert data.tags["unavailable:bench/p99_ms"] == "nan"


def test_opening_a_study_again_finds_its_experiment(tracking: Tracking, tmp_path: Path) -> None:
    again = Tracking(tracking.uri, "demo", tmp_path)
    assert again.experiment_id == tracking.experiment_id


def test_a_store_that_cannot_be_opened_is_said(tmp_path: Path) -> None:
    with pytest.raises(TrackingUnavailable, match="no MLflow store"):
        Tracking("http://127.0.0.1:9", "demo", tmp_path)  # the discard port: nobody answers
