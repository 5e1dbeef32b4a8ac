"""The benchmark of each size's best model: one actor a variant, nothing beside it, results kept and tracked."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import ray

from study.progress import Screen
from study.search import SearchResult, TrialRecord
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
        measured = _measure(study, size, best, variant, output.resolve(), screen)
        if isinstance(measured, str):
            screen.say(f"benchmark {size.name} {variant}: cannot run here: {measured}")
            continue
        _track(size, best, measured, tracking)
        found.append(measured)
    return found


def _measure(
    study: Study, size: Size, best: TrialRecord, variant: str, output: Path, screen: Screen
) -> dict[str, Any] | str:
    chain, plan = study.chain(size, best.choice), study.benchmark
    identity = {
        "models": [fingerprint(evaluate) for evaluate in chain],
        "window_s": plan.window_s,
        "threads": plan.threads,
    }
    kept = output / "benchmarks" / f"{size.name}-{variant}.json"
    if kept.exists():
        document = json.loads(kept.read_text(encoding="utf-8"))
        if document["of"] == identity:
            return dict(document["measured"])
    screen.say(f"benchmark {size.name} {variant}")
    benchmark = CheckpointBenchmark(str(output), chain, plan.threads, plan.window_s)
    # All cores of the node: Ray then places nothing beside the measurement.
    cores = int(max(node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]))
    actor = BenchmarkActor.options(num_cpus=cores).remote(benchmark)  # type: ignore[attr-defined]
    try:
        measured: dict[str, Any] | str = ray.get(actor.run.remote(variant))
    finally:
        ray.kill(actor)
    if isinstance(measured, str):
        return measured
    kept.parent.mkdir(exist_ok=True)
    temporary = kept.with_suffix(".unfinished")
    temporary.write_text(json.dumps({"of": identity, "measured": measured}, indent=1), encoding="utf-8")
    os.replace(temporary, kept)
    return measured


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
