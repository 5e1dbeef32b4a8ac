"""How much time does the machinery of a search (Tune, Optuna, ASHA, MLflow) add to a trial?

    python -m tests.benchmarks.trial_overhead [--rounds 2] [--noops 2000] [--quick]

Sweeps are the study's own (`study.search.sweep.Sweep`: suggestions, ASHA, Optuna's journal) except for the function that
each trial runs. It reports once a target with the metrics of a real trial (English dev and test by language), which the study's
`TrialLog` writes to MLflow in SQLite. Scores are equal at ASHA's rungs, so that it stops no trial, and differ by choice at the
end, so that TPE has something to learn.

1. One-second trials: 200 of them, two at a time. Each uses a second of CPU time spread over its reports, so that the driver's
   work on the same two cores delays them as it would real trials. `ratio_to_ideal` is the time of the sweep until MLflow has
   everything, start of the actors included, over the ideal 100 seconds. `without_mlflow` runs the same sweep without
   `TrialLog`; the two take turns at being first.
2. No-op trials: 2,000 that report at once and compute nothing. Seconds a trial, also of the first and the last tenth (TPE slows
   down with its history); the driver's resident memory at every tenth; the time MLflow needs after the last trial to have
   everything; then the time that `TrialLog.log_missing` needs to write how each trial ended, and again when everything is
   written, as in the resume of a finished study.

Goal: `ratio_to_ideal` at most 1.15. The last line is one JSON document.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
import json
import math
import os
import random
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import typer
from ray import tune
from rich.console import Console
from rich.table import Table

from study.cluster.connection import connected
from study.console import Console as StudyConsole
from study.console import Timeline
from study.search.callback import TrialLog
from study.search.journal import open_journal
from study.search.records import DEV_SCORE, TARGETS_FINISHED, SearchResult, TrialOutcome
from study.search.slots import Slots
from study.search.sweep import Sweep
from study.search.trial import choice_of
from study.spec import Study
from study.tracking.tracker import Tracker, default_uri
from tests.benchmarks.micro_grid import elapsed_since, micro_grid, size_of, spread
from trainables.benchmark.probes.hardware import hardware
from trainables.benchmark.probes.memory import host_rss_mb
from trainables.store.versions import versions

GOAL = 1.15
AT_ONCE = 2
SCORE = 50.0  # of all trials up to the last rung, at two targets
LAST_RUNG = 2
BOTH = ("with_mlflow", "without_mlflow")
# For targets and intermediates: 2,064 choices, so that no two trials have the same.
RATES = tuple(1e-3 / 2**index for index in range(16))
PATIENCE_S = 600.0  # limit for MLflow to have everything
TENTHS = 10

console = Console(highlight=False, width=128)

Rounds = Annotated[
    int, typer.Option(min=1, help="how many times the sweep of one-second trials runs, with and without MLflow")
]
Trials = Annotated[int, typer.Option(min=2, help="one-second trials")]
Noops = Annotated[int, typer.Option(min=0, help="no-op trials")]
Quick = Annotated[bool, typer.Option("--quick", help="one round of ten one-second trials, forty no-ops")]


@dataclass(frozen=True)
class Timed:
    """A finished sweep: its seconds, those of MLflow after it, and the end of each trial with the driver's memory then."""

    wall_s: float
    mlflow_s: float
    start_s: float  # until the first trial starts: actors start and import what they need
    ended_s: tuple[float, ...]
    rss_mb: tuple[float, ...]

    def tenths(self) -> list[float]:
        """Seconds a trial in each tenth."""
        size = max(1, len(self.ended_s) // TENTHS)
        ends = [0.0, *self.ended_s[size - 1 :: size]]
        return [round((after - before) / size, 4) for before, after in itertools.pairwise(ends)]


def main(rounds: Rounds = 2, trials: Trials = 200, noops: Noops = 2000, quick: Quick = False) -> None:
    """Print tables and one JSON line."""
    started = time.perf_counter()
    if quick:
        rounds, trials, noops = 1, 10, 40
    ideal_s = trials / AT_ONCE
    walls: dict[str, list[float]] = {name: [] for name in BOTH}
    starts: dict[str, list[float]] = {name: [] for name in BOTH}
    document: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder, connected(None, cpus=AT_ONCE):
        for turn in range(rounds):
            for name in BOTH if turn % 2 == 0 else reversed(BOTH):
                bench = Bench(Path(folder) / f"{name}-{turn}", trials, seconds=1.0, logged=name == "with_mlflow")
                sweep = bench.run()
                bench.close()
                walls[name].append(sweep.wall_s + sweep.mlflow_s)
                starts[name].append(sweep.start_s)
                after = f" and {sweep.mlflow_s:.1f} s until MLflow had it" if bench.logged else ""
                console.print(f"round {turn + 1}, {name}: {sweep.wall_s:.1f} s{after}, ideal {ideal_s:.0f} s")
        if noops:
            document["noop"] = _noops(Path(folder), noops)
    ratios = {name: [wall_s / ideal_s for wall_s in values] for name, values in walls.items()}
    ratio = median(ratios["with_mlflow"])
    after_start = {
        name: [(wall_s - start_s) / ideal_s for wall_s, start_s in zip(walls[name], starts[name], strict=True)]
        for name in BOTH
    }
    _show(walls, ratios, after_start)
    console.print(f"ratio_to_ideal {ratio:.3f}: goal {'reached' if ratio <= GOAL else 'missed'}")
    document |= {
        "ratio_to_ideal": round(ratio, 4),
        "ratio_without_mlflow": round(median(ratios["without_mlflow"]), 4),
        "ratio_to_ideal_after_start": round(median(after_start["with_mlflow"]), 4),
        "start_s": round(median(starts["with_mlflow"]), 1),
        "spreads": {name: spread(values) for name, values in ratios.items()},
        "wall_s_of_one_second_trials": {
            name: [round(wall_s, 1) for wall_s in values] for name, values in walls.items()
        },
        "trials": trials,
        "ideal_s": ideal_s,
        "at_once": AT_ONCE,
        "rounds": rounds,
        "load_average": os.getloadavg(),
        "wall_s": elapsed_since(started),
        "hardware": hardware().as_dict(),
        "versions": versions(),
        "command": " ".join(["python", "-m", "tests.benchmarks.trial_overhead", *sys.argv[1:]]),
    }
    print(json.dumps(document))


def _show(
    walls: Mapping[str, Sequence[float]],
    ratios: Mapping[str, Sequence[float]],
    after_start: Mapping[str, Sequence[float]],
) -> None:
    table = Table("one-second trials", "s", "over the ideal", "range", "without the start")
    for name, values in walls.items():
        low, high = spread(ratios[name])
        table.add_row(
            name,
            f"{median(values):.1f}",
            f"{median(ratios[name]):.3f}",
            f"{low:.3f} to {high:.3f}",
            f"{median(after_start[name]):.3f}",
        )
    console.print(table)


def _noops(folder: Path, count: int) -> dict[str, Any]:
    bench = Bench(folder / "noops", count, seconds=0.0, logged=True)
    before_mb = host_rss_mb()
    sweep = bench.run()
    settles = []
    for _ in range(2):
        start = time.perf_counter()
        bench.settle()
        settles.append(time.perf_counter() - start)
    tenths = sweep.tenths()
    bench.close()
    memory = sweep.rss_mb[max(1, count // TENTHS) - 1 :: max(1, count // TENTHS)]
    table = Table(
        "no-op trials",
        "s a trial",
        "first tenth",
        "last tenth",
        "driver MB",
        "MLflow after, s",
        "settle, s",
        "again, s",
    )
    table.add_row(
        str(count),
        f"{sweep.wall_s / count:.3f}",
        f"{tenths[0]:.3f}",
        f"{tenths[-1]:.3f}",
        f"{before_mb:.0f} to {memory[-1]:.0f}",
        f"{sweep.mlflow_s:.1f}",
        *(f"{settle_s:.1f}" for settle_s in settles),
    )
    console.print(table)
    return {
        "trials": count,
        "wall_s": round(sweep.wall_s, 1),
        "seconds_a_trial": round(sweep.wall_s / count, 4),
        "seconds_a_trial_by_tenth": tenths,
        "driver_rss_mb_before": round(before_mb, 1),
        "driver_rss_mb_by_tenth": [round(rss_mb, 1) for rss_mb in memory],
        "mlflow_after_s": round(sweep.mlflow_s, 1),
        "settle_s": round(settles[0], 2),
        "settle_again_s": round(settles[1], 2),
    }


# --- a sweep


class Bench:
    """A sweep in its own folder."""

    def __init__(self, output: Path, trials: int, *, seconds: float, logged: bool) -> None:
        output.mkdir(parents=True)
        self.output, self.trials, self.seconds, self.logged = output, trials, seconds, logged
        self.study = dataclasses.replace(micro_grid(lr_intermediate=RATES, lr_target=RATES), trials=trials)
        self.tracking = Tracker(default_uri(output), self.study.name, output=output)
        self._progress = open(output / "progress.log", "w")  # noqa: SIM115 - closed by `close`
        with redirect_stderr(self._progress):
            self._log = TrialLog(self.study, size_of(self.study), self.tracking, StudyConsole(Timeline()))
        self._result: SearchResult | None = None

    def run(self) -> Timed:
        """Run the search and wait for MLflow.

        Raises:
            RuntimeError: a trial did not complete, or MLflow does not have all of them.
        """
        ends = Ends()
        search = Sweep(
            self.study,
            size_of(self.study),
            self.output,
            Slots({"CPU": float(AT_ONCE)}),
            _silent,
            callbacks=[ends, *([self._log] if self.logged else [])],
            trial=_trial(_reports(self.study), self.seconds),
        )
        start = time.perf_counter()
        self._result = search.search(open_journal(self.output))
        ended = time.perf_counter()
        complete = self._result.count(TrialOutcome.COMPLETE)
        if complete != self.trials or len(ends.times) != self.trials:
            raise RuntimeError(f"only {complete} of {self.trials} trials completed: {self._result.failures[:1]}")
        if self.logged:
            flushed = self.tracking.flush(PATIENCE_S)
            if not flushed or (runs := self._mlflow_runs()) != self.trials + 1:
                raise RuntimeError(
                    f"MLflow has {runs if flushed else 'not all'} of {self.trials + 1} runs (the trials and their size)"
                )
        waited_s = time.perf_counter() - ended
        first_s = ends.first_report - self.seconds / len(self.study.targets) - start
        return Timed(ended - start, waited_s, first_s, tuple(end - start for end in ends.times), tuple(ends.rss_mb))

    def settle(self) -> None:
        """Write how each trial ended, as the study does at the end of a search, and wait for MLflow."""
        assert self._result is not None  # `run` was called
        self._log.log_missing(self._result)
        self.tracking.flush(PATIENCE_S)

    def close(self) -> None:
        self.tracking.close()
        self._progress.close()

    def _mlflow_runs(self) -> int:
        with contextlib.closing(sqlite3.connect(self.output / "mlflow.db")) as database:
            ((count,),) = database.execute("select count(*) from runs").fetchall()
            return int(count)


class Ends(tune.Callback):  # type: ignore[misc]
    """Records the first report, the end of each trial, and the driver's memory then."""

    def __init__(self) -> None:
        self.first_report = math.inf
        self.times: list[float] = []
        self.rss_mb: list[float] = []

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: Any, **info: Any) -> None:
        self.first_report = min(self.first_report, time.perf_counter())

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        self.times.append(time.perf_counter())
        self.rss_mb.append(host_rss_mb())


def _reports(study: Study) -> list[dict[str, float]]:
    """The metrics that a trial of the study reports after each target."""
    reports: list[dict[str, float]] = []
    metrics: dict[str, float] = {}
    for number, task in enumerate(study.targets, 1):
        metrics |= {f"{prefix}/{task.name}": SCORE for prefix in ("dev", "test", "test_without_english", "chance")}
        metrics |= {f"test/{task.name}/{language}": SCORE for language in task.languages}
        metrics |= {DEV_SCORE: SCORE, "test_score": SCORE, TARGETS_FINISHED: number}
        reports.append(dict(metrics))
    return reports


def _trial(reports: Sequence[dict[str, float]], seconds: float) -> Callable[..., None]:
    """A trial that uses `seconds` of CPU time and reports as a real one does. A closure, so that Ray ships it by value."""

    def trial(config: dict[str, Any], **_: Any) -> None:
        block = bytes(2**18)
        score = SCORE + random.Random(repr(choice_of(config))).gauss(0.0, 3.0)
        start = time.thread_time()
        for number, metrics in enumerate(reports, 1):
            while time.thread_time() - start < seconds * number / len(reports):
                hashlib.sha256(block)  # under a millisecond; like torch, it releases the GIL
            tune.report(metrics if number <= LAST_RUNG else {**metrics, DEV_SCORE: score})

    return trial


def _silent(stage: str, done: int, total: int, loss: float | None) -> None:
    """Progress of these trials: discarded."""


if __name__ == "__main__":
    typer.run(main)
