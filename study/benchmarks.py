"""The benchmark of each size's best model: one actor a variant, nothing beside it, results kept and tracked."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import ray

from study.history import SearchResult, TrialRecord
from study.progress import Screen
from study.spec import Size, Study
from study.tracking import Tracking
from trainables.benchmark.checkpoint import BenchmarkActor, CheckpointBenchmark
from trainables.fingerprint import fingerprint

_TRACKED = ("p50_ms", "p90_ms", "p99_ms", "throughput_sps", "peak_memory_mb", "energy_j_per_sample", "cold_start_ms")


def benchmark_size(
    study: Study, size: Size, result: SearchResult, output: Path, tracking: Tracking, screen: Screen
) -> list[dict[str, Any]]:
    """Measurements of the plan's variants, those kept from an earlier run of the same model not taken again.

    A variant that cannot run here is left out and said; so is the size when no trial of it was completed.
    """
    best = result.best
    if best is None:
        screen.say(f"benchmark {size.name}: no complete trial, nothing to measure")
        return []
    found = []
    for variant in study.benchmark.variants:
        measured = kept_measurement(study, size, best, variant, output)
        if measured is None:
            screen.say(f"benchmark {size.name} {variant}")
            measured = _measure(study, size, best, variant, output)
        if isinstance(measured, str):
            screen.say(f"benchmark {size.name} {variant}: cannot run here: {measured}")
            continue
        _track(size, best, measured, tracking)
        found.append(measured)
    return found


def kept_measurement(
    study: Study, size: Size, best: TrialRecord, variant: str, output: Path
) -> dict[str, Any] | str | None:
    """An earlier run's measurement of the same models (or why there can be none), or None."""
    path = _path(size, variant, output)
    if not path.exists():
        return None
    document = json.loads(path.read_text(encoding="utf-8"))
    measured: dict[str, Any] | str = document["measured"]
    return measured if document["of"] == _identity(study, size, best) else None


def _measure(study: Study, size: Size, best: TrialRecord, variant: str, output: Path) -> dict[str, Any] | str:
    plan = study.benchmark
    benchmark = CheckpointBenchmark(str(output.resolve()), study.chain(size, best.choice), plan.threads, plan.window_s)
    # All cores of the node: Ray then places nothing beside the measurement.
    cores = int(max(node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]))
    actor = BenchmarkActor.options(num_cpus=cores).remote(benchmark)  # type: ignore[attr-defined]
    try:
        measured: dict[str, Any] | str = ray.get(actor.run.remote(variant))
    finally:
        ray.kill(actor)
    path = _path(size, variant, output)
    path.parent.mkdir(exist_ok=True)
    document = {"of": _identity(study, size, best), "measured": measured}
    temporary = path.with_suffix(".unfinished")
    temporary.write_text(json.dumps(document, indent=1), encoding="utf-8")
    os.replace(temporary, path)
    return measured


def _path(size: Size, variant: str, output: Path) -> Path:
    return output / "benchmarks" / f"{size.name}-{variant}.json"


def _identity(study: Study, size: Size, best: TrialRecord) -> dict[str, Any]:
    """What a kept measurement is of: the models, and how long and on how many threads they were timed."""
    models = [fingerprint(evaluate) for evaluate in study.chain(size, best.choice)]
    return {"models": models, "window_s": study.benchmark.window_s, "threads": study.benchmark.threads}


def _track(size: Size, best: TrialRecord, measured: dict[str, Any], tracking: Tracking) -> None:
    tags = {
        "trial_id": best.trial_id,
        "hardware": measured["context"]["hardware"]["cpu"],
        "timed_task": measured["timed_task"],
        "interference": measured["interference_text"],
        **{f"unavailable:bench/{name}": reason for name, reason in measured["unavailable"].items()},
        **{f"problems:{scenario}": "; ".join(why) for scenario, why in measured["problems"].items()},
    }
    run = tracking.benchmark(size.name, measured["variant"], tags)
    metrics = {f"bench/{name}": measured[name] for name in _TRACKED}
    metrics |= {name: measured[name] for name in ("params_m", "params_body_m")}
    metrics |= {"test/score": measured["test_score"]}
    metrics |= {f"test/{task}": one["test_mean"] for task, one in measured["scores"].items()}
    tracking.metrics(run, metrics)
    tracking.finish(run)
