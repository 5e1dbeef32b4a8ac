"""A small study in MLflow with every kind of outcome, written by hand."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from mlflow.entities import Metric, Param, RunTag

from tests.support.studies import new_store

TARGETS = ["nli", "tags", "bitext"]
INTERMEDIATES = ["none", "mnli", "squad", "both"]
LANGUAGES = ["en", "de", "sw"]
CHANCE = {"nli": 33.3, "tags": 10.0, "bitext": 1.0}
FAILURE = "CUDA out of memory <script>alert('x')</script>"

# test means by (size, trial): the gains asserted below are differences of these
SCORES: dict[tuple[str, str], dict[str, float]] = {
    ("2x128", "a0"): {"nli": 40.0, "tags": 50.0, "bitext": 90.0},
    ("2x128", "a1"): {"nli": 43.0, "tags": 48.0, "bitext": 90.0},
    ("2x128", "a2"): {"nli": 41.0},
    ("2x128", "a3"): {"nli": 38.0, "tags": 54.0, "bitext": 90.0},
    ("2x128", "a4"): {"nli": 43.0, "tags": 55.0, "bitext": 90.0},
    ("4x192", "b0"): {"nli": 50.0, "tags": 60.0, "bitext": 95.0},
    ("4x192", "b1"): {"nli": 56.5, "tags": 61.0, "bitext": 95.0},
    ("4x192", "b3"): {"nli": 70.0, "tags": 80.0, "bitext": 95.0},
}


class Store:
    """A tracking store to plant runs in."""

    def __init__(self, folder: Path) -> None:
        self.client = new_store(folder)

    def run(
        self,
        experiment: str,
        tags: Mapping[str, str],
        *,
        params: Mapping[str, str] | None = None,
        metrics: Mapping[str, float] | None = None,
    ) -> str:
        run_id = str(self.client.create_run(experiment).info.run_id)
        self.client.log_batch(
            run_id,
            metrics=[Metric(name, value, 0, 1) for name, value in (metrics or {}).items()],
            params=[Param(name, value) for name, value in (params or {}).items()],
            tags=[RunTag(name, value) for name, value in tags.items()],
        )
        return run_id


def _trial_metrics(scores: Mapping[str, float]) -> dict[str, float]:
    metrics = {"targets_finished": float(len(scores))}
    for task, mean in scores.items():
        metrics |= {f"test/{task}": mean, f"test_without_english/{task}": mean - 1, f"chance/{task}": CHANCE[task]}
        metrics[f"confidence/{task}"] = mean - 5
        # en above, sw below: their mean is the planted mean
        metrics |= dict(zip((f"test/{task}/{code}" for code in LANGUAGES), (mean + 2, mean, mean - 2), strict=True))
        if task != "bitext":
            metrics[f"dev/{task}"] = mean + 5
    if scores:
        metrics["test/score"] = sum(scores.values()) / len(scores)
        metrics["dev/score"] = max(scores.values()) + 5
    return metrics


def plant_quickstart(store: Store) -> None:
    """Write the study "quickstart", and the experiment "empty" beside it."""
    experiment = store.client.create_experiment(
        "quickstart",
        tags={
            "study.command": "xstilts run quickstart --output <out>",
            "study.versions": json.dumps({"torch": "2.13.0", "ray": "2.60.0"}),
            "study.hardware": "2 CPU cores, 8 GiB",
            "study.precision": "fp32",
            "study.seed": "0",
            "study.targets": json.dumps(TARGETS),
            "study.intermediates": json.dumps(INTERMEDIATES),
            "study.selection": "English dev",
            "study.marks": json.dumps({"mnli": {"nli": "same data"}, "squad": {"tags": "leak"}}),
        },
    )
    _plant_sizes(store, experiment)
    _plant_trials(store, experiment)
    _plant_benchmarks(store, experiment)
    store.client.create_experiment("empty", tags={"study.targets": json.dumps(TARGETS)})


def _plant_sizes(store: Store, experiment: str) -> None:
    for size, params_m, best in (("4x192", 3.25, "b1"), ("2x128", 1.5, "a1")):
        store.run(
            experiment,
            {"kind": "size", "size": size, "best_trial": best},
            metrics={
                "params_m": params_m,
                "params_body_m": params_m / 2,
                "trials": 5,
                "pruned": 1,
                "failed": 1,
                "wall_s": 60,
            },
        )


def _plant_trials(store: Store, experiment: str) -> None:
    trials = [
        ("2x128", "a0", "none", 0, "complete", True),
        ("2x128", "a1", "mnli", 0, "complete", True),
        ("2x128", "a2", "squad", 0, "stopped_early", True),
        ("2x128", "a3", "none", 1, "complete", True),
        ("2x128", "a4", "mnli", 1, "complete", True),
        ("4x192", "b0", "none", 0, "complete", True),
        ("4x192", "b1", "mnli", 0, "complete", True),
        ("4x192", "b2", "squad", 0, "failed", True),
        ("4x192", "b3", "mnli", 0, "complete", False),
    ]
    for size, trial, intermediate, seed, outcome, default in trials:
        tags = {"kind": "trial", "size": size, "trial_id": trial, "outcome": outcome}
        tags |= {"default_cell": "true" if default else "false"} | ({"reason": FAILURE} if outcome == "failed" else {})
        run_id = store.run(
            experiment,
            tags,
            params={
                "intermediate": intermediate,
                "lr_intermediate": "none" if intermediate == "none" else "2e-05" if default else "9e-05",
                "lr_target": "3e-05",
                "seed": str(seed),
            },
            metrics=_trial_metrics(SCORES.get((size, trial), {})),
        )
        if trial == "a0":
            store.client.log_metric(run_id, "dev/score", 77.0, step=3)
            store.client.log_metric(run_id, "dev/score", 11.0, step=1)


def _plant_benchmarks(store: Store, experiment: str) -> None:
    for size, variant, trial, score, p50, extra in (
        ("2x128", "fp32", "a1", 60.5, 4.0, {"bench/p99_ms": 6.0, "bench/energy_j_per_sample": 0.5}),
        ("2x128", "bf16", "a1", 59.0, 5.0, {}),
        ("4x192", "fp32", "b1", 71.0, 16.0, {}),
        ("4x192", "bf16", "b1", 70.0, 8.0, {}),
    ):
        tags = {
            "kind": "benchmark",
            "size": size,
            "variant": variant,
            "trial_id": trial,
            "hardware": "2 CPU cores, 8 GiB",
        }
        tags |= {"interference": "none seen"}
        tags |= (
            {} if extra else {"unavailable:bench/energy_j_per_sample": "no NVML", "unavailable:p99_ms": "40 samples"}
        )
        metrics = {"bench/p50_ms": p50, "bench/p90_ms": p50 * 1.2, "bench/throughput_sps": 900 / p50, "params_m": 1.5}
        store.run(
            experiment, tags, metrics=metrics | extra | {"test/score": score, "test/nli": score, "test/tags": score}
        )
