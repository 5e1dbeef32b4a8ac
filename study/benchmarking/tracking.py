"""The MLflow runs of measurements: one per variant of a size, current or former."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from study.benchmarking.stored import BestModel, Method, StoredMeasurements, write_json
from study.tracking.tracker import Tracker
from trainables.benchmark.measurement import (
    CASCADE,
    FLIPS,
    LANGUAGE_METRICS,
    METRICS,
    Measured,
    MeasurementOutcome,
    Unavailable,
    outcome_to_json,
)
from trainables.benchmark.subjects.cascade import NOT_COMPARED
from trainables.store.fingerprint import fingerprint

FORMER = "former benchmark"  # the kind of a run that another measurement has replaced
SCORES = ("scores", "test_score", "test_score_without_english", "baseline")


@dataclass(frozen=True)
class TrackedMeasurement:
    """Identity of an MLflow run: the measurement, and the names of all tags and metrics, since MLflow cannot remove any."""

    IDENTITY_NAME: ClassVar[str] = "_Tracked"  # its former name, part of the names of runs

    models: tuple[str, ...]
    how: Method
    names: tuple[str, ...]


def track_outcome(model: BestModel, variant: str, outcome: MeasurementOutcome, *, tracker: Tracker) -> None:
    """Record an outcome as the current one of its variant; the run of the outcome before it becomes a former one."""
    if isinstance(outcome, Measured):
        run = _track_measured(model, outcome, model.stored(variant), tracker=tracker)
    else:
        reason = str(outcome_to_json(outcome))
        tags = {"trial_id": model.trial.trial_id, "variant": variant, "reason": reason}
        run = tracker.benchmark(model.size.name, f"{variant}@none", tags=tags)
        tracker.finish(run, "FAILED")
    parent, current = tracker.size(model.size.name), f"benchmark:{variant}"
    former = tracker.tag(parent, current)
    if former is not None and former != run:
        tracker.tags(former, {"kind": FORMER})
    tracker.tags(parent, {current: run})
    tracker.mark_best(model.size.name, model.trial.trial_id)


def _track_measured(model: BestModel, measured: Measured, stored: StoredMeasurements, *, tracker: Tracker) -> str:
    tags = {"trial_id": model.trial.trial_id, **_tags(measured)}
    if model.baseline is not None and measured.get("baseline") is not None:
        tags["baseline_trial_id"] = model.baseline.trial_id
    metrics = {name: value for name, value in _metrics(measured).items() if value is not None}
    tracked = TrackedMeasurement(model.fingerprints, model.method, tuple(sorted([*tags, *metrics])))
    run = tracker.benchmark(model.size.name, f"{measured['variant']}@{fingerprint(tracked)}", tags=tags)
    tracker.metrics(run, metrics)
    if stored.examples.exists():
        tracker.artifact(run, stored.examples)
    write_json(stored.context, {name: value for name, value in measured.values.items() if name not in SCORES})
    tracker.artifact(run, stored.context)
    tracker.finish(run)
    return run


def _tags(measured: Measured) -> dict[str, str]:
    context = measured["context"]
    on_gpu, threads = context["device"] != "cpu", context["torch_threads"]
    of_gpus = () if on_gpu else [name for name in METRICS if name.startswith("gpu_")]  # obviously missing on a CPU
    return {
        "variant": measured["variant"],
        "hardware": f"{context['device_name']}, {context['device']}, {threads} thread{'s' if threads > 1 else ''}",
        "timed_task": measured["timed_task"],
        "intervals": measured["intervals_are"],
        "interference": measured["interference"]["text"],
        **{f"result:{scenario}": "VALID" if valid else "INVALID" for scenario, valid in measured["valid"].items()},
        **{f"unavailable:bench/{name}": why for name, why in measured["unavailable"].items() if name not in of_gpus},
        **_flips_tags(measured),
        **{f"problems:{scenario}": "; ".join(why) for scenario, why in measured["problems"].items()},
        **_gpu_tags(measured),
        **_cascade_tags(measured),
    }


def _flips_tags(measured: Measured) -> dict[str, str]:
    """Why there are no shares although batches were compared. Runs of earlier versions, which did not, have no such tags."""
    flips = measured.flips
    if measured.get("flips") is None or not isinstance(flips, Unavailable):
        return {}
    return dict.fromkeys((f"unavailable:bench/{name}" for name in (*FLIPS, "flips_examples")), flips.reason)


def _cascade_tags(measured: Measured) -> dict[str, str]:
    """What a cascade is made of, and why some figures of a single model are missing."""
    cascade = measured.get(CASCADE)
    if cascade is None:
        return {}
    flips = dict.fromkeys((f"unavailable:bench/{name}" for name in (*FLIPS, "flips_examples")), NOT_COMPARED)
    return {CASCADE: json.dumps({name: value for name, value in cascade.items() if name != "share"}), **flips}


def _gpu_tags(measured: Measured) -> dict[str, str]:
    """What slowed the GPU down in any repeat, whether it is a slice (MIG), and its driver; empty for a CPU."""
    states = [state for repeat in measured["by_repeat"] if (state := repeat["gpu_in_use"]) is not None]
    if not states:
        return {}
    unknown = [
        state["unavailable"].get("slowed_by", "no reason given") for state in states if state["slowed_by"] is None
    ]
    reasons = dict.fromkeys(reason for state in states for reason in state["slowed_by"] or ())
    slowed_by = ", ".join([*reasons, *(f"not known ({why})" for why in dict.fromkeys(unknown))])
    sliced = any(state["mig"] or str(state["uuid"]).startswith("MIG-") for state in states)
    return {
        "slowed_by": slowed_by or "nothing",
        "mig": "on" if sliced else "off" if all(state["mig"] is not None for state in states) else "not known",
        "driver": ", ".join(dict.fromkeys(state["driver"] or "not known" for state in states)),
    }


def _metrics(measured: Measured) -> dict[str, Any]:
    """Metrics by their names in MLflow; None for those that are missing."""
    metrics = {f"bench/{name}": measured[name] for name in METRICS}
    for name, (low, high) in measured["intervals"].items():
        metrics |= {f"bench/{name}_low": low, f"bench/{name}_high": high}
    for language, values in measured["languages"].items():
        metrics |= {f"bench/{name}/{language}": values.get(name) for name in LANGUAGE_METRICS}
    metrics["bench/mean_ms"] = measured.get("mean_ms")
    metrics |= {"bench/repeats": measured["repeats"], "bench/samples": measured["samples"]}
    metrics |= {"bench/queries": measured["context"]["queries"]["queries"]}
    metrics |= {name: measured[name] for name in ("params_m", "params_body_m")}
    if not isinstance(flips := measured.flips, Unavailable):
        metrics |= {f"bench/{name}": share for name, share in flips.items()}
        metrics["bench/flips_examples"] = measured["flips_examples"]
    metrics |= _score_metrics(measured.values)
    if (baseline := measured.get("baseline")) is not None:
        metrics |= {f"baseline/{name}": value for name, value in _score_metrics(baseline).items()}
    return metrics


def _score_metrics(scored: Mapping[str, Any]) -> dict[str, Any]:
    """The mean scores over targets and of each, with and without English."""
    metrics = {"test/score": scored["test_score"], "test_without_english/score": scored["test_score_without_english"]}
    for task, score in scored["scores"].items():
        metrics |= {
            f"test/{task}": score["test_mean"],
            f"test_without_english/{task}": score["test_mean_without_english"],
        }
    return metrics
