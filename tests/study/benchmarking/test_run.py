"""Measuring a size: repeats, what is stored, and variants that break. Measurements are made up."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from ray.exceptions import ActorDiedError

from study.benchmarking import run as benchmarking
from study.benchmarking.run import measure_size
from study.benchmarking.stored import write_json
from study.cluster.connection import connected
from tests.support.lost_node import ends_with_the_reason, own_node
from tests.support.measurements import RecordingConsole, ReplaceActor, best_model, measurement, outcomes_of, planned
from trainables.benchmark.actor import NoNode, run_in_actor
from trainables.benchmark.measurement import RESIDENT_WEIGHTS, Failed, Measured, Unavailable
from trainables.benchmark.settings import BenchmarkSettings
from trainables.benchmark.variants import VARIANTS
from trainables.store.fingerprint import canonical
from trainables.store.kept import sealed


@pytest.mark.slow
@pytest.mark.ray
def test_a_variant_that_raises_in_its_actor_does_not_affect_the_others_and_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fixed = tmp_path / "fixed"

    def subject(*_: Any, **__: Any) -> Any:
        class Breaks:  # defined here, so that it is pickled by value
            def run(self, variant: str, *, scored: bool = True) -> Measured:
                if variant == "bf16" and not fixed.exists():
                    raise KeyError("lost weights")
                return Measured({**values, "variant": variant})

        values = measurement("", scored=True).values
        return Breaks()

    monkeypatch.setattr(benchmarking, "CheckpointBenchmark", subject)
    study, console = planned("bf16", "fp32", repeats=2), RecordingConsole()
    stored = best_model(study, tmp_path).stored("bf16")
    with connected(None):
        outcomes = outcomes_of(study, tmp_path, console)
        assert outcomes["bf16"] == Failed("KeyError: 'lost weights'")
        assert isinstance(outcomes["fp32"], Measured)
        assert outcomes["fp32"]["repeats"] == 2
        assert any("bf16: failed" in line and "run the command again" in line for line in console.lines)
        assert stored.complete() is None
        fixed.touch()
        assert isinstance(outcomes_of(study, tmp_path)["bf16"], Measured)
        placement = {"num_cpus": 1, "resources": {"benchmark": 1.0}}  # no node here has the resource
        with pytest.raises(NoNode, match=r"within 2 s \(num_cpus 1, resources .*benchmark.*`ray status`"):
            run_in_actor(subject(), "fp32", scored=False, label="never", placement=placement, patience_s=2.0)
    assert isinstance(stored.complete(), Measured)


def test_what_is_left_is_told_at_the_start_and_after_each_repeat(tmp_path: Path, replace_actor: ReplaceActor) -> None:
    """`fp32` keeps the search's scores, so only `int8` is scored; a variant that cannot run has nothing left."""
    study = planned("fp32", "int8", "compiled", repeats=2)
    replace_actor(
        lambda variant, *, scored: (
            Unavailable("no compiler") if variant == "compiled" else measurement(str(variant), scored=scored)
        )
    )

    def told() -> list[tuple[int, int]]:
        left: list[tuple[int, int]] = []
        measure_size(best_model(study, tmp_path), RecordingConsole(), to_measure=lambda *both: left.append(both))  # type: ignore[arg-type]
        return left

    first = told()
    assert sorted(first, reverse=True) == first
    assert (first[0], first[-1]) == ((6, 2), (0, 0))
    assert (2, 0) in first, "the repeats that score come first"
    assert told() == [(0, 0)], "all stored"


def test_a_reason_is_stored_until_this_machine_can_run_the_variant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, replace_actor: ReplaceActor
) -> None:
    study = planned("compiled")
    stored = best_model(study, tmp_path).stored("compiled")
    compiled = type(VARIANTS["compiled"])
    monkeypatch.setattr(compiled, "unavailable", lambda self, device: "no compiler")
    measured_variants = replace_actor(lambda variant, *, scored: Unavailable("no compiler"))
    for _ in range(2):
        assert outcomes_of(study, tmp_path) == {"compiled": Unavailable("no compiler")}
    assert measured_variants == ["compiled"]
    assert stored.complete() == Unavailable("no compiler")
    monkeypatch.setattr(compiled, "unavailable", lambda self, device: None)
    assert stored.complete() is None
    replace_actor(measurement)
    assert isinstance(outcomes_of(study, tmp_path)["compiled"], Measured)


def test_repeats_of_another_machine_are_replaced_and_one_of_the_new_ones_is_scored(
    tmp_path: Path, replace_actor: ReplaceActor
) -> None:
    replace_actor(lambda variant, *, scored: measurement(variant, scored=scored, machine="Old", p50_ms=9.0))
    outcomes_of(planned("fp32", repeats=2), tmp_path)
    study, console = planned("fp32", repeats=3), RecordingConsole()
    measured_variants = replace_actor(
        lambda variant, *, scored: measurement(variant, scored=scored, machine="New", p50_ms=1.0)
    )
    fp32 = outcomes_of(study, tmp_path, console)["fp32"]
    assert isinstance(fp32, Measured)
    assert len(measured_variants) == 3
    assert [repeat["p50_ms"] for repeat in fp32["by_repeat"]] == [1.0, 1.0, 1.0]
    assert fp32["test_score"] == 40.0
    assert any("measured again" in line for line in console.lines)
    assert best_model(study, tmp_path).stored("fp32").complete() == fp32
    assert outcomes_of(study, tmp_path) == {"fp32": fp32}
    assert len(measured_variants) == 3


