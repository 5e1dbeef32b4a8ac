"""The benchmark of a study's models: what is kept, measured again, tracked, and where. Measurements are made up."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from mlflow import MlflowClient
from ray.exceptions import ActorDiedError

import analysis
from study.benchmarking import placement as bench_place
from study.benchmarking import run as benchmarks
from study.benchmarking.placement import device_of, place_of
from study.benchmarking.run import benchmark_size, kept_measurement, measure_size
from study.cluster.capacity import Capacity, NodeGroup
from study.cluster.connection import CannotRun, connected
from study.search.trial_store import SearchResult, TrialRecord
from study.spec import BenchmarkPlan, Size, Study
from study.tracking.tracker import Tracking
from tests.support import recipes
from trainables.benchmark.actor import NoNode, run_in_actor
from trainables.benchmark.measurement import METRICS
from trainables.benchmark.probes.nvml import GpuState
from trainables.benchmark.settings import BenchmarkSettings
from trainables.benchmark.variants import VARIANTS

Outcome = dict[str, Any] | str
A_CPU, A_GPU = {"CPU": 8.0}, {"CPU": 4.0, "GPU": 1.0}


class Said:
    """A screen that remembers."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


def planned(*variants: str, repeats: int = 1, **changes: Any) -> Study:
    study = recipes.inline()
    plan = dataclasses.replace(study.benchmark, variants=variants, repeats=repeats, device="cpu")
    return dataclasses.replace(study, benchmark=dataclasses.replace(plan, **changes))


def best_of(study: Study) -> tuple[Size, TrialRecord]:
    record = TrialRecord("t1", study.space.defaults()[0], "complete", {"dev_score": 50.0, "test_score": 40.0})
    return study.sizes[0], record


def measurement(variant: str, *, scored: bool, machine: str = "Box", p50_ms: float = 2.0) -> dict[str, Any]:
    found: dict[str, Any] = {
        **dict.fromkeys(METRICS, 1.0),
        "variant": variant,
        "p50_ms": p50_ms,
        "batch_size": 8,
        "samples": 100,
        "languages": {"en": {"p50_ms": p50_ms, "mean_pieces": 30.0}},
        "valid": {"SingleStream": True},
        "problems": {},
        "unavailable": {},
        "interference": {"suspected": False, "text": "none seen"},
        "timed_task": "micro_tagging",
        "params_m": 1.0,
        "params_body_m": 0.5,
        "context": {
            "hardware": {"summary": f"{machine}, 2 cores"},
            "device": "cpu",
            "device_name": machine,
            "torch_threads": 1,
            "versions": {"torch": "2"},
            "queries": {"queries": 512},
            "settings": {"min_duration_s": 60.0},
        },
    }
    if scored:
        scores = {"micro_tagging": {"test_mean": 40.0, "test_mean_without_english": 30.0}}
        found |= {"scores": scores, "test_score": 40.0, "test_score_without_english": 30.0}
    return found


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[..., Outcome]], list[str]]:
    """Puts a function of variant and `scored` in the place of the actor; the variants that were measured."""
    monkeypatch.setattr(benchmarks, "place_of", lambda plan: {})
    asked: list[str] = []

    def replace(measure: Callable[..., Outcome]) -> list[str]:
        def run(subject: Any, variant: str, *, scored: bool, **_: Any) -> Outcome:
            asked.append(variant)
            return measure(variant, scored=scored)

        monkeypatch.setattr(benchmarks, "run_in_actor", run)
        asked.clear()
        return asked

    return replace


def measured_in(study: Study, output: Path, said: Said | None = None) -> dict[str, Outcome]:
    return measure_size(study, *best_of(study), output, said or Said())  # type: ignore[arg-type]


# A variant that breaks


def test_a_variant_that_raises_in_its_actor_costs_the_others_nothing_and_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mended = tmp_path / "mended"

    def subject(*_: Any, **__: Any) -> Any:
        class Breaks:  # here, so that the actor gets it by value
            def run(self, variant: str, *, scored: bool = True) -> dict[str, Any]:
                if variant == "bf16" and not mended.exists():
                    raise KeyError("lost weights")
                return {**document, "variant": variant}

        document = measurement("", scored=True)
        return Breaks()

    monkeypatch.setattr(benchmarks, "CheckpointBenchmark", subject)
    study, said = planned("bf16", "fp32", repeats=2), Said()
    size, best = best_of(study)
    with connected(None):
        found = measured_in(study, tmp_path, said)
        assert found["bf16"] == "failed: KeyError: 'lost weights'"
        assert isinstance(found["fp32"], dict)
        assert found["fp32"]["repeats"] == 2
        assert any("bf16: failed" in line and "run the command again" in line for line in said.lines)
        assert kept_measurement(study, size, best, "bf16", tmp_path) is None
        mended.touch()
        assert isinstance(measured_in(study, tmp_path)["bf16"], dict)
        place = {"num_cpus": 1, "resources": {"benchmark": 1.0}}  # which no node here has
        with pytest.raises(NoNode, match=r"within 2 s \(num_cpus 1, resources .*benchmark.*`ray status`"):
            run_in_actor(subject(), "fp32", scored=False, label="never", place=place, patience_s=2.0)
    assert isinstance(kept_measurement(study, size, best, "bf16", tmp_path), dict)


