"""What does the machinery of a search cost a trial: Tune, Optuna, ASHA, MLflow?

    python -m tests.benchmarks.trial_overhead [--rounds 2] [--noops 2000] [--quick]

Sweeps are the study's own (`study.search.sweep.Sweep`: proposer, ASHA, Optuna's journal on disk) but for the function that each
trial runs. It reports as often as a trial has targets, each time with the metrics of a real one (English dev and test by
language), and the study's `TrialLog` takes them to MLflow in SQLite. Scores are the same at ASHA's rungs, so that it stops
nobody, and differ by choice at the end, so that TPE has something to learn.

1. one-second trials: 200 of them, two at a time. Each uses a second of CPU time, spread over its reports, so that whatever the
   driver does on the same two cores makes them longer, as it would real trials. `ratio_to_ideal` is what the sweep took, start
   of the actors included, until MLflow had everything, over the 100 seconds it should. `without_mlflow` runs the same sweep
   without `TrialLog`; the two take turns in who is first.
2. no-op trials: 2,000 that report at once and compute nothing. Seconds a trial, of the first and the last tenth of them too
   (TPE gets slower with what it has seen); the driver's resident memory at every tenth; how long MLflow took after the last
   trial to have everything; then what `TrialLog.settle` takes to write how each trial ended, and to find that it is written,
   which a resume of a finished study does.

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
from study.console import Screen, Timeline
from study.search.callback import TrialLog
from study.search.slots import Room
from study.search.sweep import Sweep
from study.search.trial import choice_of
from study.search.trial_store import METRIC, RUNG, SearchResult, open_journal
from study.spec import Study
from study.tracking.tracker import Tracking, default_uri
from tests.benchmarks.micro_grid import elapsed_since, micro_grid, size_of, spread
from trainables.benchmark.probes.hardware import hardware
from trainables.benchmark.probes.memory import host_rss_mb
from trainables.store.versions import versions

GOAL = 1.15
AT_ONCE = 2
SCORE = 50.0  # of all trials up to the last rung, which is at two targets
LAST_RUNG = 2
BOTH = ("with_mlflow", "without_mlflow")
# Of targets and of intermediates: 2,064 choices, enough for every trial to be another one.
RATES = tuple(1e-3 / 2**index for index in range(16))
PATIENCE_S = 600.0  # for MLflow to have everything
TENTHS = 10

console = Console(highlight=False, width=128)

Rounds = Annotated[
    int, typer.Option(min=1, help="how often the sweep of one-second trials runs, with MLflow and without")
]
Trials = Annotated[int, typer.Option(min=2, help="trials of a second")]
Noops = Annotated[int, typer.Option(min=0, help="trials that compute nothing")]
Quick = Annotated[bool, typer.Option("--quick", help="one round of ten trials of a second, forty no-ops")]


@dataclass(frozen=True)
class Timed:
    """A sweep that was run: its seconds, those that MLflow took after it, when each trial ended, the driver's memory then."""

    wall_s: float
    mlflow_s: float
    start_s: float  # until the first trial began: actors start and import what they need
    ended_s: tuple[float, ...]
    rss_mb: tuple[float, ...]

    def tenths(self) -> list[float]:
        """Seconds a trial in each tenth."""
        size = max(1, len(self.ended_s) // TENTHS)
        marks = [0.0, *self.ended_s[size - 1 :: size]]
        return [round((after - before) / size, 4) for before, after in itertools.pairwise(marks)]


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
    ratios = {name: [wall_s / ideal_s for wall_s in some] for name, some in walls.items()}
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
        "spreads": {name: spread(some) for name, some in ratios.items()},
        "wall_s_of_one_second_trials": {name: [round(one, 1) for one in some] for name, some in walls.items()},
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
    for name, some in walls.items():
        low, high = spread(ratios[name])
        table.add_row(
            name,
            f"{median(some):.1f}",
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
        *(f"{one:.1f}" for one in settles),
    )
    console.print(table)
    return {
        "trials": count,
        "wall_s": round(sweep.wall_s, 1),
        "seconds_a_trial": round(sweep.wall_s / count, 4),
        "seconds_a_trial_by_tenth": tenths,
        "driver_rss_mb_before": round(before_mb, 1),
        "driver_rss_mb_by_tenth": [round(one, 1) for one in memory],
        "mlflow_after_s": round(sweep.mlflow_s, 1),
        "settle_s": round(settles[0], 2),
        "settle_again_s": round(settles[1], 2),
    }


# --- a sweep


class Bench:
    """A sweep in a folder of its own."""

    def __init__(self, output: Path, trials: int, *, seconds: float, logged: bool) -> None:
        output.mkdir(parents=True)
        self.output, self.trials, self.seconds, self.logged = output, trials, seconds, logged
        self.study = dataclasses.replace(micro_grid(lr_intermediate=RATES, lr_target=RATES), trials=trials)
        self.tracking = Tracking(default_uri(output), self.study.name, output)
        self._said = open(output / "said", "w")  # noqa: SIM115 - closed by `close`
        with redirect_stderr(self._said):
            self._log = TrialLog(self.study, size_of(self.study), self.tracking, Screen(Timeline()))
        self._result: SearchResult | None = None

    def run(self) -> Timed:
        """The search, and the wait for MLflow.

        Raises:
            RuntimeError: not every trial came to its end, or MLflow has not all of them.
        """
        ends = Ends()
        search = Sweep(
            self.study,
            size_of(self.study),
            self.output,
            Room({"CPU": float(AT_ONCE)}),
            _silent,
            callbacks=[ends, *([self._log] if self.logged else [])],
            trial=_trial(_reports(self.study), self.seconds),
        )
        start = time.perf_counter()
        self._result = search.search(open_journal(self.output))
        ended = time.perf_counter()
        complete = self._result.count("complete")
        if complete != self.trials or len(ends.times) != self.trials:
            raise RuntimeError(f"{complete} of {self.trials} trials are complete: {self._result.failures[:1]}")
        if self.logged:
            flushed = self.tracking.flush(PATIENCE_S)
            if not flushed or (runs := self._mlflow_runs()) != self.trials + 1:
                raise RuntimeError(
                    f"MLflow has {runs if flushed else 'not all'} of {self.trials} trials and their size"
                )
        waited_s = time.perf_counter() - ended
        first_s = ends.first_report - self.seconds / len(self.study.targets) - start
        return Timed(ended - start, waited_s, first_s, tuple(one - start for one in ends.times), tuple(ends.rss_mb))

    def settle(self) -> None:
        """Write what the search says, as the study does when a search has ended, and wait for MLflow."""
        assert self._result is not None  # it has run
        self._log.settle(self._result)
        self.tracking.flush(PATIENCE_S)

    def close(self) -> None:
        self.tracking.close()
        self._said.close()

    def _mlflow_runs(self) -> int:
        with contextlib.closing(sqlite3.connect(self.output / "mlflow.db")) as database:
            ((count,),) = database.execute("select count(*) from runs").fetchall()
            return int(count)


class Ends(tune.Callback):  # type: ignore[misc]
    """When the first report came, when each trial ended, and the driver's memory then."""

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
    """What a trial of the study reports after each target."""
    reports: list[dict[str, float]] = []
    metrics: dict[str, float] = {}
    for number, task in enumerate(study.targets, 1):
        metrics |= {f"{prefix}/{task.name}": SCORE for prefix in ("dev", "test", "test_without_english", "chance")}
        metrics |= {f"test/{task.name}/{language}": SCORE for language in task.languages}
        metrics |= {METRIC: SCORE, "test_score": SCORE, RUNG: number}
        reports.append(dict(metrics))
    return reports


def _trial(reports: Sequence[dict[str, float]], seconds: float) -> Callable[..., None]:
    """A trial that uses so much CPU time and reports as a real one. A closure, which Ray ships as it is."""

    def trial(config: dict[str, Any], **_: Any) -> None:
        block = bytes(2**18)
        score = SCORE + random.Random(repr(choice_of(config))).gauss(0.0, 3.0)
        start = time.thread_time()
        for number, metrics in enumerate(reports, 1):
            while time.thread_time() - start < seconds * number / len(reports):
                hashlib.sha256(
                    block
                )  # a fraction of a millisecond, and as torch does it lets go of the interpreter's lock
            tune.report(metrics if number <= LAST_RUNG else {**metrics, METRIC: score})

    return trial


def _silent(stage: str, done: int, total: int, value: float) -> None:
    """Nobody reads the progress of these trials."""


if __name__ == "__main__":
    typer.run(main)
