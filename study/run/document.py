"""The JSON document that `run` prints as its last line, and the line of each failure."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from study.run.pretraining import activity, encoder_parameters
from study.search.records import SearchResult, TrialOutcome, TrialRecord
from study.spec import Size, Study
from trainables.benchmark.measurement import Failed, Measured, MeasurementOutcome, outcome_to_json

Measurements = Mapping[str, MeasurementOutcome]  # by variant

_SHOWN = ("variant", "p50_ms", "p90_ms", "throughput_sps", "peak_memory_mb", "test_score", "test_score_without_english")


def size_documents(
    study: Study, output: Path, *, results: Mapping[str, SearchResult], measurements: Mapping[str, Measurements]
) -> list[dict[str, Any]]:
    """Each size's parameters, trials, best trial and benchmark."""
    return [
        _size_document(study, size, output=output, result=results[size.name], measured=measurements[size.name])
        for size in study.sizes
    ]


def _size_document(
    study: Study, size: Size, *, output: Path, result: SearchResult, measured: Measurements
) -> dict[str, Any]:
    count = encoder_parameters(study, size, output=output)
    return {
        "name": size.name,
        "params_m": round(count.total / 1e6, 3),
        "params_body_m": round(count.body / 1e6, 3),
        "rate_factor": size.rate_factor,
        "trials": len(result.trials),
        "pruned": result.count(TrialOutcome.STOPPED_EARLY),
        "failed": result.failed_count,
        "best": None if result.best is None else _best_document(result.best),
        "bench": [
            {key: outcome.get(key) for key in _SHOWN} for outcome in measured.values() if isinstance(outcome, Measured)
        ],
        "bench_unavailable": {
            variant: outcome_to_json(outcome)
            for variant, outcome in measured.items()
            if not isinstance(outcome, Measured)
        },
    }


def _best_document(best: TrialRecord) -> dict[str, Any]:
    return {
        **dataclasses.asdict(best.choice),
        "dev_score": round(best.dev_score or 0.0, 2),
        "test_score": round(best.metrics["test_score"], 2),
    }


def failure_lines(
    study: Study,
    *,
    encoder_failures: Mapping[str, str],
    results: Mapping[str, SearchResult],
    measurements: Mapping[str, Measurements],
) -> tuple[str, ...]:
    """One line for each encoder, trial and benchmark that failed."""
    encoders = [f"{name} {activity(study, study.size(name))}: {reason}" for name, reason in encoder_failures.items()]
    trials = [
        f"{name} {trial.trial_id} ({trial.choice.intermediate}): {trial.reason}"
        for name, result in results.items()
        for trial in result.failures
    ]
    benchmarks = [
        f"{name} benchmark of {variant}: {outcome.reason}"
        for name, measured in measurements.items()
        for variant, outcome in measured.items()
        if isinstance(outcome, Failed)
    ]
    return (*encoders, *trials, *benchmarks)
