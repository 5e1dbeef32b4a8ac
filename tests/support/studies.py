"""Synthetic studies whose truth is known (gains, a Pareto front, a scaling law, ties), as frames or in an MLflow store."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from mlflow.entities import Metric, Param, RunTag
from mlflow.tracking import MlflowClient

from analysis import StudyFrames, load
from analysis.store import frames as tables
from analysis.store.frames import MEAN, MEAN_WITHOUT_ENGLISH

LANGUAGES = ("en", "de", "es", "fi", "ru", "ar", "hi", "zh", "sw")
VARIANTS = {"fp32": 1.0, "bf16": 0.45, "int8": 0.35}
LOSS = {"fp32": 0.0, "bf16": 0.1, "int8": 1.5}  # points of score
BOUND_MS = 100.0


@dataclass(frozen=True)
class Planted:
    """The truth of a synthetic study; scores in percent, sizes in millions of body parameters.

    A trial's accuracy on a task and language is the task's level + what the size adds + the planted gain + a seed effect. Its
    examples are correct with that probability. As in real test sets, the same examples are hard for all trials.
    """

    sizes: Mapping[str, float] = field(
        default_factory=lambda: {"2x128": 0.4, "3x160": 0.93, "4x192": 1.78, "6x256": 4.7}
    )
    targets: Mapping[str, float] = field(
        default_factory=lambda: {"xnli": 55.0, "micro_tagging_with_a_long_name": 42.0, "span": 30.0, "bitext": 70.0}
    )
    gains: Mapping[str, Mapping[str, float]] = field(
        default_factory=lambda: {
            "paraphrase": {"xnli": 6.0, "micro_tagging_with_a_long_name": 0.0, "span": 3.0, "bitext": 0.0},
            "topic": {"xnli": 0.0, "micro_tagging_with_a_long_name": 0.0, "span": 0.0, "bitext": -8.0},
            "mixture_all": {"xnli": 4.0, "micro_tagging_with_a_long_name": 1.0, "span": 2.0, "bitext": -3.0},
        }
    )
    marks: Mapping[str, Mapping[str, str]] = field(default_factory=lambda: {"paraphrase": {"xnli": "same data"}})
    shrink: float = 0.0  # points that every gain loses with each doubling of the body
    per_doubling: float = 4.0
    seed_sd: float = 0.8
    seeds: int = 3
    examples: int = 200
    sampled: int = 6  # further trials of each size, at other rates
    with_examples: bool = True


@cache
def _empty_store() -> bytes:
    """The file of an empty store, which MLflow takes seconds to create."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mlflow.db"
        MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
        return path.read_bytes()


def new_store(folder: Path) -> MlflowClient:
    """A client of a new, empty store: `mlflow.db` in the folder."""
    (folder / "mlflow.db").write_bytes(_empty_store())
    return MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}")


def plant(folder: Path, planted: Planted, *, name: str = "planted", seed: int = 0) -> StudyFrames:
    """Write the study to an SQLite store in the folder and read it back."""
    client = new_store(folder)
    experiment = client.create_experiment(name, (folder / "artifacts").resolve().as_uri(), tags=_description(planted))
    random = np.random.default_rng(seed)
    hard = {task: random.normal(size=(planted.examples, 1)) for task in planted.targets}
    for size, body_m in planted.sizes.items():
        trials = _trials(planted)
        for trial in trials:
            metrics = _write_trial(client, experiment, planted, size, trial, hard=hard, random=random, folder=folder)
            if trial["trial_id"] == "t1":
                served = metrics
        tags = {"kind": "size", "size": size, "best_trial": "t1"}
        stopped = sum(trial["outcome"] == "stopped_early" for trial in trials)
        searched = [trial for trial in trials if trial["kind"] == "trial"]
        metrics = {
            "params_m": body_m + 0.6,
            "params_body_m": body_m,
            "trials": len(searched),
            "pruned": stopped,
            "failed": 0,
        }
        _run(client, experiment, tags, {}, metrics)
        for variant, factor in VARIANTS.items():
            _write_benchmark(
                client, experiment, planted, size, variant=variant, factor=factor, served=served, random=random
            )
    return load(f"sqlite:///{folder / 'mlflow.db'}", name)


