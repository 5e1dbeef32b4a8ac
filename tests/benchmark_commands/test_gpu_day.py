"""`gpu_day` on a CPU: everything but the device, in order, within its time, and with what is missing named."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import typer

from study.recipes import load_recipe
from study.recipes.laptop import laptop_tiny
from tests.benchmarks import gpu_bench, gpu_checks, gpu_day, gpu_day_parts, gpu_train
from tests.benchmarks.children import outcome_of
from tests.benchmarks.gpu_day import Part, run_parts
from tests.benchmarks.gpu_day_parts import Day, Left, by_batch
from tests.benchmarks.gpu_settings import Setting
from tests.support.commands import CommandResult
from tests.support.serving import ManualClock
from trainables.models import varlen

Document = dict[str, Any]
H200 = Day("cuda", False, memory_gb=150.0, peak_tflops=989.5, bandwidth_gbs=4800)


@pytest.mark.nightly
@pytest.mark.slow
@pytest.mark.ray
def test_the_whole_command_at_tiny_size(run_with_ray: Callable[[str, str], CommandResult]) -> None:
    document = run_with_ray("gpu_day", "--device cpu --tiny").document
    parts = document["parts"]
    assert list(parts) == ["doctor", "attention", "losses", "training", "serving", "study"]
    assert parts["doctor"][0]["outcome"] == "measured", parts["doctor"]
    assert parts["attention"][0]["equal"], parts["attention"]
    assert {result["precision"]: result["equal"] for result in parts["losses"]} == dict.fromkeys(
        gpu_checks.PRECISIONS, True
    )
    assert all(len(result["device"]) == 10 for result in parts["losses"])
    *in_fp32, master = parts["training"]
    assert [result["outcome"] for result in in_fp32] == ["measured"] * 4, in_fp32
    # Inductor of torch 2.13 fails on CPUs where the weights of a compiled, packed layer are bf16.
    assert master["outcome"] == "measured" or "Exponent must be non-negative" in master["reason"], master
    assert [result["unpad"] for result in parts["training"]] == [False, True, True, True, True]
    served = {result["variant"]: result for result in parts["serving"]}
    assert served["fp32"]["outcome"] == "measured"
    assert served["fp32"]["batches"]["32"]["ms"] > 0
    assert served["fp32"]["energy_j_per_sample"] is None
    missing = {lost["name"]: lost["reason"] for lost in document["not_measured"]}
    assert missing["xlm-r-large graphed_bf16"] == "CUDA graphs need a GPU"
    assert missing["laptop_tiny"] == "no --data-root"
    assert document["failed_checks"] == []
    assert {"date", "hardware", "versions", "command", "wall_s"} <= document.keys()


def _run(parts: tuple[Part, ...], clock: ManualClock, limit_s: float = 100.0) -> tuple[Document, list[Document]]:
    """The document, and what it was at each save."""
    document: Document = {"parts": {}}
    saved: list[Document] = []
    run_parts(
        Day("cpu", True),
        parts,
        document,
        limit_s=limit_s,
        save=lambda: saved.append(copy.deepcopy(document)),
        clock=clock,
    )
    return document, saved


def _takes(clock: ManualClock, seconds: float, *results: Document) -> Callable[[Day, Left], Iterator[Document]]:
    def run(day: Day, left: Left) -> Iterator[Document]:
        for result in results:
            clock.now += seconds
            yield result

    return run


def test_the_document_is_saved_after_every_measurement_and_a_part_that_raises_costs_no_other() -> None:
    clock = ManualClock()

    def raises(day: Day, left: Left) -> Iterator[Document]:
        yield {"name": "first", "outcome": "measured"}
        raise RuntimeError("no driver")

    first = _takes(clock, 1.0, {"name": "a", "outcome": "measured"}, {"name": "b", "outcome": "measured"})
    last = _takes(clock, 1.0, {"name": "c", "outcome": "measured", "equal": False})
    document, saved = _run((Part("one", 50, first), Part("two", 50, raises), Part("losses", 50, last)), clock)
    assert [sum(map(len, each["parts"].values())) for each in saved] == [1, 2, 3, 4, 5]
    assert saved[-1] == document
    assert document["not_measured"] == [
        {"part": "two", "name": "two", "outcome": "failed", "reason": "RuntimeError: no driver"}
    ]
    assert document["failed_checks"] == ["losses: c"]
    assert document["wall_s"] == 3.0


def test_a_check_that_broke_has_failed_and_one_without_time_has_not() -> None:
    clock = ManualClock()
    broke = _takes(clock, 1.0, {"name": "a", "outcome": "killed", "reason": "exit code -9"})
    late = _takes(clock, 1.0, {"name": "b", "outcome": "not_tried", "reason": "the part's time was over"})
    parts = (Part("attention", 50, broke), Part("losses", 50, late), Part("training", 50, broke))
    assert _run(parts, clock)[0]["failed_checks"] == ["attention: a"]


def test_parts_for_which_no_time_is_left_are_named() -> None:
    clock = ManualClock()
    slow, never = _takes(clock, 95.0, {"outcome": "measured"}), _takes(clock, 1.0, {"outcome": "measured"})
    document, saved = _run((Part("slow", 500, slow), Part("never", 50, never)), clock)
    (missing,) = document["not_measured"]
    assert (missing["part"], missing["outcome"]) == ("never", "not_tried")
    assert saved[-1] == document


def test_a_part_gets_its_budget_and_no_more_than_the_day_has_left() -> None:
    clock = ManualClock()
    seen: list[float] = []

    def looks(day: Day, left: Left) -> Iterator[Document]:
        seen.append(left())
        clock.now += 60
        yield {"outcome": "measured"}

    _run((Part("first", 30, looks), Part("second", 80, looks)), clock)
    assert seen == [30, 40]


def test_settings_that_this_version_lacks_or_that_do_not_fit_are_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []

    def in_child(setting: Any, plan: Any, limit_s: float) -> Document:
        tried.append(setting.name)
        return {"outcome": "measured"}

    monkeypatch.setattr(gpu_train, "in_child", in_child)
    added = ("a token budget of another version", {"tokens_of_another_version": 1})
    monkeypatch.setattr(gpu_day_parts, "FASTER", (*gpu_day_parts.FASTER[:2], added))
    results = {result["name"]: result for result in gpu_day_parts.training(H200, lambda: 100.0)}
    assert len(tried) == 6  # three sizes, padded and not
    assert results["xlm-r-xl, unpadded"]["unpad"]
    missing = results["xlm-r-xl, a token budget of another version"]
    assert missing["reason"] == "this version has no setting tokens_of_another_version"
    assert results["xlm-r-xxl, padded"]["reason"] == (
        "weights, gradients and optimizer take 155 GB, and the device has 150"  # 9.7 billion parameters x 16 bytes
    )


def test_every_step_of_the_fast_loop_is_in_this_version_and_adds_to_the_one_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings: list[Setting] = []

    def in_child(setting: Setting, plan: Any, limit_s: float) -> Document:
        settings.append(setting)
        return {"outcome": "measured"}

    monkeypatch.setattr(gpu_train, "in_child", in_child)
    results = [
        result for result in gpu_day_parts.training(H200, lambda: 100.0) if result["name"].startswith("xlm-r-xl,")
    ]
    assert [result["outcome"] for result in results] == ["measured"] * len(gpu_day_parts.FASTER)
    padded, unpadded, compiled, budget, master = (setting for setting in settings if setting.encoder == "xlm-r-xl")
    assert unpadded == dataclasses.replace(padded, unpad=True)
    assert compiled == dataclasses.replace(unpadded, compiled=True)
    assert budget.resources.micro_batch_tokens == 16_384
    assert budget == dataclasses.replace(compiled, micro_batch=1024, micro_batch_tokens=16_384)
    assert master == dataclasses.replace(budget, precision="bf16_master")


def test_measurements_beyond_a_parts_time_are_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    left = iter([100.0, 100.0] + [0.0] * 100)  # asked before the first measurement, and for its limit
    monkeypatch.setattr(gpu_bench, "measured", lambda *_: {"outcome": "unavailable", "reason": "no kernel"})
    outcomes = [result["outcome"] for result in gpu_day_parts.serving(H200, lambda: next(left))]
    assert outcomes[0] == "unavailable"
    assert set(outcomes[1:]) == {"not_tried"}
    assert len(outcomes) == len(gpu_day_parts.VARIANTS) * len(gpu_day_parts.SERVED)


def test_latency_by_batch_size() -> None:
    """A batch of 32 at 1,600 a second takes 20 ms."""
    result = {"p50_ms": 4.0, "floor_ms": 1.0, "context": {"sweep_sps": {"1": 240.0, "32": 1600.0}}}
    batches = by_batch(result)
    assert batches["1"] == {"ms": 4.0, "floor_ms": 1.0, "achieved": 0.25, "samples_per_s": 240.0}
    assert (batches["32"]["ms"], batches["32"]["achieved"]) == (20.0, 0.05)
    assert by_batch({**result, "floor_ms": None})["32"]["achieved"] is None
    assert by_batch({**result, "context": {"sweep_sps": {"1": 240.0}}})["32"]["ms"] is None


@pytest.mark.parametrize(
    ("precision", "difference", "equal"),
    [("fp32", 1e-6, True), ("fp32", 1e-3, False), ("bf16_mixed", 1e-3, True), ("bf16_mixed", 0.1, False)],
)
def test_losses_are_compared_by_the_rounding_of_their_precision(precision: str, difference: float, equal: bool) -> None:
    result = gpu_checks.compared(precision, [1.0, 2.0], [1.0, 2.0 * (1 + difference)])
    assert result["equal"] is equal
    assert result["largest_difference"] == pytest.approx(difference)


@pytest.mark.usefixtures("one_thread")
def test_the_attention_check_fails_with_the_kernels_self_test(monkeypatch: pytest.MonkeyPatch) -> None:
    widths: list[int] = []

    def check(device: torch.device, dtype: torch.dtype, *, width: int) -> float:
        if width > 100:
            raise varlen.KernelUnusable(device, "no kernel for this width")
        widths.append(width)
        return 0.01

    assert max(outcome_of(gpu_checks.attention, "cpu")["worst"].values()) < 0.05
    monkeypatch.setattr(varlen, "check", check)
    result = outcome_of(gpu_checks.attention, "cpu")
    assert result["outcome"] == "failed"
    assert "no kernel for this width" in result["reason"]
    assert widths == [64, 80]


@pytest.mark.slow
def test_the_recipe_for_a_gpu_trains_what_the_laptops_does() -> None:
    ours = load_recipe("tests/benchmarks/gpu_study.py:laptop_tiny_on_a_gpu")
    assert [target.name for target in ours.targets] == [target.name for target in laptop_tiny().targets]
    assert [(size.resources.gpus, size.resources.workers) for size in ours.sizes] == [(1, 1)]
    assert {
        training.precision for training in (ours.tuning, ours.intermediate_tuning, ours.own_tuning[0].training)
    } == {"bf16_mixed"}


def test_a_study_that_takes_too_long_is_ended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    weights = tmp_path / gpu_day_parts.E5
    weights.parent.mkdir(parents=True)
    weights.touch()
    day = Day("cpu", True, data_root=tmp_path)
    (result,) = gpu_day_parts.study(day, lambda: 0.5)
    assert result["outcome"] == "timed_out"


@pytest.mark.parametrize(
    "options", [{"device": "gpu"}, {"device": "cpu"}, {"device": "cpu", "tiny": True, "save": True}]
)
def test_refusals(options: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit):
        gpu_day.main(**options)
    assert capsys.readouterr().err.startswith("error: --")
