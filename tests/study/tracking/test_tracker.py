"""Runs in MLflow: created once, without NaN or infinite metrics, also when several threads write."""

from __future__ import annotations

import json
import math
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from study.tracking.notes import trial_note
from study.tracking.tracker import Tracker, default_uri
from tests.study.tracking.helpers import PARAMS
from tests.support.commands import ROOT


@pytest.fixture(scope="module")
def tracker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tracker]:
    folder = tmp_path_factory.mktemp("mlflow")
    with Tracker(default_uri(folder), "demo", output=folder) as tracker:
        yield tracker


def _runs(tracker: Tracker) -> dict[str, Run]:
    assert tracker.flush()
    client = MlflowClient(tracking_uri=tracker.uri)
    experiment = client.get_experiment_by_name(tracker.experiment)
    assert experiment is not None
    stored = client.search_runs([experiment.experiment_id], max_results=1000)
    runs = {run.data.tags["key"]: run for run in stored}
    assert len(runs) == len(stored), "a run appears twice"
    return runs


def test_a_trial_is_one_run_however_often_it_is_written(tracker: Tracker) -> None:
    first = tracker.trial("s", "t1", default_cell=True, params=PARAMS)
    assert tracker.trial("s", "t1", default_cell=True, params=PARAMS) == first
    assert tracker.trial("other", "t1", default_cell=True, params=PARAMS) != first
    runs = _runs(tracker)
    assert {key for key in runs if "t1" in key} == {"trial:s:t1", "trial:other:t1"}
    assert runs[first].data.params == {
        "intermediate": "none",
        "lr_intermediate": "none",
        "lr_target": "0.001",
        "seed": "0",
    }
    assert runs[first].data.tags["mlflow.parentRunId"] == runs[tracker.size("s")].info.run_id
    assert runs[first].data.tags["default_cell"] == "true"


def test_a_repeat_is_another_run_than_its_trial(tracker: Tracker) -> None:
    trial = tracker.trial("s", "t2", default_cell=False, params=PARAMS)
    repeat = tracker.repeat("s", "t2-s3", of="t2", params={**PARAMS, "seed": 3})
    runs = _runs(tracker)
    assert runs[repeat].data.params == {**runs[trial].data.params, "seed": "3"}
    tags = runs[repeat].data.tags
    expected = {"kind": "repeat", "size": "s", "trial_id": "t2-s3", "repeats": "t2"}
    assert {name: tags[name] for name in expected} == expected
    assert tags["mlflow.parentRunId"] == runs[tracker.size("s")].info.run_id


def test_a_nan_metric_is_tagged_and_not_logged(tracker: Tracker) -> None:
    run = tracker.benchmark("s", "fp32", tags={})
    tracker.metrics(run, {"bench/p50_ms": 1.5, "bench/p99_ms": math.nan, "bench/energy_j_per_sample": None})
    data = _runs(tracker)[run].data
    assert data.metrics == {"bench/p50_ms": 1.5}
    assert data.tags["unavailable:bench/p99_ms"] == "nan"


def test_the_last_value_of_everything_counts(tracker: Tracker) -> None:
    run = tracker.trial("s", "t3", default_cell=False, params=PARAMS)
    for outcome, status, score in (("failed", "FAILED", 1.0), ("complete", "FINISHED", 2.0), ("failed", "FAILED", 1.5)):
        tracker.metrics(run, {"dev/score": score}, step=1)
        tracker.tags(run, {"outcome": outcome})
        tracker.finish(run, status)
        assert tracker.tag(run, "outcome") == outcome
    stored = _runs(tracker)[run]
    assert stored.data.tags["outcome"] == "failed"
    assert stored.info.status == "FAILED"


