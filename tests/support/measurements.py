"""Made-up measurements, and a study whose benchmark needs no Ray."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from study.benchmarking import run as benchmarking
from study.benchmarking.run import measure_size
from study.benchmarking.stored import BestModel
from study.search.records import SearchResult, TrialOutcome, TrialRecord
from study.spec import Study
from tests.support import recipes
from trainables.benchmark.measurement import METRICS, Measured, MeasurementOutcome, Unavailable
from trainables.benchmark.variants import Variant

ReplaceActor = Callable[[Callable[..., Measured | Unavailable]], list[str | Variant]]


class RecordingConsole:
    """A console that keeps its lines."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


def planned(*variants: str | Variant, repeats: int = 1, **changes: Any) -> Study:
    study = recipes.inline()
    plan = dataclasses.replace(study.benchmark, variants=variants, repeats=repeats, device="cpu")
    return dataclasses.replace(study, benchmark=dataclasses.replace(plan, **changes))


def best_model(study: Study, output: Path) -> BestModel:
    record = TrialRecord(
        "t1", study.space.defaults()[0], TrialOutcome.COMPLETE, {"dev_score": 50.0, "test_score": 40.0}
    )
    return BestModel(study, study.sizes[0], record, output)


def compared_model(study: Study, output: Path, *, baseline: str = "t0", seed: int | None = None) -> BestModel:
    """The best model has an intermediate task, and the trial `baseline` none."""
    none, topic = study.space.defaults()[:2]
    metrics = {"dev_score": 50.0, "test_score": 40.0}
    best = TrialRecord("t1", topic, TrialOutcome.COMPLETE, metrics)
    other = TrialRecord(
        baseline, dataclasses.replace(none, seed=seed), TrialOutcome.COMPLETE, metrics | {"dev_score": 45.0}
    )
    model = BestModel.of(study, study.sizes[0], result=SearchResult(study.sizes[0].name, (best, other)), output=output)
    assert model is not None
    return model


def measurement(
    variant: str, *, scored: bool, machine: str = "Box", p50_ms: float = 2.0, baseline: float | None = None
) -> Measured:
    """A repeat as the actor returns it; `baseline` is the score of a model without an intermediate task."""
    values: dict[str, Any] = {
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
        values |= {"scores": scores, "test_score": 40.0, "test_score_without_english": 30.0}
    if scored and baseline is not None:
        task = {"test_mean": baseline, "test_mean_without_english": baseline - 10}
        values["baseline"] = {"scores": {"micro_tagging": task}, "test_score": baseline}
        values["baseline"]["test_score_without_english"] = baseline - 10
    return Measured(values)


def replace_actor(monkeypatch: pytest.MonkeyPatch) -> ReplaceActor:
    """Replaces the actor by a function of variant and `scored`; returns the variants that were measured."""
    monkeypatch.setattr(benchmarking, "placement_of", lambda plan: {})
    measured_variants: list[str | Variant] = []

    def replace(measure: Callable[..., Measured | Unavailable]) -> list[str | Variant]:
        def run(subject: Any, variant: str | Variant, *, scored: bool, **_: Any) -> Measured | Unavailable:
            measured_variants.append(variant)
            return measure(variant, scored=scored)

        monkeypatch.setattr(benchmarking, "run_in_actor", run)
        measured_variants.clear()
        return measured_variants

    return replace


def outcomes_of(study: Study, output: Path, console: RecordingConsole | None = None) -> dict[str, MeasurementOutcome]:
    """Measure the study's first size."""
    return measure_size(best_model(study, output), console or RecordingConsole())  # type: ignore[arg-type]