def test_a_reason_is_kept_until_this_machine_can_run_the_variant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: Callable[..., list[str]]
) -> None:
    study = planned("compiled")
    size, best = best_of(study)
    compiled = type(VARIANTS["compiled"])
    monkeypatch.setattr(compiled, "unavailable", lambda self, device: "no compiler")
    asked = answer(lambda variant, *, scored: "no compiler")
    for _ in range(2):
        assert measured_in(study, tmp_path) == {"compiled": "no compiler"}
    assert asked == ["compiled"]
    assert kept_measurement(study, size, best, "compiled", tmp_path) == "no compiler"
    monkeypatch.setattr(compiled, "unavailable", lambda self, device: None)
    assert kept_measurement(study, size, best, "compiled", tmp_path) is None
    answer(measurement)
    assert isinstance(measured_in(study, tmp_path)["compiled"], dict)


# Repeats on other machines


def test_repeats_of_another_machine_are_measured_again_and_one_of_the_new_ones_is_scored(
    tmp_path: Path, answer: Callable[..., list[str]]
) -> None:
    answer(lambda variant, *, scored: measurement(variant, scored=scored, machine="Old", p50_ms=9.0))
    measured_in(planned("fp32", repeats=2), tmp_path)
    study, said = planned("fp32", repeats=3), Said()
    asked = answer(lambda variant, *, scored: measurement(variant, scored=scored, machine="New", p50_ms=1.0))
    found = measured_in(study, tmp_path, said)["fp32"]
    assert isinstance(found, dict)
    assert len(asked) == 3
    assert [one["p50_ms"] for one in found["by_repeat"]] == [1.0, 1.0, 1.0]
    assert found["test_score"] == 40.0
    assert any("measured again" in line for line in said.lines)
    assert kept_measurement(study, *best_of(study), "fp32", tmp_path) == found
    assert measured_in(study, tmp_path) == {"fp32": found}
    assert len(asked) == 3


def test_machines_that_change_every_time_come_to_an_end(tmp_path: Path, answer: Callable[..., list[str]]) -> None:
    numbers = iter(range(100))
    asked = answer(lambda variant, *, scored: measurement(variant, scored=scored, machine=f"Box {next(numbers)}"))
    study = planned("fp32", repeats=3)
    measured_in(study, tmp_path)
    assert len(asked) <= 6
    assert kept_measurement(study, *best_of(study), "fp32", tmp_path) is None


def test_another_bound_is_measured_again_beside_the_first(tmp_path: Path, answer: Callable[..., list[str]]) -> None:
    asked = answer(measurement)
    study = planned("fp32")
    other = study.replace(bound_ms=25.0)
    assert other.benchmark.measured_with() == dataclasses.replace(study.benchmark.measured_with(), bound_ms=25.0)
    measured_in(study, tmp_path)
    measured_in(other, tmp_path)
    assert asked == ["fp32", "fp32"]
    assert kept_measurement(study, *best_of(study), "fp32", tmp_path) is not None
    given = dataclasses.replace(study.benchmark, settings=BenchmarkSettings(min_duration_s=7.0))
    settings = dataclasses.replace(study, benchmark=given).replace(bound_ms=25.0).benchmark.measured_with()
    assert (settings.min_duration_s, settings.bound_ms) == (7.0, 25.0), "a plan with settings of its own"


# Tracking


def tracked(study: Study, output: Path) -> tuple[pd.DataFrame, list[dict[str, Any]]]:
    """What analysis reads of the benchmarks, and the tags and metrics of every benchmark's run there ever was."""
    size, best = best_of(study)
    with Tracking(f"sqlite:///{output / 'mlflow.db'}", "tracked", output) as tracking:
        benchmark_size(study, size, SearchResult(size.name, (best,)), output, tracking, Said())  # type: ignore[arg-type]
        frames = tracking.read(lambda uri: analysis.load(uri, "tracked"))
        client = MlflowClient(tracking_uri=tracking.uri)
        experiment = client.get_experiment_by_name("tracked")
        assert experiment is not None
        runs = client.search_runs([experiment.experiment_id], "tags.variant LIKE '%'", order_by=["start_time ASC"])
    return frames.benchmarks, [run.data.tags | run.data.metrics for run in runs]


