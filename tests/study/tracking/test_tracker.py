"""MLflow: runs are found again instead of made again, nothing non-finite is logged, threads may write at the same time."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from study.tracking.tracker import Tracking, default_uri

PARAMS = {"intermediate": "none", "lr_intermediate": None, "lr_target": 1e-3, "seed": 0}


@pytest.fixture(scope="module")
def tracking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tracking]:
    folder = tmp_path_factory.mktemp("mlflow")
    with Tracking(default_uri(folder), "demo", folder) as tracking:
        yield tracking


def _runs(tracking: Tracking) -> dict[str, Run]:
    assert tracking.flush()
    client = MlflowClient(tracking_uri=tracking.uri)
    experiment = client.get_experiment_by_name(tracking.experiment)
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id], max_results=1000)
    runs = {run.data.tags["key"]: run for run in found}
    assert len(runs) == len(found), "a run appears twice"
    return runs


def test_the_same_trial_is_one_run_however_often_it_is_written(tracking: Tracking) -> None:
    first = tracking.trial("s", "t1", default_cell=True, params=PARAMS)
    assert tracking.trial("s", "t1", default_cell=True, params=PARAMS) == first
    assert tracking.trial("other", "t1", default_cell=True, params=PARAMS) != first
    runs = _runs(tracking)
    assert [key for key in runs if "t1" in key] != []
    assert runs[first].data.params == {
        "intermediate": "none",
        "lr_intermediate": "none",
        "lr_target": "0.001",
        "seed": "0",
    }
    assert runs[first].data.tags["mlflow.parentRunId"] == runs[tracking.size("s")].info.run_id
    assert runs[first].data.tags["default_cell"] == "true"


def test_a_repeat_is_a_run_of_its_own_beside_the_trial(tracking: Tracking) -> None:
    trial = tracking.trial("s", "t2", default_cell=False, params=PARAMS)
    repeat = tracking.repeat("s", "t2-s3", of="t2", params={**PARAMS, "seed": 3})
    runs = _runs(tracking)
    assert runs[repeat].data.params == {**runs[trial].data.params, "seed": "3"}
    tags = runs[repeat].data.tags
    expected = {"kind": "repeat", "size": "s", "trial_id": "t2-s3", "repeats": "t2"}
    assert {name: tags[name] for name in expected} == expected
    assert tags["mlflow.parentRunId"] == runs[tracking.size("s")].info.run_id


def test_a_number_that_is_none_is_tagged_not_logged(tracking: Tracking) -> None:
    run = tracking.benchmark("s", "fp32", {})
    tracking.metrics(run, {"bench/p50_ms": 1.5, "bench/p99_ms": math.nan, "bench/energy_j_per_sample": None})
    data = _runs(tracking)[run].data
    assert data.metrics == {"bench/p50_ms": 1.5}
    assert data.tags["unavailable:bench/p99_ms"] == "nan"


def test_the_last_value_of_everything_stands(tracking: Tracking) -> None:
    run = tracking.trial("s", "t3", default_cell=False, params=PARAMS)
    for outcome, status, score in (("failed", "FAILED", 1.0), ("complete", "FINISHED", 2.0), ("failed", "FAILED", 1.5)):
        tracking.metrics(run, {"dev/score": score}, step=1)
        tracking.tags(run, {"outcome": outcome})
        tracking.finish(run, status)
        assert tracking.tag(run, "outcome") == outcome
    found = _runs(tracking)[run]
    assert found.data.tags["outcome"] == "failed"
    assert found.info.status == "FAILED"


def test_opening_a_study_again_writes_nothing_that_is_there(tmp_path: Path) -> None:
    def write(tracking: Tracking) -> None:
        tracking.describe({"study.seed": 0})
        run = tracking.trial("s", "t1", default_cell=True, params=PARAMS)
        tracking.metrics(run, {"dev/score": 50.0}, step=1)
        tracking.metrics(run, {"dev/score": 60.0, "test/score": 30.0}, step=2)
        (tmp_path / "report.html").write_text("report")
        tracking.artifact(run, tmp_path / "report.html")
        tracking.tags(run, {"outcome": "complete"})
        tracking.finish(run)

    journal = tmp_path / "outbox" / "journal.jsonl"
    with Tracking(default_uri(tmp_path), "demo", tmp_path) as first:
        write(first)
        before = {key: run.to_dictionary() for key, run in _runs(first).items()}
    size = journal.stat().st_size
    with Tracking(default_uri(tmp_path), "demo", tmp_path) as again:
        write(again)
        assert {key: run.to_dictionary() for key, run in _runs(again).items()} == before
        assert journal.stat().st_size == size
        # A store that was lost is filled again, from the same journal.
    (tmp_path / "mlflow.db").unlink()
    with Tracking(default_uri(tmp_path), "demo", tmp_path) as anew:
        assert {key: run.data.to_dictionary()["metrics"] for key, run in _runs(anew).items()} == {
            key: run["data"]["metrics"] for key, run in before.items()
        }
        client = MlflowClient(tracking_uri=anew.uri)
        history = client.get_metric_history(_runs(anew)["trial:s:t1"].info.run_id, "dev/score")
        assert sorted((point.step, point.value) for point in history) == [(1, 50.0), (2, 60.0)]


def test_several_threads_of_the_driver_write_at_the_same_time(tracking: Tracking) -> None:
    def search(size: str) -> None:
        for number in range(6):
            run = tracking.trial(size, f"p{number}", default_cell=False, params=PARAMS)
            for step in (1, 2):
                tracking.metrics(run, {"dev/score": 10.0 * number + step}, step=step)
            tracking.finish(run)

    threads = [threading.Thread(target=search, args=(f"size{number % 2}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    runs = _runs(tracking)
    for size in ("size0", "size1"):
        for number in range(6):
            run = runs[f"trial:{size}:p{number}"]
            assert run.data.metrics == {"dev/score": 10.0 * number + 2}
            assert run.data.tags["mlflow.parentRunId"] == runs[f"size:{size}"].info.run_id
            assert run.info.status == "FINISHED"


def test_the_last_value_stands_also_where_the_clock_went_back(tmp_path: Path) -> None:
    """A study that goes on under another machine's clock, with one write long before the last and one at the same time."""
    for now, failed in ((2_000_000_000_000, 2), (1_000_000_000_000, 1), (2_000_000_000_001, 0)):
        with Tracking(default_uri(tmp_path), "demo", tmp_path, clock_ms=lambda now=now: now) as tracking:  # type: ignore[misc]
            tracking.metrics(tracking.size("s"), {"failed": failed})
            tracking.finish("size:s")
            run = _runs(tracking)["size:s"]
            assert run.data.metrics == {"failed": failed}
    history = MlflowClient(tracking_uri=tracking.uri).get_metric_history(run.info.run_id, "failed")
    assert [point.value for point in sorted(history, key=lambda point: point.timestamp)] == [2, 1, 0]
    with open(tmp_path / "outbox" / "journal.jsonl", encoding="utf-8") as file:
        stamps = [entry["at"] for entry in map(json.loads, file) if "at" in entry]
    assert stamps[0] == 2_000_000_000_000
    assert stamps == sorted(set(stamps)), "strictly later each time"