def test_measuring_ends_even_if_every_repeat_runs_on_another_machine(
    tmp_path: Path, replace_actor: ReplaceActor
) -> None:
    numbers = iter(range(100))
    measured_variants = replace_actor(
        lambda variant, *, scored: measurement(variant, scored=scored, machine=f"Box {next(numbers)}")
    )
    study = planned("fp32", repeats=3)
    outcomes_of(study, tmp_path)
    assert len(measured_variants) <= 6
    assert best_model(study, tmp_path).stored("fp32").complete() is None


def test_another_bound_is_measured_and_stored_beside_the_first(tmp_path: Path, replace_actor: ReplaceActor) -> None:
    measured_variants = replace_actor(measurement)
    study = planned("fp32")
    other = study.replace(bound_ms=25.0)
    assert other.benchmark.resolved_settings() == dataclasses.replace(
        study.benchmark.resolved_settings(), bound_ms=25.0
    )
    outcomes_of(study, tmp_path)
    outcomes_of(other, tmp_path)
    assert measured_variants == ["fp32", "fp32"]
    assert best_model(study, tmp_path).stored("fp32").complete() is not None
    given = dataclasses.replace(study.benchmark, settings=BenchmarkSettings(min_duration_s=7.0))
    settings = dataclasses.replace(study, benchmark=given).replace(bound_ms=25.0).benchmark.resolved_settings()
    assert (settings.min_duration_s, settings.bound_ms) == (7.0, 25.0), "a plan with its own settings"


def test_without_a_node_the_wait_ends_once_for_all_variants(tmp_path: Path, replace_actor: ReplaceActor) -> None:
    def never(variant: str, scored: bool) -> Measured:
        raise NoNode("no node for it within 900 s")

    measured_variants = replace_actor(never)
    outcomes = outcomes_of(planned("fp32", "bf16", repeats=2), tmp_path)
    assert set(outcomes.values()) == {Failed("NoNode: no node for it within 900 s")}
    assert measured_variants == ["fp32"], "bf16 would wait as long"
    replace_actor(measurement)
    assert all(isinstance(outcome, Measured) for outcome in outcomes_of(planned("fp32", "bf16"), tmp_path).values())


def test_no_variant_fails_for_a_lost_node(
    tmp_path: Path,
    replace_actor: ReplaceActor,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def dies(variant: str, scored: bool) -> Measured:
        raise ActorDiedError()

    replace_actor(dies)
    with own_node(monkeypatch) as node:
        (failed,) = outcomes_of(planned("fp32"), tmp_path).values()
        assert isinstance(failed, Failed), "the node lives"
        node.lost = True
        with pytest.raises(SystemExit) as ended:
            outcomes_of(planned("fp32"), tmp_path)
    assert ends_with_the_reason(ended, capsys)


def test_stored_measurements_keep_the_form_and_the_file_names_of_earlier_versions(
    tmp_path: Path, replace_actor: ReplaceActor
) -> None:
    """The hash comes from the version in which `Method` was called `_How`."""
    replace_actor(measurement)
    settings = BenchmarkSettings.for_window(0.5, scenarios=("SingleStream", "Offline"))
    model = best_model(planned("fp32", settings=settings), tmp_path)
    outcomes_of(model.study, tmp_path)
    (path,) = tmp_path.glob("benchmarks/*")
    assert path == model.stored("fp32").path == tmp_path / "benchmarks" / "1x32-fp32@4d8323d509fe.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    assert document["of"] == {"models": list(model.fingerprints), "how": canonical(model.method)}
    assert document["measured"] == [measurement("fp32", scored=True).values]
    assert document.keys() == {"of", "measured", "seal"}

    model.stored("fp32").save(Unavailable("no compiler"))
    document = json.loads(path.read_text(encoding="utf-8"))
    assert (document["measured"], document["here"]) == ("no compiler", None)


def test_scores_of_batches_are_not_taken_for_those_of_single_queries(tmp_path: Path) -> None:
    """Earlier versions scored dynamic int8 in batches, which change what it answers."""
    kept = {name: best_model(planned("fp32", "int8"), tmp_path).stored(name) for name in ("fp32", "int8")}
    for name, stored in kept.items():
        stored.save([measurement(name, scored=True)])
        assert stored.load() == [measurement(name, scored=True)]
        document = json.loads(stored.path.read_text(encoding="utf-8"))
        document["of"].pop("scored", None)
        write_json(stored.path, sealed({key: document[key] for key in ("of", "measured")}))
    assert kept["fp32"].load() == [measurement("fp32", scored=True)]
    assert kept["int8"].load() == []


def test_repeats_that_subtract_other_weights_from_peak_memory_are_not_combined(
    tmp_path: Path, replace_actor: ReplaceActor
) -> None:
    """Earlier versions recorded no rule. What they finished stays; what they began is measured again."""

    def by_this_version(variant: str, *, scored: bool) -> Measured:
        values = measurement(variant, scored=scored).values
        context = {**values["context"], "weights_subtracted": RESIDENT_WEIGHTS}
        return Measured({**values, "peak_memory_mb": 500.0, "context": context})

    study = planned("fp32", repeats=3)
    begun, finished = (best_model(study, tmp_path / name).stored("fp32") for name in ("begun", "finished"))
    earlier = [measurement("fp32", scored=number == 0) for number in range(3)]
    begun.save(earlier[:2])
    finished.save(earlier)
    measured_variants = replace_actor(by_this_version)
    outcomes_of(study, tmp_path / "finished")
    assert measured_variants == []
    outcomes_of(study, tmp_path / "begun")
    assert len(measured_variants) == 3
    combined = begun.complete()
    assert isinstance(combined, Measured)
    assert combined["intervals"]["peak_memory_mb"] == [500.0, 500.0]
