"""The benchmark of each size's best model: one actor a measurement, nothing beside it, results kept and tracked."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import torch
from ray.exceptions import RayError

from study.benchmarking.placement import device_of, place_of
from study.cluster.connection import CannotRun
from study.console import Screen
from study.redact import redacted
from study.search.trial_store import SearchResult, TrialRecord
from study.spec import Size, Study
from study.tracking.examples import EXAMPLES
from study.tracking.tracker import Tracking
from trainables.benchmark.actor import NoNode, run_in_actor
from trainables.benchmark.measurement import LANGUAGE_METRICS, METRICS
from trainables.benchmark.repeats import combined, interleaved
from trainables.benchmark.settings import BenchmarkSettings
from trainables.benchmark.subjects.checkpoint import CheckpointBenchmark
from trainables.benchmark.variants import variant_named
from trainables.store.fingerprint import canonical, fingerprint

ROUNDS = 2  # the first repeat on another machine than the kept ones' puts them aside, and the next round replaces them
FORMER = "former benchmark"  # the kind of a run whose measurement is no longer the study's
CONTEXT = "context.json"  # under what a measurement was taken, as an artefact of its run
FAILED = "failed: "  # how the reason begins of a variant that broke, and may not when it is tried again


def benchmark_size(
    study: Study, size: Size, result: SearchResult, output: Path, tracking: Tracking, screen: Screen
) -> dict[str, dict[str, Any] | str]:
    """By variant of the plan, its measurement or why there is none, tracked; those kept from an earlier run of the same model
    are not taken again. Nothing where no trial of the size was completed, which is said."""
    best = result.best
    if best is None:
        screen.say(f"benchmark {size.name}: no complete trial, nothing to measure")
        return {}
    found = measure_size(study, size, best, output, screen)
    for variant, one in found.items():
        if isinstance(one, str):
            run = _track_missing(size, best, variant, one, tracking)
        else:
            run = _track(study, size, best, one, output, tracking)
        parent, current = tracking.size(size.name), f"benchmark:{variant}"
        if (former := tracking.tag(parent, current)) not in (None, run):
            tracking.tags(former, {"kind": FORMER})
        tracking.tags(parent, {current: run})
    return found


def measure_size(
    study: Study, size: Size, best: TrialRecord, output: Path, screen: Screen
) -> dict[str, dict[str, Any] | str]:
    """By variant, what its repeats came to, or why it cannot run here. Variants take turns; each repeat is kept at once.

    A measurement that breaks ends its variant alone ("failed: ..."). That is not kept: the next run tries again.
    """
    plan = study.benchmark
    found: dict[str, dict[str, Any] | str] = {}
    for turn, variant in ROUNDS * interleaved(plan.variants, plan.repeats):
        kept = _kept(study, size, best, variant, output)
        if variant in found or isinstance(kept, str) or len(kept) > turn:
            continue
        name = f"benchmark {size.name} {variant}"
        screen.say(f"{name}, repeat {turn + 1} of {plan.repeats}" if plan.repeats > 1 else name)
        try:
            measured = _measure(study, size, best, variant, output, turn=turn, scored=not _scored(kept))
        except (RayError, CannotRun, NoNode) as error:
            broken = FAILED + _reason(error)
            screen.say(f"{name}: {broken}; run the command again to try once more")
            # A node that does not come for one comes for none, and each would wait as long.
            found |= dict.fromkeys(set(plan.variants) - set(found) if isinstance(error, NoNode) else [variant], broken)
            continue
        if isinstance(measured, str):
            screen.say(f"{name}: cannot run here: {measured}")
        elif kept and _conditions(kept[0]) != _conditions(measured):
            screen.say(f"{name}: what was measured on another machine or with other versions is measured again")
        _keep(study, size, best, variant, output, measured if isinstance(measured, str) else [*kept, measured])
    for variant in plan.variants:
        kept = _kept(study, size, best, variant, output)
        if isinstance(kept, str):
            found[variant] = kept
        elif variant not in found:
            found[variant] = combined(kept) if _scored(kept) else FAILED + "no two repeats ran on the same machine"
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
    """The repeats that were measured, at most as many as the plan wants; or why the variant cannot run.

    Only those on the same hardware and versions as the newest, the scored one first; without one, there is room for it. A
    reason holds until this machine's own changes, a compiler being installed for instance; an actor on another node may know
    more, and its reason stays until the file is removed.
    """
    path = _path(study, size, variant, output)
    if not path.exists():
        return []
    document = json.loads(path.read_text(encoding="utf-8"))
    if document["of"] != _identity(study, size, best):
        return []
    measured: list[dict[str, Any]] | str = document["measured"]
    if isinstance(measured, str):
        return measured if document["here"] == _unavailable_here(study, variant) else []
    alike = [one for one in measured if _conditions(one) == _conditions(measured[-1])]
    alike.sort(key=lambda one: "scores" not in one)
    return alike[: study.benchmark.repeats if _scored(alike) else study.benchmark.repeats - 1]


def _scored(kept: list[dict[str, Any]]) -> bool:
    return any("scores" in one for one in kept)


def _conditions(measured: dict[str, Any]) -> tuple[object, ...]:
    """What repeats must have in common."""
    context = measured["context"]
    return context["hardware"]["summary"], context["device_name"], context["versions"]


def _unavailable_here(study: Study, variant: str) -> str | None:
    on_gpu = study.benchmark.device != "cpu" and torch.cuda.is_available()
    return variant_named(variant).unavailable(torch.device("cuda" if on_gpu else "cpu"))


def _keep(
    study: Study, size: Size, best: TrialRecord, variant: str, output: Path, measured: list[dict[str, Any]] | str
) -> None:
    path = _path(study, size, variant, output)
    document: dict[str, Any] = {"of": _identity(study, size, best), "measured": measured}
    if isinstance(measured, str):
        document["here"] = _unavailable_here(study, variant)
    _write_json(path, document)


def _write_json(path: Path, document: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".unfinished")
    temporary.write_text(json.dumps(document, indent=1), encoding="utf-8")
    os.replace(temporary, path)


def _measure(
    study: Study, size: Size, best: TrialRecord, variant: str, output: Path, *, turn: int, scored: bool
) -> dict[str, Any] | str:
    """One repeat. One is scored: what a variant answers does not change from one to the next."""
    plan, device = study.benchmark, device_of(study.benchmark)
    subject = CheckpointBenchmark(
        str(output.resolve()),
        study.chain(size, best.choice),
        plan.threads,
        plan.measured_with(),
        device,
        examples=str(_examples_path(study, size, variant, output).resolve()),
    )
    label = f"{size.name} {variant} {turn}"
    return run_in_actor(subject, variant, scored=scored, label=label, place=place_of(plan))


def _reason(error: Exception) -> str:
    """Of a task's error what the task raised, without the trace."""
    cause = getattr(error, "cause", None) or error
    return redacted(f"{type(cause).__name__}: {(str(cause).strip().splitlines() or ['no message'])[0]}")