def reported(output: Path) -> str:
    frames = analysis.load(f"sqlite:///{output / 'mlflow.db'}", "tracked")
    return analysis.write_report(frames, output / "report.html", exports=False).read_text("utf-8")


def test_a_run_says_what_was_timed_and_scores_with_and_without_english(
    tmp_path: Path, answer: Callable[..., list[str]]
) -> None:
    answer(measurement)
    study = planned("fp32")
    examples = benchmarks._examples_path(study, study.sizes[0], "fp32", tmp_path)
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


def test_a_run_carries_the_context_of_its_measurement_and_the_report_what_weakens_it(
    tmp_path: Path, answer: Callable[..., list[str]]
) -> None:
    """Of three repeats on a slice of a GPU one was slowed, and of one NVML did not say."""
    states = iter([((), True), (("power cap",), True), (None, None)])

    def on_gpu(variant: str, *, scored: bool) -> dict[str, Any]:
        slowed_by, mig = next(states)
        gpu = dataclasses.asdict(GpuState(driver="555.42", uuid="GPU-1", slowed_by=slowed_by, mig=mig))
        gpu["unavailable"] = {} if slowed_by is not None else {"slowed_by": "NVML: Not Supported"}
        found = measurement(variant, scored=scored)
        return found | {"context": found["context"] | {"device": "cuda:0", "gpu_in_use": gpu}}

    answer(on_gpu)
    rows, (run,) = tracked(planned("fp32", repeats=3), tmp_path)
    assert (run["mig"], run["driver"]) == ("on", "555.42")
    assert run["slowed_by"] == "power cap, not known (NVML: Not Supported)"
    assert (run["bench/samples"], run["bench/queries"]) == (300, 512)
    assert rows[["slowed_by", "mig", "driver", "samples"]].iloc[0].tolist() == [run["slowed_by"], "on", "555.42", 300]
    (path,) = tmp_path.glob("**/artifacts/context.json")
    kept = json.loads(path.read_text())
    assert kept["context"]["settings"] == {"min_duration_s": 60.0}
    assert kept["context"]["versions"] == {"torch": "2"}
    assert [one["gpu_in_use"]["slowed_by"] for one in kept["by_repeat"]] == [[], ["power cap"], None]
    assert "scores" not in kept
    page = reported(tmp_path)
    assert "fp32 was timed on a GPU that was slowed: power cap, not known (NVML: Not Supported)" in page
    assert "fp32 was timed on a slice of a GPU (MIG)" in page
    assert "fewer than 662 queries a repeat, which a p99 needs: 1x32 fp32 (100)" in page
    assert "queries timed" in page
    assert "driver 555.42; slowed by power cap" in page
    assert "median latency of micro_tagging&#x27;s queries (300 timed)" in page
    entries = (tmp_path / "outbox" / "journal.jsonl").read_text()
    tracked(planned("fp32", repeats=3), tmp_path)
    assert (tmp_path / "outbox" / "journal.jsonl").read_text() == entries, "the same again adds nothing"


def test_a_processor_has_no_state_of_a_gpu(tmp_path: Path, answer: Callable[..., list[str]]) -> None:
    answer(lambda variant, *, scored: measurement(variant, scored=scored) | {"samples": 662})
    rows, (run,) = tracked(planned("fp32", repeats=2), tmp_path)
    assert not {"slowed_by", "mig", "driver"} & run.keys()
    assert rows["slowed_by"].iloc[0] == ""
    page = reported(tmp_path)
    assert "slowed" not in page
    assert "662 queries a repeat" not in page


def test_nothing_of_an_earlier_plan_is_reported_with_the_present_one(
    tmp_path: Path, answer: Callable[..., list[str]]
) -> None:
    """A metric or tag cannot be taken back in MLflow: a run that would lack one is another run."""

    def without_server(variant: str, *, scored: bool) -> dict[str, Any]:
        found = measurement(variant, scored=scored)
        return found | {"server_qps": None, "unavailable": {"server_qps": "Server was not asked for"}}

    answer(measurement)
    with_server = planned("fp32", repeats=2)
    rows, _ = tracked(with_server, tmp_path)
    assert rows["server_qps"].iloc[0] == 1.0
    answer(without_server)
    rows, runs = tracked(planned("fp32", scenarios=("SingleStream",)), tmp_path)
    assert len(rows) == 1
    assert pd.isna(rows["server_qps"].iloc[0])
    assert rows["unavailable"].iloc[0] == {"server_qps": "Server was not asked for"}
    assert [run["kind"] for run in runs] == ["former benchmark", "benchmark"]
    rows, runs = tracked(with_server, tmp_path)  # the first plan again: its run is the present one again
    assert rows["server_qps"].iloc[0] == 1.0
    assert rows["unavailable"].iloc[0] == {}
    assert sorted(run["kind"] for run in runs) == ["benchmark", "former benchmark"]