def test_a_resumed_study_writes_only_what_is_new(tmp_path: Path) -> None:
    def write(tracker: Tracker) -> None:
        tracker.describe({"study.seed": 0})
        run = tracker.trial("s", "t1", default_cell=True, params=PARAMS)
        tracker.metrics(run, {"dev/score": 50.0}, step=1)
        tracker.metrics(run, {"dev/score": 60.0, "test/score": 30.0}, step=2)
        (tmp_path / "report.html").write_text("report")
        tracker.artifact(run, tmp_path / "report.html")
        tracker.tags(run, {"outcome": "complete"})
        tracker.finish(run)

    journal = tmp_path / "outbox" / "journal.jsonl"
    with Tracker(default_uri(tmp_path), "demo", output=tmp_path) as first:
        write(first)
        before = {key: run.to_dictionary() for key, run in _runs(first).items()}
    size = journal.stat().st_size
    with Tracker(default_uri(tmp_path), "demo", output=tmp_path) as second:
        write(second)
        assert {key: run.to_dictionary() for key, run in _runs(second).items()} == before
        assert journal.stat().st_size == size
    # A lost store is filled again, from the same outbox.
    (tmp_path / "mlflow.db").unlink()
    with Tracker(default_uri(tmp_path), "demo", output=tmp_path) as refilled:
        assert {key: run.data.to_dictionary()["metrics"] for key, run in _runs(refilled).items()} == {
            key: run["data"]["metrics"] for key, run in before.items()
        }
        client = MlflowClient(tracking_uri=refilled.uri)
        history = client.get_metric_history(_runs(refilled)["trial:s:t1"].info.run_id, "dev/score")
        assert sorted((point.step, point.value) for point in history) == [(1, 50.0), (2, 60.0)]


def test_a_run_says_what_it_is_and_where_it_comes_from_when_it_is_created(tmp_path: Path) -> None:
    """A resumed study leaves the runs that exist as they are."""
    uri = default_uri(tmp_path)
    params = {**PARAMS, "intermediate": "topics", "lr_intermediate": 2e-3, "epochs": 2.0}
    with Tracker(uri, "demo", output=tmp_path, source={"mlflow.user": "ada", "mlflow.source.name": "first"}) as tracker:
        trial = tracker.trial("s", "t1", default_cell=True, params=params)
    with Tracker(uri, "demo", output=tmp_path, source={"mlflow.source.name": "second"}) as resumed:
        resumed.trial("s", "t1", default_cell=True, params=params)
        repeat = resumed.repeat("s", "t1-s3", of="t1", params={**PARAMS, "seed": 3})
        benchmark = resumed.benchmark("s", "fp32@abc", tags={"variant": "fp32"})
        runs = _runs(resumed)
    assert runs[trial].info.user_id == "ada"
    sources = {key: run.data.tags["mlflow.source.name"] for key, run in runs.items()}
    assert sources == {"size:s": "first", trial: "first", repeat: "second", benchmark: "second"}
    notes = {key: run.data.tags["mlflow.note.content"] for key, run in runs.items()}
    assert notes[trial] == (
        "Trial of size s: trained on topics at learning rate 0.002, then trained on each target at learning rate 0.001 and 2.0 "
        "times the usual steps, seed 0."
    )
    assert "Repeat of trial t1 of size s with seed 3" in notes[repeat]
    assert "without an intermediate task" in notes[repeat]
    assert "variant fp32 of the best model of size s" in notes[benchmark]
    assert "size s" in notes["size:s"]


def test_only_the_best_trial_and_its_current_benchmarks_are_marked(tmp_path: Path) -> None:
    with Tracker(default_uri(tmp_path), "demo", output=tmp_path) as tracker:
        for size in ("s", "other"):
            for trial_id in ("t1", "t2"):
                tracker.trial(size, trial_id, default_cell=False, params=PARAMS)
                tracker.benchmark(size, f"fp32@{trial_id}", tags={"variant": "fp32", "trial_id": trial_id})
        tracker.repeat("s", "t1-s3", of="t1", params=PARAMS)
        tracker.mark_best("s", "t1")
        assert _best(tracker) == {"trial:s:t1", "benchmark:s:fp32@t1"}
        tracker.mark_best("s", "t2")
        tracker.tags("benchmark:s:fp32@t2", {"kind": "former benchmark"})
        tracker.mark_best("s", "t2")
        assert _best(tracker) == {"trial:s:t2"}


def _best(tracker: Tracker) -> set[str]:
    return {key for key, run in _runs(tracker).items() if run.data.tags.get("best") == "true"}


