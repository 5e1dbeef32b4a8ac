"""Reading a study from MLflow."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pandas as pd
import pytest

import analysis
from analysis import StudyFrames, load
from analysis.store.examples import Examples
from tests.analysis.quickstart import FAILURE, INTERMEDIATES, TARGETS
from tests.support.studies import Planted, plant


def test_sizes_are_ordered_by_parameters(frames: StudyFrames) -> None:
    assert list(frames.sizes["size"]) == ["2x128", "4x192"]
    assert list(frames.sizes["params_m"]) == [1.5, 3.25]
    assert list(frames.sizes["best_trial"]) == ["a1", "b1"]


def test_a_trial_is_one_row_with_its_last_metrics(frames: StudyFrames) -> None:
    trials = frames.trials.set_index("trial_id")
    assert list(trials.index) == ["a0", "a1", "a2", "a3", "a4", "b0", "b1", "b2", "b3"]
    assert trials.loc["a0", "dev_score"] == 77.0  # the value of the highest step, not the last one logged
    assert math.isnan(trials["lr_intermediate"]["a0"])
    assert trials["lr_intermediate"]["a1"] == 2e-5
    assert trials["outcome"]["a2"] == "stopped_early"
    assert trials["targets_finished"]["a2"] == 1
    assert trials["reason"]["b2"] == FAILURE
    assert not trials["default_cell"]["b3"]


def test_scores_are_tidy(frames: StudyFrames) -> None:
    scores = frames.scores
    assert not scores.duplicated(["size", "trial_id", "task", "split", "language"]).any()
    assert set(scores["task"]) == set(TARGETS)
    of_trial = scores[(scores["trial_id"] == "b1") & (scores["task"] == "nli") & (scores["split"] == "test")]
    expected = {"mean": 56.5, "mean without en": 55.5, "en": 58.5, "de": 56.5, "sw": 54.5}
    assert dict(zip(of_trial["language"], of_trial["value"], strict=True)) == expected
    assert set(of_trial["chance"]) == {33.3}
    assert set(scores.loc[scores["split"] == "dev", "task"]) == {"nli", "tags"}


def test_what_runs_show_without_labels_is_a_table_of_its_own(frames: StudyFrames) -> None:
    rows = frames.diagnostics[(frames.diagnostics["trial_id"] == "b1") & (frames.diagnostics["signal"] == "confidence")]
    assert dict(zip(rows["task"], rows["value"], strict=True)) == {"nli": 51.5, "tags": 56.0, "bitext": 90.0}
    assert not frames.scores["split"].isin(["confidence", "agreement"]).any()


def test_benchmarks_keep_what_was_unavailable_and_why(frames: StudyFrames) -> None:
    rows = {(row["size"], row["variant"]): row for row in frames.benchmarks.to_dict("records")}
    assert rows["2x128", "fp32"]["p99_ms"] == 6.0
    assert rows["2x128", "fp32"]["unavailable"] == {}
    assert math.isnan(rows["4x192", "fp32"]["p99_ms"])
    assert rows["4x192", "fp32"]["unavailable"] == {"energy_j_per_sample": "no NVML", "p99_ms": "40 samples"}
    assert rows["4x192", "fp32"]["task_scores"] == {"nli": 71.0, "tags": 71.0}


def test_context_is_parsed(frames: StudyFrames) -> None:
    assert frames.context["versions"] == {"torch": "2.13.0", "ray": "2.60.0"}
    assert frames.targets == TARGETS
    assert frames.intermediates == INTERMEDIATES
    assert frames.context["selection"] == "English dev"


def test_an_unknown_experiment_names_those_there_are(uri: str) -> None:
    with pytest.raises(ValueError, match=r"no MLflow experiment named 'full'.*'empty'.*'quickstart'"):
        load(uri, "full")


def test_without_a_name_several_studies_are_refused(uri: str) -> None:
    with pytest.raises(ValueError, match="2 studies"):
        load(uri)


def test_a_store_that_does_not_exist_is_not_created(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not exist"):
        load(f"sqlite:///{tmp_path / 'typo.db'}", "quickstart")
    assert not list(tmp_path.iterdir())


def test_an_empty_experiment_has_columns_and_no_rows(empty: StudyFrames, frames: StudyFrames) -> None:
    for name in ("sizes", "trials", "scores", "benchmarks"):
        table, full = getattr(empty, name), getattr(frames, name)
        assert len(table) == 0
        assert list(table.columns) == list(full.columns)
        assert list(table.dtypes) == list(full.dtypes)


def test_an_example_file_that_cannot_be_read_loses_its_intervals_and_is_named(study: StudyFrames) -> None:
    def broken(key: tuple[str, str]) -> pd.DataFrame | None:
        if key == ("2x128", "t0"):
            raise OSError("the disk is gone")
        return study.examples.read(key)

    frames = dataclasses.replace(study, examples=Examples(broken))
    gained = analysis.gains(frames)
    assert not gained.loc[gained["size"] == "2x128", "with_examples"].any()
    assert gained.loc[gained["size"] == "4x192", "with_examples"].all()
    assert frames.examples.problems == {("2x128", "t0"): "OSError: the disk is gone"}


def test_the_store_reads_the_same_through_mlflow_and_through_sql(tmp_path: Path) -> None:
    from mlflow.tracking import MlflowClient

    from analysis.store.runs import runs_in_file, runs_of_experiment

    small = Planted(sizes={"a": 1.0}, targets={"x": 50.0}, gains={"topic": {"x": 1.0}}, seeds=1, sampled=0, examples=5)
    plant(tmp_path, dataclasses.replace(small, marks={}))
    path = tmp_path / "mlflow.db"
    client = MlflowClient(tracking_uri=f"sqlite:///{path}")
    experiment = client.get_experiment_by_name("planted")
    assert experiment is not None
    client.delete_run(client.search_runs([experiment.experiment_id], "tags.kind = 'benchmark'")[0].info.run_id)
    direct = {run.run_id: run for run in runs_in_file(path, experiment.experiment_id)}
    asked = {run.run_id: run for run in runs_of_experiment(client, "http://a-server", experiment.experiment_id)}
    assert len(asked) == 2 + 1 + 2  # trials, the size, two of three benchmarks
    assert direct == asked


@pytest.mark.parametrize("direct", [True, False])
def test_runs_that_began_in_one_millisecond_are_read_in_the_order_of_their_keys(direct: bool, tmp_path: Path) -> None:
    from mlflow.tracking import MlflowClient

    from analysis.store.runs import runs_of_experiment

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    client = MlflowClient(tracking_uri=uri)
    experiment = client.create_experiment("tied")
    for number in (5, 2, 7, 0, 3, 6, 1, 4):
        client.create_run(experiment, start_time=1000, tags={"key": f"trial:s:t{number}"})
    client.create_run(experiment, start_time=999, tags={"key": "trial:s:t9"})
    read = runs_of_experiment(client, uri if direct else "http://a-server", experiment)
    assert [run.tags["key"][-1] for run in read] == list("901234567")
