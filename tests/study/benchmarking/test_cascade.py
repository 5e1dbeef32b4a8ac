"""Which cascade a study serves, what is stored and tracked of it. Measurements and answers are made up."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow.tracking import MlflowClient

from analysis import load
from analysis.tables.cascades.prediction import Pair, PairedSet
from study.benchmarking import cascade as cascades
from study.benchmarking import run as benchmarking
from study.benchmarking.cascade import CascadedModel, benchmark_cascade, cascade_of
from study.benchmarking.stored import BestModel
from study.search.records import SearchResult, TrialOutcome, TrialRecord
from study.spec import BenchmarkPlan, Cascade, InvalidStudy, Study
from study.tracking.tracker import Tracker
from tests.support import recipes
from tests.support.measurements import RecordingConsole, measurement
from trainables.benchmark.measurement import Measured
from trainables.benchmark.subjects.cascade import CascadeBenchmark

SPEED = {"1x32": 1.0, "1x64": 4.0}


def planned(loss: float = 0.5, repeats: int = 1) -> Study:
    study = recipes.tiny()
    plan = dataclasses.replace(study.benchmark, cascade=Cascade(loss), repeats=repeats, device="cpu")
    return dataclasses.replace(study, benchmark=plan)


def pair(small: str, large: str, *, knows_itself: bool = True) -> Pair:
    """The small model is right on the half of the examples that it is surer of; the large one on all."""
    sure = np.linspace(0.01, 0.99, 100)
    right = np.column_stack([(sure > 0.5) if knows_itself else (sure < 0.5), np.ones(100)]).astype(float)
    both = PairedSet(sure, right, np.ones((100, 2)))
    return Pair(small, large, {"micro_tagging": both}, {"micro_tagging": {"de": both}}, {})


def results(study: Study, trial: str = "t1") -> Mapping[str, SearchResult]:
    choice = study.space.defaults()[0]
    record = TrialRecord(trial, choice, TrialOutcome.COMPLETE, {"dev_score": 50.0, "test_score": 40.0})
    return {size.name: SearchResult(size.name, (record,)) for size in study.sizes}


def cascaded(measured: Measured, share: float) -> Measured:
    about = {"thresholds": {"micro_tagging": 0.5}, "timed_share": share, "share": {"micro_tagging": {"de": share}}}
    return Measured({**measured.values, "context": {**measured["context"], "mean_ms": 3.0}, "cascade": about})


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Replaces stored answers by planted ones and the actor by a function; the list gets the subjects that were measured."""
    subjects: list[Any] = []

    def run(subject: Any, variant: Any, *, scored: bool, label: str, **_: Any) -> Measured:
        size = label.split()[0]
        if isinstance(subject, CascadeBenchmark):
            subjects.append(subject)
            return cascaded(measurement("cascade", scored=scored), 0.5)
        values = measurement(str(variant), scored=scored, p50_ms=SPEED[size]).values
        return Measured({**values, "context": {**values["context"], "mean_ms": SPEED[size]}})

    monkeypatch.setattr(benchmarking, "placement_of", lambda plan: {})
    monkeypatch.setattr(benchmarking, "run_in_actor", run)
    monkeypatch.setattr(cascades, "_pairs", lambda models: [pair("1x32", "1x64"), pair("1x64", "1x32")])
    return subjects


def measure_singles(study: Study, output: Path) -> None:
    for size in study.sizes:
        model = BestModel.of(study, size, result=results(study)[size.name], output=output)
        assert model is not None
        benchmarking.measure_size(model, RecordingConsole())  # type: ignore[arg-type]


def test_the_pair_that_dev_and_speeds_predict_is_served_stored_and_tracked(tmp_path: Path, served: list[Any]) -> None:
    study, console = planned(), RecordingConsole()
    measure_singles(study, tmp_path)
    model = cascade_of(study, results(study), tmp_path)
    assert isinstance(model, CascadedModel)
    assert (model.smaller.size.name, model.size.name, model.served_as) == ("1x32", "1x64", "fp32")
    assert dict(model.thresholds) == {"micro_tagging": pytest.approx(0.5)}
    assert not model.measured
    with Tracker(f"sqlite:///{tmp_path}/mlflow.db", study.name, output=tmp_path) as tracker:
        for _ in range(2):
            outcome = benchmark_cascade(
                study,
                results(study),
                output=tmp_path,
                tracker=tracker,
                console=console,  # type: ignore[arg-type]
            )
        assert tracker.flush()
    assert outcome is not None
    assert outcome[0] == "1x64"
    assert model.measured
    assert len(served) == 1, "a stored measurement is not repeated"
    assert served[0].thresholds == model.thresholds
    assert (served[0].small.chain, served[0].large) == (model.smaller.chain, model.chain)
    assert any("1x32→1x64 as fp32: English dev predicts 100.0 at 3 ms" in line for line in console.lines)
    (row,) = load(f"sqlite:///{tmp_path}/mlflow.db").benchmarks.to_dict("records")
    assert (row["size"], row["variant"], row["mean_ms"]) == ("1x64", "cascade", 3.0)
    assert row["cascade"] | {"thresholds": None} == {
        **{"small": "1x32", "small_trial": "t1", "served_as": "fp32", "timed_share": 0.5, "thresholds": None},
    }
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    runs = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    assert all(len(tag) < 5000 for run in runs for tag in run.data.tags.values())