def test_several_threads_of_the_driver_can_write_at_the_same_time(tracker: Tracker) -> None:
    def search(size: str) -> None:
        for number in range(6):
            run = tracker.trial(size, f"p{number}", default_cell=False, params=PARAMS)
            for step in (1, 2):
                tracker.metrics(run, {"dev/score": 10.0 * number + step}, step=step)
            tracker.finish(run)

    threads = [threading.Thread(target=search, args=(f"size{number % 2}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    runs = _runs(tracker)
    for size in ("size0", "size1"):
        for number in range(6):
            run = runs[f"trial:{size}:p{number}"]
            assert run.data.metrics == {"dev/score": 10.0 * number + 2}
            assert run.data.tags["mlflow.parentRunId"] == runs[f"size:{size}"].info.run_id
            assert run.info.status == "FINISHED"


def test_the_last_value_counts_even_if_the_clock_goes_back(tmp_path: Path) -> None:
    """A study resumes under another machine's clock, once long before its last write and once at the same time."""
    for now, failed in ((2_000_000_000_000, 2), (1_000_000_000_000, 1), (2_000_000_000_001, 0)):
        with Tracker(default_uri(tmp_path), "demo", output=tmp_path, clock_ms=lambda now=now: now) as tracker:  # type: ignore[misc]
            tracker.metrics(tracker.size("s"), {"failed": failed})
            tracker.finish("size:s")
            run = _runs(tracker)["size:s"]
            assert run.data.metrics == {"failed": failed}
    history = MlflowClient(tracking_uri=tracker.uri).get_metric_history(run.info.run_id, "failed")
    assert [point.value for point in sorted(history, key=lambda point: point.timestamp)] == [2, 1, 0]
    with open(tmp_path / "outbox" / "journal.jsonl", encoding="utf-8") as file:
        stamps = [entry["at"] for entry in map(json.loads, file) if "at" in entry]
    assert stamps[0] == 2_000_000_000_000
    assert stamps == sorted(set(stamps)), "stamps increase strictly"


def test_one_file_alone_writes_to_mlflow() -> None:
    """`MlflowClient` is what writes; the report reads through `analysis`."""
    users = {
        path.relative_to(ROOT).as_posix()
        for package in ("study", "trainables", "clusters")
        for path in (ROOT / package).rglob("*.py")
        if re.search(r"MlflowClient|mlflow\.(log|set|start)_|^import mlflow$", path.read_text(encoding="utf-8"), re.M)
    }
    assert users == {"study/tracking/mlflow_store.py"}


def test_what_mlflow_cannot_hold_is_kept_whole_in_a_file(tmp_path: Path) -> None:
    """MLflow cuts parameters over 6,000 and tags over 8,000 characters without a word."""
    reason, intermediate = "because " * 2000, "mixture_" * 1000
    with Tracker(default_uri(tmp_path), "demo", output=tmp_path, say=lambda line: None) as tracker:
        for _ in range(2):  # written again, nothing changes
            run = tracker.trial("s", "t0", default_cell=False, params={**PARAMS, "intermediate": intermediate})
            tracker.tags(run, {"reason": reason, "a/b c": "short"})
        assert tracker.flush()
    client = MlflowClient(default_uri(tmp_path))
    (experiment,) = (found for found in client.search_experiments() if found.name == "demo")
    (stored,) = client.search_runs([experiment.experiment_id], "tags.kind = 'trial'")
    assert len(stored.data.tags["reason"]) == 8000
    assert stored.data.tags["reason"].endswith("[cut: all 16000 characters are in the artifact reason.txt]")
    assert len(stored.data.params["intermediate"]) == 6000
    files = {path.name: path.read_text() for path in (tmp_path / "artifacts" / stored.info.run_id).rglob("*.txt")}
    assert files == {"reason.txt": reason, "intermediate.txt": intermediate}


def test_a_note_says_at_which_rates_a_size_trains() -> None:
    params = {**PARAMS, "intermediate": "topics", "lr_intermediate": 1e-4, "rate_factor": 2.0}
    assert trial_note("s", params) == (
        "Trial of size s: trained on topics at learning rate 0.0002, then trained on each target at learning rate 0.002, "
        "seed 0."
    )


def test_a_note_names_an_arm_that_has_no_intermediate_rate() -> None:
    params = {**PARAMS, "intermediate": "joint_topics"}
    assert trial_note("s", params) == (
        "Trial of size s: trained on each target at learning rate 0.001, with the arm joint_topics, seed 0."
    )
