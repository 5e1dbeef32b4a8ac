"""The benchmark of each size's best model: one actor a measurement, nothing beside it, results kept and tracked."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import ray

from study.cluster import benchmark_node
from study.history import SearchResult, TrialRecord
from study.progress import Screen
from study.spec import Size, Study
from study.tracking import Tracking
from trainables.benchmark.actor import run_in_actor
from trainables.benchmark.checkpoint import CheckpointBenchmark
from trainables.benchmark.measurement import LANGUAGE_METRICS, METRICS
from trainables.benchmark.repeats import combined, interleaved
from trainables.benchmark.settings import BenchmarkSettings
from trainables.fingerprint import canonical, fingerprint


def benchmark_size(
    study: Study, size: Size, result: SearchResult, output: Path, tracking: Tracking, screen: Screen
) -> list[dict[str, Any]]:
    """Measurements of the plan's variants, tracked; those kept from an earlier run of the same model are not taken again.

    A variant that cannot run here is left out and said; so is the size when no trial of it was completed.
    """
    best = result.best
    if best is None:
        screen.say(f"benchmark {size.name}: no complete trial, nothing to measure")
        return []
    found = [one for one in measure_size(study, size, best, output, screen).values() if not isinstance(one, str)]
    for measured in found:
        _track(size, best, measured, tracking)
    return found


def measure_size(
    study: Study, size: Size, best: TrialRecord, output: Path, screen: Screen
) -> dict[str, dict[str, Any] | str]:
    """By variant, what its repeats came to, or why it cannot run here. Variants take turns; each repeat is kept at once."""
    for turn, variant in interleaved(study.benchmark.variants, study.benchmark.repeats):
        kept = _kept(study, size, best, variant, output)
        if isinstance(kept, str) or len(kept) > turn:
            continue
        which = f", repeat {turn + 1} of {study.benchmark.repeats}" if study.benchmark.repeats > 1 else ""
        screen.say(f"benchmark {size.name} {variant}{which}")
        measured = _measure(study, size, best, variant, output, turn=turn)
        if isinstance(measured, str):
            screen.say(f"benchmark {size.name} {variant}: cannot run here: {measured}")
        _keep(study, size, best, variant, output, measured if isinstance(measured, str) else [*kept, measured])
    found: dict[str, dict[str, Any] | str] = {}
    for variant in study.benchmark.variants:
        kept = _kept(study, size, best, variant, output)
        found[variant] = kept if isinstance(kept, str) else combined(kept)
    return found


def kept_measurement(
    study: Study, size: Size, best: TrialRecord, variant: str, output: Path
) -> dict[str, Any] | str | None:
    """An earlier run's measurement of the same models (or why there can be none), or None if a repeat of it is lacking."""
    kept = _kept(study, size, best, variant, output)
    if isinstance(kept, str):
        return kept
    return combined(kept) if len(kept) >= study.benchmark.repeats else None


def _kept(study: Study, size: Size, best: TrialRecord, variant: str, output: Path) -> list[dict[str, Any]] | str:
    """The repeats that were measured, at most as many as the plan wants; or why the variant cannot run."""
    path = _path(study, size, variant, output)
    if not path.exists():
        return []
    document = json.loads(path.read_text(encoding="utf-8"))
    if document["of"] != _identity(study, size, best):
        return []
    kept: list[dict[str, Any]] | str = document["measured"]
    return kept if isinstance(kept, str) else kept[: study.benchmark.repeats]


def _keep(
    study: Study, size: Size, best: TrialRecord, variant: str, output: Path, measured: list[dict[str, Any]] | str
) -> None:
    path = _path(study, size, variant, output)
    path.parent.mkdir(exist_ok=True)
    document = {"of": _identity(study, size, best), "measured": measured}
    temporary = path.with_suffix(".unfinished")
    temporary.write_text(json.dumps(document, indent=1), encoding="utf-8")
    os.replace(temporary, path)


def _measure(
    study: Study, size: Size, best: TrialRecord, variant: str, output: Path, *, turn: int
) -> dict[str, Any] | str:
    """One repeat. The first is scored: what a variant answers does not change from one to the next."""
    plan, device = study.benchmark, device_of(study)
    chain = study.chain(size, best.choice)
    subject = CheckpointBenchmark(str(output.resolve()), chain, plan.threads, plan.measured_with(), device)
    label = f"{size.name} {variant} {turn}"
    return run_in_actor(subject, variant, scored=turn == 0, device=device, label=label, place=benchmark_node())


def device_of(study: Study) -> str:
    """Where the connected cluster measures."""
    if study.benchmark.device != "auto":
        return study.benchmark.device
    return "cuda" if ray.cluster_resources().get("GPU", 0) >= 1 else "cpu"


def _path(study: Study, size: Size, variant: str, output: Path) -> Path:
    """Measurements with other settings lie beside these, and none overwrites another's."""
    plan = study.benchmark
    how = fingerprint(_How(plan.measured_with(), plan.threads, plan.device))
    return output / "benchmarks" / f"{size.name}-{variant}@{how}.json"


@dataclasses.dataclass(frozen=True)
class _How:
    settings: BenchmarkSettings
    threads: int
    device: str


def _identity(study: Study, size: Size, best: TrialRecord) -> dict[str, Any]:
    """What a kept measurement is of: the models, and how they were timed, on how many threads of what device."""
    models = [fingerprint(evaluate) for evaluate in study.chain(size, best.choice)]
    plan = study.benchmark
    return {"models": models, "how": canonical(_How(plan.measured_with(), plan.threads, plan.device))}


def _track(size: Size, best: TrialRecord, measured: dict[str, Any], tracking: Tracking) -> None:
    on_gpu = measured["context"]["device"] != "cpu"
    unasked = () if on_gpu else [name for name in METRICS if name.startswith("gpu_")]  # nobody misses these on a CPU
    tags = {
        "trial_id": best.trial_id,
        "hardware": measured["context"]["hardware"]["cpu"],
        "timed_task": measured["timed_task"],
        "interference": measured["interference"]["text"],
        **{f"result:{scenario}": "VALID" if valid else "INVALID" for scenario, valid in measured["valid"].items()},
        **{f"unavailable:bench/{name}": why for name, why in measured["unavailable"].items() if name not in unasked},
        **{f"problems:{scenario}": "; ".join(why) for scenario, why in measured["problems"].items()},
    }
    run = tracking.benchmark(size.name, measured["variant"], tags)
    tracking.metrics(run, _metrics(measured))
    tracking.finish(run)


def _metrics(measured: dict[str, Any]) -> dict[str, float | None]:
    metrics = {f"bench/{name}": measured[name] for name in METRICS}
    for name, (low, high) in measured["intervals"].items():
        metrics |= {f"bench/{name}_low": low, f"bench/{name}_high": high}
    for language, found in measured["languages"].items():
        metrics |= {f"bench/{name}/{language}": found.get(name) for name in LANGUAGE_METRICS}
    metrics |= {"bench/repeats": measured["repeats"]}
    metrics |= {name: measured[name] for name in ("params_m", "params_body_m")}
    metrics |= {"test/score": measured["test_score"]}
    metrics |= {f"test/{task}": one["test_mean"] for task, one in measured["scores"].items()}
    return metrics
