"""Speeds before the search: which sizes are timed, what is stored, and what a reader gets. Measurements are made up."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import pytest
from ray.exceptions import ActorDiedError
from typer.testing import CliRunner

from study.benchmarking import early
from study.benchmarking.early import early_latencies, early_wanted, time_encoders
from study.benchmarking.front_so_far import front_line, front_so_far, stored_front_line
from study.cli.app import app
from study.search.records import SearchResult, TrialOutcome, TrialRecord
from study.spec import Study
from tests.support import recipes
from tests.support.lost_node import ends_with_the_reason, own_node
from tests.support.measurements import RecordingConsole, measurement
from trainables.benchmark.actor import NoNode
from trainables.benchmark.measurement import Measured, Unavailable
from trainables.benchmark.variants import VARIANTS
from trainables.store.fingerprint import fingerprint

MS = {"1x32": 2.0, "1x64": 5.0}


def planned(*variants: str) -> Study:
    study = recipes.tiny()
    plan = dataclasses.replace(study.benchmark, variants=variants, repeats=3, early=True, device="cpu")
    return dataclasses.replace(study, benchmark=plan)


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Replaces the actor; the list gets size and variant of each measurement. int8 takes half of fp32's time."""
    calls: list[tuple[str, str]] = []

    @contextmanager
    def actor(subject: Any, *, label: str, placement: Any) -> Iterator[Callable[[str, bool], Measured | Unavailable]]:
        size = label.removeprefix("early ")

        def measure(variant: str, scored: bool) -> Measured | Unavailable:
            assert not scored
            calls.append((size, variant))
            if variant == "compiled":
                return Unavailable("no compiler")
            return measurement(variant, scored=False, p50_ms=MS[size] / (2 if variant == "int8" else 1))

        if size not in MS:
            raise NoNode("no node for it")
        yield measure

    monkeypatch.setattr(early, "benchmark_actor", actor)
    monkeypatch.setattr(early, "placement_of", lambda plan: {})
    return calls


def run(study: Study, output: Path, console: RecordingConsole | None = None) -> Any:
    return time_encoders(study, study.sizes, output, tracker=None, console=console or RecordingConsole())  # type: ignore[arg-type]


def test_each_size_is_timed_once_and_read_as_its_fastest_variant(tmp_path: Path, timed: list[tuple[str, str]]) -> None:
    study, console = planned("fp32", "int8"), RecordingConsole()
    assert early_latencies(study, tmp_path) == {}
    assert run(study, tmp_path, console) == {"1x32": 1.0, "1x64": 2.5} == early_latencies(study, tmp_path)
    assert len(timed) == 4, "one repeat, although the benchmark plans three"
    assert any("1x64" in line and "provisional" in line and "2.50 ms" in line for line in console.lines)
    run(study, tmp_path)
    assert len(timed) == 4, "stored measurements are not repeated"
    run(planned("fp32", "int8", "bf16"), tmp_path)
    assert timed[4:] == [("1x32", "bf16"), ("1x64", "bf16")]
    assert not list(tmp_path.glob("benchmarks/*.json")), "apart from the measurements that are reported"


def test_other_queries_or_another_encoder_are_timed_again(tmp_path: Path, timed: list[tuple[str, str]]) -> None:
    study = planned("fp32")
    run(study, tmp_path)
    other = dataclasses.replace(study, targets=study.targets[1:])
    assert early_latencies(other, tmp_path) == {}
    run(other, tmp_path)
    assert len(timed) == 4


def test_a_variant_that_cannot_run_and_a_size_without_a_node_have_no_speed(
    tmp_path: Path, timed: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(VARIANTS["compiled"]), "unavailable", lambda self, device: "no compiler")
    monkeypatch.setattr(early, "device_of", lambda plan: "cpu")
    study, console = planned("compiled"), RecordingConsole()
    assert run(study, tmp_path, console) == {}
    assert any("compiled cannot run here: no compiler" in line for line in console.lines)
    monkeypatch.delitem(MS, "1x64")
    assert run(planned("fp32"), tmp_path, console) == {"1x32": 2.0}
    assert any("timing the encoder of 1x64 failed" in line and "no node" in line for line in console.lines)


def test_early_timing_is_off_by_default_and_part_of_no_identity() -> None:
    study = recipes.tiny()
    early_study = dataclasses.replace(study, benchmark=dataclasses.replace(study.benchmark, early=True))
    assert not early_wanted(study)
    assert early_wanted(early_study)
    assert not early_wanted(dataclasses.replace(study, benchmark=dataclasses.replace(planned().benchmark)))
    chains = [of.chain(of.sizes[0], of.space.defaults()[0]) for of in (study, early_study)]
    assert [*map(fingerprint, chains[0])] == [*map(fingerprint, chains[1])]


def test_the_front_so_far_names_speeds_scores_and_what_is_dominated(
    tmp_path: Path, timed: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    study = planned("fp32")
    run(study, tmp_path)
    choice = study.space.defaults()[0]
    scores: dict[str, float | None] = {"1x32": 50.0, "1x64": None}

    def result(study: Study, size: Any, *, storage: Any) -> tuple[SearchResult, bool]:
        dev = scores[size.name]
        trials = [] if dev is None else [TrialRecord("t1", choice, TrialOutcome.COMPLETE, {"dev_score": dev})]
        return SearchResult(size.name, tuple(trials)), False

    monkeypatch.setattr("study.benchmarking.front_so_far.load_result", result)

    def line() -> str:
        return front_line(front_so_far(study, tmp_path, storage=None))

    assert "1x32 2.00 ms, 50.0; 1x64 5.00 ms, no complete trial" in line()
    scores["1x64"] = 49.0
    assert "1x64 5.00 ms, 49.0 (dominated)" in line()
    scores["1x64"] = 51.0
    assert "dominated" not in line()


def test_plan_shows_what_a_folder_knows_and_changes_nothing_there(tmp_path: Path, timed: list[tuple[str, str]]) -> None:
    study = planned("fp32")
    assert stored_front_line(study, tmp_path) is None
    run(study, tmp_path)
    before = sorted(tmp_path.rglob("*"))
    line = stored_front_line(study, tmp_path)
    assert line is not None
    assert "1x32 2.00 ms, no complete trial" in line
    assert sorted(tmp_path.rglob("*")) == before
    shown = CliRunner().invoke(app, ["plan", "quickstart", "--output", str(tmp_path)])
    assert shown.exit_code == 0
    assert "no speed was measured before a search" in " ".join(shown.output.split())


def test_no_timing_fails_for_a_lost_node(
    tmp_path: Path,
    timed: list[tuple[str, str]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(early, "benchmark_actor", lambda *_, **__: _dies())
    with own_node(monkeypatch) as node:
        assert run(planned("fp32"), tmp_path) == {}, "the node lives"
        node.lost = True
        with pytest.raises(SystemExit) as ended:
            run(planned("fp32"), tmp_path)
    assert ends_with_the_reason(ended, capsys)


def _dies() -> NoReturn:
    raise ActorDiedError()