def test_other_thresholds_are_measured_again(tmp_path: Path, served: list[Any]) -> None:
    study, other = planned(), planned(loss=10.0)
    measure_singles(study, tmp_path)
    thresholds = []
    with Tracker(f"sqlite:///{tmp_path}/mlflow.db", study.name, output=tmp_path, offline=True) as tracker:
        for of in (study, other):
            benchmark_cascade(of, results(of), output=tmp_path, tracker=tracker, console=RecordingConsole())  # type: ignore[arg-type]
            thresholds.append(dict(served[-1].thresholds)["micro_tagging"])
    assert len(served) == 2
    assert thresholds[1] < thresholds[0], "ten points of dev may be lost: the smaller model answers more"


def test_there_is_no_cascade_without_two_models_confidences_or_a_use_for_both(
    tmp_path: Path, served: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    study = planned()
    assert "speeds are not known" in str(cascade_of(study, results(study), tmp_path))
    measure_singles(study, tmp_path)
    one = {**results(study), "1x64": SearchResult("1x64", ())}
    assert "two sizes" in str(cascade_of(study, one, tmp_path))
    assert "share the answers" in str(cascade_of(planned(loss=100.0), results(study), tmp_path)), (
        "the small one suffices"
    )
    monkeypatch.setattr(cascades, "_pairs", lambda models: [])
    console = RecordingConsole()
    with Tracker(f"sqlite:///{tmp_path}/mlflow.db", study.name, output=tmp_path, offline=True) as tracker:
        nothing = benchmark_cascade(
            study,
            results(study),
            output=tmp_path,
            tracker=tracker,
            console=console,  # type: ignore[arg-type]
        )
    assert nothing is None
    assert any("none is served" in line and "earlier versions" in line for line in console.lines)


def test_a_cascade_of_another_size_replaces_the_former_one(
    tmp_path: Path, served: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a later run the sizes' speeds are the other way round, as on another machine."""
    study = planned()
    with Tracker(f"sqlite:///{tmp_path}/mlflow.db", study.name, output=tmp_path) as tracker:
        for folder, speeds in (("a", {"1x32": 1.0, "1x64": 4.0}), ("b", {"1x32": 4.0, "1x64": 1.0})):
            monkeypatch.setattr(f"{__name__}.SPEED", speeds)
            measure_singles(study, tmp_path / folder)
            benchmark_cascade(
                study,
                results(study),
                output=tmp_path / folder,
                tracker=tracker,
                console=RecordingConsole(),  # type: ignore[arg-type]
            )
        assert tracker.flush()
    (row,) = load(f"sqlite:///{tmp_path}/mlflow.db").benchmarks.to_dict("records")
    assert (row["size"], row["cascade"]["small"]) == ("1x32", "1x64")


def test_a_plan_with_a_cascade_that_cannot_be_chosen_or_timed_is_refused() -> None:
    study = planned()
    with pytest.raises(InvalidStudy, match=r"loss -1\.0 points must not be negative"):
        dataclasses.replace(study, benchmark=BenchmarkPlan(cascade=Cascade(-1.0)))
    with pytest.raises(InvalidStudy, match="SingleStream"):
        dataclasses.replace(study, benchmark=BenchmarkPlan(scenarios=("Offline",), cascade=Cascade()))
    with pytest.raises(InvalidStudy, match=r"micro_bitext, the first target, is timed, and .* does not cascade"):
        dataclasses.replace(study, targets=study.targets[::-1])


def test_a_plan_without_a_cascade_keeps_the_files_of_earlier_versions(tmp_path: Path, served: list[Any]) -> None:
    study = planned()
    study = dataclasses.replace(study, benchmark=dataclasses.replace(study.benchmark, cascade=None))
    measure_singles(study, tmp_path)
    assert cascade_of(study, results(study), tmp_path) == "the plan has none"
    names = [path.name for path in (tmp_path / "benchmarks").iterdir()]
    assert sorted(name.partition("@")[0] for name in names) == ["1x32-fp32", "1x64-fp32"]
    assert all(
        "cascade" not in json.loads(path.read_text(encoding="utf-8")) for path in (tmp_path / "benchmarks").iterdir()
    )