def build_frames(
    runs: Iterable[Mapping[str, Any]], benchmarks: Iterable[Mapping[str, Any]] = (), *, body_m: Mapping[str, float]
) -> StudyFrames:
    """Frames of default cells from runs with size, trial_id, intermediate, seed and scores by task.

    Other keys of a run override its defaults. Optional keys of scores by task: `without_english`, of a run or a benchmark, and
    `languages` and `dev`, of a run.
    """
    trials, scores = [], []
    for run in runs:
        score_by_task = dict(run.get("scores", {}))
        row: dict[str, Any] = {
            "kind": "repeat" if run.get("repeats") else "trial",
            "repeats": "",
            "outcome": "complete",
            "reason": "",
            "constant": "",
        }
        row |= {
            "lr_intermediate": 1e-4,
            "lr_target": 1e-3,
            "default_cell": True,
            "targets_finished": len(score_by_task),
        }
        mean = float(np.mean(list(score_by_task.values()))) if score_by_task else None
        row |= {"test_score": mean, "dev_score": mean} | dict(run)
        without: dict[str, float] = row.get("without_english", {})
        if without:
            row["test_score_without_english"] = float(np.mean(list(without.values())))
        trials.append(row)
        means: dict[str, dict[str, float]] = {MEAN: score_by_task, MEAN_WITHOUT_ENGLISH: without}
        scores += [
            row | {"task": task, "split": "dev", "language": MEAN, "value": value}
            for task, value in row.get("dev", {}).items()
        ]
        for language, values in (means | row.get("languages", {})).items():
            scores += [
                row | {"task": task, "split": "test", "language": language, "value": value}
                for task, value in values.items()
            ]
    served = []
    for benchmark in benchmarks:
        measurement: dict[str, Any] = {
            "variant": "fp32",
            "hardware": "a cpu",
            "timed_task": "",
            "interference": "none seen",
            "reason": "",
            **dict.fromkeys(("slowed_by", "mig", "driver", "baseline_trial_id"), ""),
        }
        measurement |= {"unavailable": {}, "results": {}, "task_scores_without_english": {}}
        measurement |= {f"baseline_task_scores{mean}": {} for mean in ("", "_without_english")} | dict(benchmark)
        for name, by_task in (
            (f"{whose}test_score{mean}", f"{whose}task_scores{mean}")
            for whose in ("", "baseline_")
            for mean in ("", "_without_english")
        ):
            if measurement.get(by_task):
                measurement.setdefault(name, float(np.mean(list(measurement[by_task].values()))))
        served.append(measurement)
    sizes = [{"size": size, "params_m": m + 1, "params_body_m": m, "best_trial": ""} for size, m in body_m.items()]
    targets = list(dict.fromkeys(row["task"] for row in scores))
    context: dict[str, Any] = {"experiment": "made", "targets": targets, "marks": {}, "intermediates": []}
    context |= dict.fromkeys(("command", "hardware", "precision", "seed", "selection"))
    context |= {name: {} for name in ("versions", "languages", "protocols", "data", "metrics", "pretraining")}
    return StudyFrames(
        sizes=tables.frame(sizes, tables.SIZES),
        trials=tables.frame(trials, tables.TRIALS),
        scores=tables.frame(scores, tables.SCORES),
        benchmarks=tables.frame(served, tables.BENCHMARKS),
        context=context,
    )


def level(planted: Planted, size: str, intermediate: str, task: str) -> float:
    """The true score of a cell, before seed effects and sampling of examples."""
    doublings = math.log2(planted.sizes[size] / next(iter(planted.sizes.values())))
    gain = planted.gains.get(intermediate, {}).get(task, 0.0) if intermediate != "none" else 0.0
    gain -= planted.shrink * doublings if intermediate != "none" else 0.0
    return planted.targets[task] + planted.per_doubling * doublings + gain