def _path(study: Study, size: Size, variant: str, output: Path) -> Path:
    """Measurements with other settings lie beside these, and none overwrites another's."""
    how = fingerprint(_how(study))
    return output / "benchmarks" / f"{size.name}-{variant}@{how}.json"


def _examples_path(study: Study, size: Size, variant: str, output: Path) -> Path:
    path = _path(study, size, variant, output)
    return path.parent / path.stem / EXAMPLES


def _context_path(study: Study, size: Size, variant: str, output: Path) -> Path:
    return _examples_path(study, size, variant, output).with_name(CONTEXT)


@dataclasses.dataclass(frozen=True)
class _How:
    settings: BenchmarkSettings
    threads: int
    device: str


@dataclasses.dataclass(frozen=True)
class _Tracked:
    """A run in MLflow: its measurement, and the names of all that is written, since none of them can be taken back."""

    models: tuple[str, ...]
    how: _How
    names: tuple[str, ...]


def _identity(study: Study, size: Size, best: TrialRecord) -> dict[str, Any]:
    """What a kept measurement is of: the models, and how they were timed, on how many threads of what device."""
    return {"models": list(_models(study, size, best)), "how": canonical(_how(study))}


def _models(study: Study, size: Size, best: TrialRecord) -> tuple[str, ...]:
    return tuple(fingerprint(evaluate) for evaluate in study.chain(size, best.choice))


def _how(study: Study) -> _How:
    return _How(study.benchmark.measured_with(), study.benchmark.threads, study.benchmark.device)


