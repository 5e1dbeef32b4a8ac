"""How long does it take to read a study of 5,000 runs?

    python -m tests.benchmarks.load_runs [--runs 5000] [--metrics 100] [--rounds 3] [--quick]

The store holds ten trials written through MLflow, whose rows are copied up to the number of runs. Each has the metrics of a
study with ten targets (100: about as many as the quickstart's; 290: all languages of XTREME-R). Two contestants take turns in
each round: `analysis.load`, and the same tables built from MLflow's own `search_runs`. Seconds are medians over rounds, with
their range. Goal: `load_s` under 10. The last line is one JSON document.
"""

from __future__ import annotations

import json
import sqlite3
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Annotated

import typer
from mlflow.entities import Metric, Param, RunTag
from mlflow.tracking import MlflowClient
from rich.console import Console

import analysis
from analysis.store import runs as runs_module
from tests.support.studies import new_store
from trainables.benchmark.probes.hardware import describe_hardware
from trainables.store.versions import versions

SEED_RUNS, TARGETS, GOAL_S = 10, 10, 10.0
console = Console(highlight=False, width=128)


def plant(folder: Path, runs: int, *, metrics: int) -> str:
    """Create a store with that many trials; returns its URI."""
    client = new_store(folder)
    experiment = client.create_experiment(
        "large", tags={"study.targets": json.dumps([f"t{n}" for n in range(TARGETS)])}
    )
    for number in range(SEED_RUNS):
        values = {"dev/score": 50.0, "test/score": 40.0, "targets_finished": 10.0}
        values |= {f"{split}/t{task}": 1.0 for split in ("dev", "test", "chance") for task in range(TARGETS)}
        for language in range(1000):
            values |= {f"test/t{task}/l{language}": 3.0 for task in range(TARGETS) if len(values) < metrics}
        run_id = client.create_run(experiment).info.run_id
        tags = {"kind": "trial", "size": "a", "trial_id": f"x{number}", "outcome": "complete", "default_cell": "true"}
        params = {"intermediate": "none", "lr_target": "1e-3", "lr_intermediate": "none", "seed": "0"}
        client.log_batch(
            run_id,
            metrics=[Metric(name, value, 0, 1) for name, value in values.items()],
            params=[Param(name, value) for name, value in params.items()],
            tags=[RunTag(name, value) for name, value in tags.items()],
        )
    with sqlite3.connect(folder / "mlflow.db") as database:
        for table in ("runs", "latest_metrics", "params", "tags"):
            columns = [row[1] for row in database.execute(f"PRAGMA table_info({table})")]
            column, rows = columns.index("run_uuid"), database.execute(f"SELECT * FROM {table}").fetchall()
            placeholders = ",".join("?" * len(columns))
            for copy in range(1, runs // SEED_RUNS):
                renamed = [(*row[:column], f"{row[column][:27]}{copy:05d}", *row[column + 1 :]) for row in rows]
                database.executemany(f"INSERT INTO {table} VALUES ({placeholders})", renamed)
    return f"sqlite:///{folder / 'mlflow.db'}"


def load_through_mlflow(uri: str) -> analysis.StudyFrames:
    """Load the store as `analysis.load` reads a server."""
    direct = runs_module.runs_in_file

    def refused(path: Path, experiment_id: str) -> list[runs_module.StoredRun]:
        raise sqlite3.Error("disabled for this measurement")

    runs_module.runs_in_file = refused
    try:
        return analysis.load(uri)
    finally:
        runs_module.runs_in_file = direct


def main(
    runs: Annotated[int, typer.Option(min=SEED_RUNS)] = 5000,
    metrics: Annotated[int, typer.Option(min=40)] = 100,
    rounds: Annotated[int, typer.Option(min=1)] = 3,
    quick: Annotated[bool, typer.Option("--quick", help="one round of 500 runs")] = False,
) -> None:
    """Time both ways of reading; print them and one JSON line."""
    runs, rounds = (500, 1) if quick else (runs, rounds)
    ways: dict[str, Callable[[str], analysis.StudyFrames]] = {"load": analysis.load, "mlflow": load_through_mlflow}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    with tempfile.TemporaryDirectory() as folder:
        uri = plant(Path(folder), runs, metrics=metrics)
        assert MlflowClient(tracking_uri=uri)
        for turn in range(rounds):
            for name in sorted(ways, reverse=bool(turn % 2)):
                start = time.perf_counter()
                frames = ways[name](uri)
                seconds[name].append(time.perf_counter() - start)
                assert len(frames.trials) == runs
    for name, values in seconds.items():
        console.print(f"{name:8} {median(values):6.1f} s ({min(values):.1f} to {max(values):.1f})")
    document = {
        "benchmark": "load_runs",
        "runs": runs,
        "metrics": metrics,
        "rounds": rounds,
        **{f"{name}_s": round(median(values), 2) for name, values in seconds.items()},
        "ratio": round(median(seconds["mlflow"]) / median(seconds["load"]), 1),
        "goal_met": median(seconds["load"]) < GOAL_S,
        "hardware": describe_hardware(),
        "versions": versions(),
    }
    print(json.dumps(document))


if __name__ == "__main__":
    typer.run(main)