def _description(planted: Planted) -> dict[str, str]:
    values: dict[str, Any] = {
        "command": "python -m study run planted",
        "versions": {"torch": "2.13.0"},
        "hardware": "2 CPU cores",
        "precision": "fp32",
        "seed": "0",
        "targets": list(planted.targets),
        "intermediates": ["none", *planted.gains],
        "selection": "English dev",
        "marks": planted.marks,
        "languages": {task: list(LANGUAGES) for task in planted.targets},
        "pretraining": {language: 1 / (2 + place) for place, language in enumerate(LANGUAGES)},
    }
    return {f"study.{key}": value if isinstance(value, str) else json.dumps(value) for key, value in values.items()}


def _trials(planted: Planted) -> list[dict[str, Any]]:
    trials: list[dict[str, Any]] = []
    for place, intermediate in enumerate(("none", *planted.gains)):
        base = {
            "intermediate": intermediate,
            "lr": 0.002,
            "default": True,
            "kind": "trial",
            "outcome": "complete",
            "seed": 0,
        }
        trials.append(base | {"trial_id": f"t{place}", "repeats": ""})
        trials += [
            base | {"trial_id": f"t{place}-s{s}", "repeats": f"t{place}", "kind": "repeat", "seed": s}
            for s in range(1, planted.seeds)
        ]
    names = ("none", *planted.gains)
    for number in range(planted.sampled):
        outcome = "stopped_early" if number % 3 == 2 else "complete"
        sampled = {"trial_id": f"x{number}", "repeats": "", "kind": "trial", "outcome": outcome, "seed": 0}
        trials.append(sampled | {"intermediate": names[number % len(names)], "lr": 0.001, "default": False})
    return trials


def _write_trial(
    client: MlflowClient,
    experiment: str,
    planted: Planted,
    size: str,
    trial: dict[str, Any],
    *,
    hard: Mapping[str, Any],
    random: np.random.Generator,
    folder: Path,
) -> dict[str, float]:
    finished = list(planted.targets)[: 1 if trial["outcome"] == "stopped_early" else None]
    metrics: dict[str, float] = {"targets_finished": len(finished)}
    tables = []
    means, devs = [], []
    for task in finished:
        seed_effect = float(random.normal(0, planted.seed_sd)) - (0.5 if not trial["default"] else 0.0)
        true = level(planted, size, trial["intermediate"], task) + seed_effect
        scores = {}
        for place, language in enumerate(LANGUAGES):
            correct = _sample_correct(np.clip((true + 4 - place) / 100, 0.02, 0.98), hard[task], random)
            scores[language] = 100 * float(correct.mean())
            tables.append(_examples(task, language, correct))
        metrics |= {f"test/{task}/{language}": score for language, score in scores.items()}
        metrics[f"test/{task}"] = float(np.mean(list(scores.values())))
        others = [score for language, score in scores.items() if language != "en"]
        metrics[f"test_without_english/{task}"] = float(np.mean(others))
        metrics[f"chance/{task}"] = 33.3 if task == "xnli" else 1.0
        means.append(metrics[f"test/{task}"])
        if task != "bitext":
            devs.append(float(true + 6 + random.normal(0, 0.5)))
            metrics[f"dev/{task}"] = devs[-1]
    metrics |= {"test/score": float(np.mean(means)), "dev/score": float(np.mean(devs))}
    tags = {"kind": trial["kind"], "size": size, "trial_id": trial["trial_id"], "outcome": trial["outcome"]}
    tags |= {"default_cell": str(trial["default"]).lower()} | (
        {"repeats": trial["repeats"]} if trial["repeats"] else {}
    )
    rate = "none" if trial["intermediate"] == "none" else "0.0003"
    params = {"intermediate": trial["intermediate"], "lr_intermediate": rate}
    params |= {"lr_target": str(trial["lr"]), "seed": str(trial["seed"])}
    run_id = _run(client, experiment, tags, params, metrics)
    if planted.with_examples and trial["outcome"] == "complete":
        path = folder / "artifacts" / run_id / "artifacts" / "examples.parquet"
        path.parent.mkdir(parents=True)
        pd.concat(tables).to_parquet(path, index=False)
    return metrics