def test_a_variant_that_broke_is_listed_with_its_reason_until_it_is_measured(
    tmp_path: Path, answer: Callable[..., list[str]]
) -> None:
    def breaks(variant: str, *, scored: bool) -> dict[str, Any]:
        raise ActorDiedError()

    answer(breaks)
    rows, (run,) = tracked(planned("fp32"), tmp_path)
    assert rows["reason"].iloc[0].startswith("failed: ActorDiedError")
    assert pd.isna(rows["p50_ms"].iloc[0])
    assert run["kind"] == "benchmark"
    answer(measurement)
    rows, runs = tracked(planned("fp32"), tmp_path)
    assert list(rows["reason"]) == [""]
    assert rows["p50_ms"].iloc[0] > 0
    assert [run["kind"] for run in runs] == ["former benchmark", "benchmark"]


# Devices


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Puts node groups in the place of the connected cluster's."""

    def replace(*groups: NodeGroup) -> None:
        monkeypatch.setattr(bench_place, "known_capacity", lambda: Capacity(groups, autoscales=True))

    return replace


def test_a_gpu_that_an_autoscaler_has_yet_to_start_is_where_auto_measures(cluster: Callable[..., None]) -> None:
    auto, cuda = BenchmarkPlan(), BenchmarkPlan(device="cuda")
    head, gpus = NodeGroup("head", A_CPU, 1), NodeGroup("gpus", A_GPU, 2)
    cluster(head, gpus)
    assert device_of(auto) == "cuda"
    assert place_of(cuda) == {"num_cpus": 4, "num_gpus": 1, "resources": {}}
    cluster(head, NodeGroup("gpus", A_GPU, 0))
    assert device_of(auto) == "cpu"
    cluster(head, gpus, NodeGroup("meant for it", A_CPU | {"benchmark": 1.0}, 1))
    assert device_of(auto) == "cpu"
    assert device_of(cuda) == "cuda"
    with pytest.raises(CannotRun, match="can have a GPU"):
        place_of(cuda)


def test_a_cpu_is_measured_on_a_node_that_is_yet_to_come_and_not_on_a_head_without_cores(
    cluster: Callable[..., None],
) -> None:
    head = NodeGroup("head", {"CPU": 0.0}, 1)
    cluster(head, NodeGroup("small", {"CPU": 4.0}, 2), NodeGroup("large", {"CPU": 8.0}, 2))
    assert place_of(BenchmarkPlan(device="cpu")) == {"num_cpus": 8, "num_gpus": 0, "resources": {}}
    cluster(head)
    with pytest.raises(CannotRun, match="no node of the cluster to measure on can have a core: head"):
        place_of(BenchmarkPlan(device="cpu"))


def test_a_plan_says_which_of_several_groups_times_its_sizes(cluster: Callable[..., None]) -> None:
    def kind(name: str) -> NodeGroup:
        return NodeGroup(f"benchmark-{name}", A_GPU | {"benchmark": 1.0, f"accelerator_type:{name}": 1.0}, 1)

    cluster(NodeGroup("gpus", A_GPU | {"accelerator_type:T4": 1.0}, 2), kind("A10G"), kind("H100"))
    meant = {"num_cpus": 4, "num_gpus": 1}
    assert place_of(BenchmarkPlan()) == {**meant, "resources": {"benchmark": 1.0}}
    asked = {"benchmark": 1.0, "accelerator_type:H100": 0.001}
    assert place_of(BenchmarkPlan(accelerator_type="H100")) == {**meant, "resources": asked}
    on_cpu = BenchmarkPlan(device="cpu", accelerator_type="H100")
    assert place_of(on_cpu) == {"num_cpus": 4, "num_gpus": 0, "resources": {"benchmark": 1.0}}
    with pytest.raises(CannotRun, match=r"can have a T4, which benchmark\.accelerator_type asks for"):
        place_of(BenchmarkPlan(accelerator_type="T4"))


def test_a_node_that_does_not_come_ends_the_wait_once_for_all_variants(
    tmp_path: Path, answer: Callable[[Callable[..., Outcome]], list[str]]
) -> None:
    def never(variant: str, scored: bool) -> Outcome:
        raise NoNode("no node for it within 900 s")

    asked = answer(never)
    found = measured_in(planned("fp32", "bf16", repeats=2), tmp_path)
    assert set(found.values()) == {"failed: NoNode: no node for it within 900 s"}
    assert asked == ["fp32"], "the others would wait as long"
    answer(measurement)
    assert all(isinstance(one, dict) for one in measured_in(planned("fp32", "bf16"), tmp_path).values())
