"""The best trial without an intermediate task beside the best: what is measured, stored and tracked of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

import analysis
from study.benchmarking import run as benchmarking
from study.benchmarking.run import benchmark_size, measure_size
from study.benchmarking.stored import BestModel
from study.benchmarking.tables import remarks
from study.search.records import SearchResult
from study.tracking.tracker import Tracker
from tests.support.measurements import RecordingConsole, ReplaceActor, compared_model, measurement, planned
from trainables.benchmark.measurement import Measured
from trainables.benchmark.subjects.checkpoint import CheckpointBenchmark


def with_baseline(variant: str, *, scored: bool) -> Measured:
    return measurement(variant, scored=scored, baseline=35.0)


def measured(model: BestModel) -> Measured:
    outcome = measure_size(model, RecordingConsole())["fp32"]  # type: ignore[arg-type]
    assert isinstance(outcome, Measured)
    return outcome


def tracked(
    model: BestModel, console: RecordingConsole | None = None
) -> tuple[analysis.StudyFrames, list[dict[str, Any]]]:
    """What analysis reads; the tags and metrics of all runs of benchmarks, the earliest first."""
    trials = (model.trial, *([] if model.baseline is None else [model.baseline]))
    result, output = SearchResult(model.size.name, trials), model.output
    with Tracker(f"sqlite:///{output / 'mlflow.db'}", "tracked", output=output) as tracking:
        benchmark_size(
            model.study,
            model.size,
            result=result,
            output=output,
            tracker=tracking,
            console=console or RecordingConsole(),  # type: ignore[arg-type]
        )
        frames = tracking.read(lambda uri: analysis.load(uri, "tracked"))
        client = MlflowClient(tracking_uri=tracking.uri)
        experiment = client.get_experiment_by_name("tracked")
        assert experiment is not None
        runs = client.search_runs([experiment.experiment_id], "tags.variant LIKE '%'", order_by=["start_time ASC"])
    return frames, [run.data.tags | run.data.metrics for run in runs]


def test_the_chain_of_the_baseline_is_measured_with_the_best_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, replace_actor: ReplaceActor
) -> None:
    subjects: list[CheckpointBenchmark] = []

    def recorded(*values: Any, **named: Any) -> CheckpointBenchmark:
        subjects.append(CheckpointBenchmark(*values, **named))
        return subjects[-1]

    monkeypatch.setattr(benchmarking, "CheckpointBenchmark", recorded)
    replace_actor(with_baseline)
    model = compared_model(planned("fp32"), tmp_path)
    measured(model)
    (subject,) = subjects
    assert subject.chain == model.chain
    assert subject.baseline is not None
    assert subject.baseline == model.baseline_chain
    assert [evaluation.task for evaluation in subject.baseline] == [evaluation.task for evaluation in subject.chain]
    assert set(subject.baseline).isdisjoint(subject.chain)


def test_a_best_trial_without_an_intermediate_task_has_no_baseline(tmp_path: Path) -> None:
    model = compared_model(planned("fp32"), tmp_path)
    assert model.baseline is not None
    result = SearchResult(model.size.name, (model.baseline,))
    alone = BestModel.of(model.study, model.size, result=result, output=tmp_path)
    assert alone is not None
    assert (alone.trial, alone.baseline, alone.baseline_chain) == (model.baseline, None, None)
    assert BestModel.of(model.study, model.size, result=SearchResult(model.size.name, ()), output=tmp_path) is None


def test_scores_of_the_baseline_are_stored_with_its_trial(tmp_path: Path, replace_actor: ReplaceActor) -> None:
    replace_actor(with_baseline)
    model = compared_model(planned("fp32", repeats=2), tmp_path)
    fp32 = measured(model)
    assert fp32["baseline"]["trial_id"] == "t0"
    assert fp32["baseline"]["test_score"] == 35.0
    document = json.loads(model.stored("fp32").path.read_text(encoding="utf-8"))
    assert ["baseline" in repeat for repeat in document["measured"]] == [True, False], "one repeat is scored"
    assert document["measured"][0]["baseline"]["models"] == list(model.baseline_fingerprints)
    assert document["of"].keys() == {"models", "how"}
    assert document["of"]["models"] == list(model.fingerprints), "the baseline identifies nothing"


def test_a_measurement_without_a_baseline_s_scores_stays_valid(tmp_path: Path, replace_actor: ReplaceActor) -> None:
    """As earlier versions stored it: it is not measured again, and its MLflow run keeps its name."""
    model = compared_model(planned("fp32"), tmp_path)
    measured_variants = replace_actor(measurement)
    _, (before,) = tracked(BestModel(model.study, model.size, model.trial, tmp_path))
    frames, (after,) = tracked(model)
    assert measured_variants == ["fp32"]
    assert after == before
    assert not [name for name in after if name.startswith("baseline")]
    assert analysis.configurations(frames)["baseline"].tolist() == [False]


def test_scores_of_another_baseline_are_not_shown_and_nothing_is_measured_again(
    tmp_path: Path, replace_actor: ReplaceActor
) -> None:
    measured_variants = replace_actor(with_baseline)
    first = compared_model(planned("fp32"), tmp_path)
    assert "baseline" in measured(first).values
    content = first.stored("fp32").path.read_bytes()
    longer = compared_model(planned("fp32"), tmp_path, baseline="t7", seed=9)
    assert "baseline" not in measured(longer).values
    assert first.stored("fp32").path.read_bytes() == content
    assert "baseline" in measured(first).values
    assert measured_variants == ["fp32"]


def test_the_run_of_a_benchmark_has_the_baseline_s_scores(tmp_path: Path, replace_actor: ReplaceActor) -> None:
    replace_actor(with_baseline)
    frames, (run,) = tracked(compared_model(planned("fp32"), tmp_path))
    assert (run["trial_id"], run["baseline_trial_id"]) == ("t1", "t0")
    assert {name: value for name, value in run.items() if name.startswith("baseline/")} == {
        "baseline/test/score": 35.0,
        "baseline/test_without_english/score": 25.0,
        "baseline/test/micro_tagging": 35.0,
        "baseline/test_without_english/micro_tagging": 25.0,
    }
    (context,) = tmp_path.glob("benchmarks/*/context.json")
    assert "baseline" not in json.loads(context.read_text(encoding="utf-8")), "scores are metrics"
    chosen, baseline = analysis.configurations(frames).to_dict("records")
    assert (chosen["trial_id"], chosen["baseline"], chosen["score"]) == ("t1", False, 30.0)
    assert (baseline["trial_id"], baseline["baseline"], baseline["score"]) == ("t0", True, 25.0)
    assert (baseline["timed_trial"], baseline["p50_ms"]) == ("t1", chosen["p50_ms"])
    assert baseline["judged_scores"] == {"micro_tagging": 25.0}


def test_a_size_without_a_baseline_is_named(tmp_path: Path, replace_actor: ReplaceActor) -> None:
    replace_actor(measurement)
    console = RecordingConsole()
    model = compared_model(planned("fp32"), tmp_path)
    tracked(BestModel(model.study, model.size, model.trial, tmp_path), console)
    assert "benchmark 1x32: no complete trial without an intermediate task to compare with" in console.lines


def test_the_console_says_what_the_baseline_scores(tmp_path: Path, replace_actor: ReplaceActor) -> None:
    def on_one_machine(variant: str, *, scored: bool) -> Measured:
        values = dict(with_baseline(variant, scored=scored).values)
        context = values["context"] | {"sweep_stopped": ""}
        return Measured({**values, "context": context, "tokenise_p50_ms": None})

    replace_actor(on_one_machine)
    lines = list(remarks({"fp32": measured(compared_model(planned("fp32"), tmp_path))}))
    assert "fp32: without an intermediate task (trial t0, the same shape and speed) the score is 35.00" in lines
