"""The MLflow runs of measurements, and what the report reads from them. Measurements are made up."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from mlflow import MlflowClient
from ray.exceptions import ActorDiedError

import analysis
from study.benchmarking.run import benchmark_size
from study.benchmarking.stored import Method
from study.benchmarking.tracking import TrackedMeasurement
from study.search.records import SearchResult
from study.spec import Study
from study.tracking.tracker import Tracker
from tests.support.measurements import RecordingConsole, ReplaceActor, best_model, measurement, planned
from trainables.benchmark.flips import Flips, summarised
from trainables.benchmark.measurement import Measured
from trainables.benchmark.probes.nvml import GpuState
from trainables.benchmark.settings import BenchmarkSettings
from trainables.store.fingerprint import fingerprint


def tracked(study: Study, output: Path) -> tuple[pd.DataFrame, list[dict[str, Any]]]:
    """What analysis reads of the benchmarks; and the tags and metrics of all their runs, former ones included."""
    model = best_model(study, output)
    result = SearchResult(model.size.name, (model.trial,))
    console: Any = RecordingConsole()
    with Tracker(f"sqlite:///{output / 'mlflow.db'}", "tracked", output=output) as tracking:
        benchmark_size(study, model.size, result=result, output=output, tracker=tracking, console=console)
        frames = tracking.read(lambda uri: analysis.load(uri, "tracked"))
        client = MlflowClient(tracking_uri=tracking.uri)
        experiment = client.get_experiment_by_name("tracked")
        assert experiment is not None
        runs = client.search_runs([experiment.experiment_id], "tags.variant LIKE '%'", order_by=["start_time ASC"])
    return frames.benchmarks, [run.data.tags | run.data.metrics for run in runs]


def reported(output: Path) -> str:
    frames = analysis.load(f"sqlite:///{output / 'mlflow.db'}", "tracked")
    return analysis.write_report(frames, output / "report.html", exports=False).read_text("utf-8")


def test_a_run_has_tags_of_what_was_timed_and_scores_with_and_without_english(
    tmp_path: Path, replace_actor: ReplaceActor
) -> None:
    replace_actor(measurement)
    study = planned("fp32")
    examples = best_model(study, tmp_path).stored("fp32").examples
    examples.parent.mkdir(parents=True)
    pd.DataFrame({"task": ["micro_tagging"]}).to_parquet(examples)
    rows, (run,) = tracked(study, tmp_path)
    assert run["hardware"] == "Box, cpu, 1 thread"
    assert run["timed_task"] == "micro_tagging"
    assert run["intervals"] == "range"
    assert (run["test/score"], run["test_without_english/score"]) == (40.0, 30.0)
    assert run["test_without_english/micro_tagging"] == 30.0
    assert list(rows["variant"]) == ["fp32"]
    assert rows["task_scores"].iloc[0] == {"micro_tagging": 40.0}
    assert len(list(tmp_path.glob("**/artifacts/examples.parquet"))) == 1


@pytest.mark.slow
def test_a_run_carries_the_context_of_its_measurement_and_the_report_lists_what_weakens_it(
    tmp_path: Path, replace_actor: ReplaceActor
) -> None:
    """Three repeats on a slice of a GPU: one was slowed down, and for one NVML gave no reason."""
    states = iter([((), True), (("power cap",), True), (None, None)])

    def on_gpu(variant: str, *, scored: bool) -> Measured:
        slowed_by, mig = next(states)
        gpu = dataclasses.asdict(GpuState(driver="555.42", uuid="GPU-1", slowed_by=slowed_by, mig=mig))
        gpu["unavailable"] = {} if slowed_by is not None else {"slowed_by": "NVML: Not Supported"}
        values = measurement(variant, scored=scored).values
        return Measured({**values, "context": {**values["context"], "device": "cuda:0", "gpu_in_use": gpu}})

    replace_actor(on_gpu)
    rows, (run,) = tracked(planned("fp32", repeats=3), tmp_path)
    assert (run["mig"], run["driver"]) == ("on", "555.42")
    assert run["slowed_by"] == "power cap, not known (NVML: Not Supported)"
    assert (run["bench/samples"], run["bench/queries"]) == (300, 512)
    assert rows[["slowed_by", "mig", "driver", "samples"]].iloc[0].tolist() == [run["slowed_by"], "on", "555.42", 300]
    (path,) = tmp_path.glob("**/artifacts/context.json")
    context = json.loads(path.read_text())
    assert context["context"]["settings"] == {"min_duration_s": 60.0}
    assert context["context"]["versions"] == {"torch": "2"}
    assert [repeat["gpu_in_use"]["slowed_by"] for repeat in context["by_repeat"]] == [[], ["power cap"], None]
    assert "scores" not in context
    page = reported(tmp_path)
    assert "fp32 was timed on a GPU that was slowed: power cap, not known (NVML: Not Supported)" in page
    assert "fp32 was timed on a slice of a GPU (MIG)" in page
    assert "; its energy is that of the whole card" in page
    assert "fewer than 662 queries per repeat, which a p99 needs: 1x32 fp32 (100)" in page
    assert "queries timed" in page
    assert "driver 555.42; slowed by power cap" in page
    assert "median latency of micro_tagging&#x27;s queries (300 timed)" in page
    entries = (tmp_path / "outbox" / "journal.jsonl").read_text()
    tracked(planned("fp32", repeats=3), tmp_path)
    assert (tmp_path / "outbox" / "journal.jsonl").read_text() == entries, (
        "tracking the same measurement again adds nothing"
    )


@pytest.mark.slow
def test_a_cpu_has_no_gpu_state(tmp_path: Path, replace_actor: ReplaceActor) -> None:
    replace_actor(lambda variant, *, scored: Measured({**measurement(variant, scored=scored).values, "samples": 662}))
    rows, (run,) = tracked(planned("fp32", repeats=2), tmp_path)
    assert not {"slowed_by", "mig", "driver"} & run.keys()
    assert rows["slowed_by"].iloc[0] == ""
    page = reported(tmp_path)
    assert "slowed" not in page
    assert "662 queries per repeat" not in page


@pytest.mark.slow
def test_nothing_of_an_earlier_plan_is_reported_with_the_current_one(
    tmp_path: Path, replace_actor: ReplaceActor
) -> None:
    """MLflow cannot remove a metric or tag: a measurement that lacks one gets another run."""

    def without_server(variant: str, *, scored: bool) -> Measured:
        reasons = {"server_qps": "Server was not asked for"}
        return Measured({**measurement(variant, scored=scored).values, "server_qps": None, "unavailable": reasons})

    replace_actor(measurement)
    with_server = planned("fp32", repeats=2)
    rows, _ = tracked(with_server, tmp_path)
    assert rows["server_qps"].iloc[0] == 1.0
    replace_actor(without_server)
    rows, runs = tracked(planned("fp32", scenarios=("SingleStream",)), tmp_path)
    assert len(rows) == 1
    assert pd.isna(rows["server_qps"].iloc[0])
    assert rows["unavailable"].iloc[0] == {"server_qps": "Server was not asked for"}
    assert [run["kind"] for run in runs] == ["former benchmark", "benchmark"]
    rows, runs = tracked(with_server, tmp_path)  # the first plan again: its run becomes the current one again
    assert rows["server_qps"].iloc[0] == 1.0
    assert rows["unavailable"].iloc[0] == {}
    assert sorted(run["kind"] for run in runs) == ["benchmark", "former benchmark"]


def test_a_variant_that_broke_is_listed_with_its_reason_until_it_is_measured(
    tmp_path: Path, replace_actor: ReplaceActor
) -> None:
    def breaks(variant: str, *, scored: bool) -> Measured:
        raise ActorDiedError()

    replace_actor(breaks)
    rows, (run,) = tracked(planned("fp32"), tmp_path)
    assert rows["reason"].iloc[0].startswith("failed: ActorDiedError")
    assert pd.isna(rows["p50_ms"].iloc[0])
    assert run["kind"] == "benchmark"
    replace_actor(measurement)
    rows, runs = tracked(planned("fp32"), tmp_path)
    assert list(rows["reason"]) == [""]
    assert rows["p50_ms"].iloc[0] > 0
    assert [run["kind"] for run in runs] == ["former benchmark", "benchmark"]


def test_the_runs_of_measurements_keep_the_names_of_earlier_versions() -> None:
    """The hash comes from the version in which the class was called `_Tracked`."""
    method = Method(BenchmarkSettings.for_window(0.5, scenarios=("SingleStream", "Offline")), 1, "cpu")
    assert fingerprint(TrackedMeasurement(("a", "b"), method, ("x", "y"))) == "58303391592c"


def test_flips_are_metrics_of_the_run_and_absent_from_those_of_earlier_versions(
    tmp_path: Path, replace_actor: ReplaceActor
) -> None:
    def compared(variant: str, *, scored: bool) -> Measured:
        values = summarised({"micro_tagging": Flips(64, 200, scored=1, batch=4, padding=2)})
        return Measured(
            {**measurement(variant, scored=scored).values, **(values if scored and variant == "bf16" else {})}
        )

    replace_actor(compared)
    rows, runs = tracked(planned("fp32", "bf16", repeats=2), tmp_path)
    named = ("bench/flips_scored", "bench/flips_batch", "bench/flips_padding", "bench/flips_examples")
    of_variant = {run["variant"]: [run.get(name) for name in named] for run in runs}
    assert of_variant == {"fp32": [None] * 4, "bf16": [0.5, 2.0, 1.0, 64]}
    columns = ["flips_scored", "flips_batch", "flips_padding", "flips_examples"]
    assert rows.loc[rows["variant"] == "bf16", columns].to_numpy().tolist() == [[0.5, 2.0, 1.0, 64]]
    assert rows.loc[rows["variant"] == "fp32", columns].isna().all(axis=None)
    (context,) = tmp_path.glob("benchmarks/*-bf16@*/context.json")
    assert json.loads(context.read_text(encoding="utf-8"))["flips"]["micro_tagging"]["decisions"] == 200


def test_a_measurement_without_a_prediction_to_compare_is_kept_and_says_why(
    tmp_path: Path, replace_actor: ReplaceActor
) -> None:
    nothing = summarised({"own": Flips(0, 0, 0, 0, 0)})
    replace_actor(
        lambda variant, *, scored: Measured(
            {**measurement(variant, scored=scored).values, **(nothing if scored else {})}
        )
    )
    rows, _ = tracked(planned("fp32", repeats=2), tmp_path)
    assert rows["p50_ms"].tolist() == [2.0]
    assert "no test example" in rows["unavailable"].iloc[0]["flips_scored"]