def _track_missing(size: Size, best: TrialRecord, variant: str, reason: str, tracking: Tracking) -> str:
    """The run that says why there is no measurement."""
    tags = {"trial_id": best.trial_id, "variant": variant, "reason": reason}
    run = tracking.benchmark(size.name, f"{variant}@none", tags)
    tracking.finish(run, "FAILED")
    return run


def _track(
    study: Study, size: Size, best: TrialRecord, measured: dict[str, Any], output: Path, tracking: Tracking
) -> str:
    """The run of a measurement; the one before it stays in MLflow, as no benchmark of the study any more."""
    variant, context = measured["variant"], measured["context"]
    on_gpu, threads = context["device"] != "cpu", context["torch_threads"]
    unasked = () if on_gpu else [name for name in METRICS if name.startswith("gpu_")]  # nobody misses these on a CPU
    tags = {
        "trial_id": best.trial_id,
        "variant": variant,
        "hardware": f"{context['device_name']}, {context['device']}, {threads} thread{'s' if threads > 1 else ''}",
        "timed_task": measured["timed_task"],
        "intervals": measured["intervals_are"],
        "interference": measured["interference"]["text"],
        **{f"result:{scenario}": "VALID" if valid else "INVALID" for scenario, valid in measured["valid"].items()},
        **{f"unavailable:bench/{name}": why for name, why in measured["unavailable"].items() if name not in unasked},
        **{f"problems:{scenario}": "; ".join(why) for scenario, why in measured["problems"].items()},
        **_gpu_tags(measured),
    }
    metrics = {name: value for name, value in _metrics(measured).items() if value is not None}
    tracked = _Tracked(_models(study, size, best), _how(study), tuple(sorted([*tags, *metrics])))
    run = tracking.benchmark(size.name, f"{variant}@{fingerprint(tracked)}", tags)
    tracking.metrics(run, metrics)
    examples = _examples_path(study, size, variant, output)
    if examples.exists():
        tracking.artifact(run, examples)
    context_path = _context_path(study, size, variant, output)
    _write_json(context_path, _artefact(measured))
    tracking.artifact(run, context_path)
    tracking.finish(run)
    return run


def _gpu_tags(measured: dict[str, Any]) -> dict[str, str]:
    """What the GPU was kept back by in any repeat, whether it is a slice (MIG), and its driver; none of a CPU."""
    states = [state for one in measured["by_repeat"] if (state := one["gpu_in_use"]) is not None]
    if not states:
        return {}
    unknown = [
        state["unavailable"].get("slowed_by", "no reason given") for state in states if state["slowed_by"] is None
    ]
    reasons = dict.fromkeys(reason for state in states for reason in state["slowed_by"] or ())
    slowed = ", ".join([*reasons, *(f"not known ({why})" for why in dict.fromkeys(unknown))])
    sliced = any(state["mig"] or str(state["uuid"]).startswith("MIG-") for state in states)
    return {
        "slowed_by": slowed or "nothing",
        "mig": "on" if sliced else "off" if all(state["mig"] is not None for state in states) else "not known",
        "driver": ", ".join(dict.fromkeys(state["driver"] or "not known" for state in states)),
    }


def _artefact(measured: dict[str, Any]) -> dict[str, Any]:
    """All of a measurement but its scores: machine, versions, settings, queries, every repeat and what was wrong."""
    scored = ("scores", "test_score", "test_score_without_english")
    return {name: value for name, value in measured.items() if name not in scored}


def _metrics(measured: dict[str, Any]) -> dict[str, float | None]:
    metrics = {f"bench/{name}": measured[name] for name in METRICS}
    for name, (low, high) in measured["intervals"].items():
        metrics |= {f"bench/{name}_low": low, f"bench/{name}_high": high}
    for language, found in measured["languages"].items():
        metrics |= {f"bench/{name}/{language}": found.get(name) for name in LANGUAGE_METRICS}
    metrics |= {"bench/repeats": measured["repeats"], "bench/samples": measured["samples"]}
    metrics |= {"bench/queries": measured["context"]["queries"]["queries"]}
    metrics |= {name: measured[name] for name in ("params_m", "params_body_m")}
    metrics |= {"test/score": measured["test_score"]}
    metrics |= {"test_without_english/score": measured["test_score_without_english"]}
    for task, one in measured["scores"].items():
        metrics |= {f"test/{task}": one["test_mean"], f"test_without_english/{task}": one["test_mean_without_english"]}
    return metrics