def _sample_correct(probability: float, hard: Any, random: np.random.Generator) -> Any:
    """Which examples are correct, with that probability; half the variance comes from the example's own difficulty."""
    from scipy import stats

    noise = random.normal(size=len(hard))
    return (0.7 * hard[:, 0] + math.sqrt(1 - 0.49) * noise < stats.norm.ppf(probability)).astype(float)


def _examples(task: str, language: str, correct: Any) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "task": task,
            "split": "test",
            "language": language,
            "example": range(len(correct)),
            "correct": correct,
            "total": 1.0,
        }
    )


def _write_benchmark(
    client: MlflowClient,
    experiment: str,
    planted: Planted,
    size: str,
    *,
    variant: str,
    factor: float,
    served: Mapping[str, float],
    random: np.random.Generator,
) -> None:
    """A measurement of the trial with metrics `served`; its p99 under load is just within the bound."""
    body = planted.sizes[size]
    p50 = 4.0 * body**0.8 * factor * float(np.exp(random.normal(0, 0.02)))
    tags = {"kind": "benchmark", "size": size, "variant": variant, "trial_id": "t1"}
    tags |= {"hardware": "A processor, cpu, 2 threads", "timed_task": next(iter(planted.targets))}
    tags |= {"interference": "none seen", "result:SingleStream": "VALID", "result:Offline": "VALID"}
    tags |= {"result:Server": "INVALID" if variant == "int8" else "VALID"}
    tags |= {"unavailable:bench/energy_j_per_sample": "no NVML on this machine"}
    scores = {
        f"{split}/{task}": served[f"{split}/{task}"] - LOSS[variant]
        for split in ("test", "test_without_english")
        for task in planted.targets
    }
    metrics = {
        "bench/p50_ms": p50,
        "bench/p50_ms_low": p50 * 0.97,
        "bench/p50_ms_high": p50 * 1.04,
        "bench/p90_ms": p50 * 1.3,
    }
    metrics |= {"bench/p99_ms": p50 * 1.9, "bench/server_bound_ms": BOUND_MS, "bench/server_qps": 900 / p50}
    metrics |= {"bench/server_p99_ms": BOUND_MS * float(random.uniform(0.9, 1.0))}
    metrics |= {"bench/throughput_sps": 4000 / p50, "bench/peak_memory_mb": 300 + 40 * body, "bench/mean_pieces": 20.0}
    metrics |= {"params_m": body + 0.6, "params_body_m": body} | scores
    for split in ("test", "test_without_english"):
        metrics[f"{split}/score"] = float(np.mean([scores[f"{split}/{task}"] for task in planted.targets]))
    for place, language in enumerate(LANGUAGES):
        metrics[f"bench/mean_pieces/{language}"] = 16.0 + 2 * place
        metrics[f"bench/p50_ms/{language}"] = p50 * (0.8 + 0.05 * place)
    _run(client, experiment, tags, {}, metrics)


def _run(
    client: MlflowClient,
    experiment: str,
    tags: Mapping[str, str],
    params: Mapping[str, str],
    metrics: Mapping[str, float],
) -> str:
    run_id = str(client.create_run(experiment).info.run_id)
    client.log_batch(
        run_id,
        metrics=[Metric(name, float(value), 0, 1) for name, value in metrics.items()],
        params=[Param(name, value) for name, value in params.items()],
        tags=[RunTag(name, value) for name, value in tags.items()],
    )
    return run_id
