"""Does the search find the best choice with less training than the grid, or than random search?

    python -m tests.benchmarks.search_efficiency [--seeds 18] [--output DIR] [--quick]

1. The whole grid is trained once, for real: every intermediate choice of `micro_grid` with three learning rates of its own and
   three of the targets, 75 choices by five targets, stages shared. Of each choice the table holds the English dev score after
   each target, and of each stage the seconds it took (training, tokenising and scoring; pre-training is given).
2. Searches are replayed against that table until nothing is left to try. The searcher and the scheduler are the study's own
   (`LedgerSearcher` with its proposer, and `asha`), seeded; what is simulated is the clock. `--concurrent` trials run at a
   time, a stage costs its seconds when it is first needed and nothing afterwards, and who needs a stage that another trial is
   training waits for it. No choice is proposed twice.

   TPE + ASHA    the study's search as it is: every intermediate first at the default rates, never stopped, then Optuna's TPE
   TPE           the same without ASHA
   random        the grid's choices in a random order, none stopped: no choice twice, which is random search at its strongest
   random + ASHA the same order with ASHA and nothing exempt from it
   defaults, random + ASHA   as the study's search, with a random order in place of TPE: what TPE itself brings
   TPE + ASHA from N         as the study's search, but trials are first compared after N targets. The study's two
                             (`Study.first_rung`) were chosen on this grid, so its own line flatters it: on another it may be
                             another number. A comparison after one target loses to random search here.

Compared at equal training seconds: the best English dev score among complete trials, which is what the study would choose; and
the share of the grid's seconds until a complete trial is within a tolerance of the grid's best. Medians with quartiles over
seeds, which change the searcher and the order, not the table: this is about the search on this grid, trained with one seed and
scored on 150 dev examples a target, so that a point more or less is chance.

Where a recipe's default rates are good ones the search begins beside the best, whatever comes after. So each seed takes
another of the nine pairs of rates as the default ("any defaults"); what the quickstart's own defaults give stands beside it.

`--check` runs the first seed's TPE + ASHA through Ray Tune itself (`study.search.sweep.Sweep`), one trial at a time, with a
trainable that only reads the table, and compares the trials one by one with the replay: choice, outcome, order. With
`--output` the trained stages are kept and found again. The last line is one JSON document.
"""

from __future__ import annotations

import dataclasses
import heapq
import itertools
import json
import math
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Annotated, Any, Literal, Protocol

import numpy as np
import typer
from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend
from ray import tune
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher
from rich.console import Console
from rich.table import Table
from scipy.stats import spearmanr

from study.cluster.connection import WORKER_ENVIRONMENT, connected
from study.search.searcher import LedgerSearcher, asha
from study.search.slots import Room, need_of
from study.search.suggestions import Proposer
from study.search.sweep import Sweep
from study.search.trial import choice_of
from study.search.trial_store import METRIC, RUNG, History
from study.spec import Choice, Study
from tests.benchmarks.micro_grid import (
    Lengths,
    choices_of,
    elapsed_since,
    micro_grid,
    prepare,
    seconds_of,
    size_of,
    trained_for,
    workplace,
)
from trainables.benchmark.probes.hardware import hardware
from trainables.hyperparameters import Diverged
from trainables.stages.base import Stage
from trainables.stages.chain import run_chain
from trainables.store.stage_store import StageStore
from trainables.store.versions import versions

LR_INTERMEDIATE, LR_TARGET = (
    (3e-4, 1e-4, 1e-3),
    (2e-3, 1e-3, 4e-3),
)  # the quickstart's, and one rate more of the targets
SHARES = (0.15, 0.25, 0.5, 1.0)  # of the grid's training seconds
TOLERANCES = (0.0, 0.5, 1.0)  # points of dev score
OURS = "TPE + ASHA"

console = Console(highlight=False, width=150)

Seeds = Annotated[int, typer.Option(min=1, help="seeds of each searcher")]
Output = Annotated[Path | None, typer.Option(help="a stage store to keep, and to go on with")]
Workers = Annotated[int, typer.Option(min=1, help="processes that train the grid")]
Concurrent = Annotated[int, typer.Option(min=1, help="trials at a time in the replay")]
Check = Annotated[bool, typer.Option(help="compare a replay with Ray Tune itself")]
Quick = Annotated[bool, typer.Option("--quick", help="a few steps a training, two intermediate choices, two seeds")]


# --- the grid, trained


@dataclass(frozen=True)
class Cell:
    """A choice: the metrics it reports after each target, and the stages that each target needs, in their order."""

    reports: tuple[Mapping[str, float], ...]
    needs: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Grid:
    """Every choice of a study, and the seconds of every stage."""

    cells: Mapping[Choice, Cell]
    seconds: Mapping[str, float]

    @property
    def total_s(self) -> float:
        return sum(self.seconds.values())

    @property
    def best(self) -> float:
        return max(cell.reports[-1][METRIC] for cell in self.cells.values())

    def rank_correlations(self) -> list[float]:
        """Spearman's, of the scores after so many targets with those at the end: what ASHA can know at a rung."""
        scores = np.array([[report[METRIC] for report in cell.reports] for cell in self.cells.values()])
        return [round(float(spearmanr(column, scores[:, -1]).statistic), 3) for column in scores.T]


def train_grid(study: Study, output: Path, *, workers: int) -> Grid:
    """Train what is not in the store, and read the table from it.

    Raises:
        Diverged: the grid has a learning rate with which nothing can be compared.
    """
    os.environ.update({**WORKER_ENVIRONMENT, "OMP_NUM_THREADS": "1"})  # for the processes that train
    cells: dict[Choice, Cell] = {}
    stages: dict[str, Stage] = {}
    choices = list(choices_of(study))
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        pretraining_s = pool.submit(prepare, study, output).result()
        console.print(f"pre-training, given: {pretraining_s:.0f} s; {len(choices)} choices to train")
        started = time.perf_counter()
        for number, (choice, reports) in enumerate(
            zip(choices, pool.map(partial(_train, study, output), choices), strict=True), 1
        ):
            needs = []
            for evaluate in study.chain(size_of(study), choice):
                needed = trained_for(evaluate)
                stages |= needed
                needs.append(tuple(reversed(needed)))  # parents first
            cells[choice] = Cell(tuple(reports), tuple(needs))
            if number % 10 == 0:
                console.print(f"{number} of {len(choices)} choices after {elapsed_since(started):.0f} s")
    return Grid(cells, seconds_of(StageStore(output), stages))


def _train(study: Study, output: Path, choice: Choice) -> list[dict[str, float]]:
    reports: list[dict[str, float]] = []
    try:
        run_chain(
            study.chain(size_of(study), choice),
            workplace(output),
            lambda metrics: reports.append({name: metrics[name] for name in (METRIC, RUNG, "test_score")}),
        )
    except Diverged as error:
        raise RuntimeError(f"{choice}: {error}; the grid needs rates that train") from error
    return reports


# --- searches, replayed


class Searching(Protocol):
    """What of Tune's searchers a replay calls."""

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None: ...

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None: ...

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None: ...


@dataclass
class InOrder:
    """Proposes choices as they are listed and learns nothing."""

    choices: Iterator[Choice]

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        choice = next(self.choices, None)
        return Searcher.FINISHED if choice is None else {"trial": trial_id, **dataclasses.asdict(choice)}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None: ...

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None: ...


class InMemory(BaseJournalBackend):  # type: ignore[misc]
    """A journal that is gone with the process."""

    def __init__(self) -> None:
        self._logs: list[dict[str, Any]] = []

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        self._logs += logs

    def read_logs(self, log_number_from: int) -> list[dict[str, Any]]:
        return self._logs[log_number_from:]


@dataclass
class Trial:
    """What of a Tune trial schedulers look at, and what became of it."""

    trial_id: str
    config: dict[str, Any]
    reported: list[dict[str, Any]] = field(default_factory=list)

    @property
    def choice(self) -> Choice:
        return choice_of(self.config)


@dataclass(frozen=True)
class Ended:
    """A trial's end: how much training had been paid for by then; its score if it was not stopped."""

    choice: Choice
    spent_s: float
    targets: int
    score: float | None


@dataclass
class Replay:
    """A search against the grid's table, on a clock of its own."""

    grid: Grid
    searcher: Searching
    scheduler: TrialScheduler
    concurrent: int
    trials: int
    spent_s: float = 0.0
    ended: list[Ended] = field(default_factory=list)
    _ready: dict[str, float] = field(default_factory=dict)  # when a stage is finished, of those that were begun
    _events: list[tuple[float, int, Trial]] = field(default_factory=list)
    _begun: int = 0

    def run(self) -> list[Ended]:
        """Until the searcher has no more, or has proposed as many trials as it may, or the grid's seconds are spent."""
        for _ in range(self.concurrent):
            self._begin(0.0)
        while self._events:
            now, _, trial = heapq.heappop(self._events)
            if self._goes_on(trial):
                self._advance(trial, now)
            else:
                self._begin(now)
        return self.ended

    def _begin(self, now: float) -> None:
        if self._begun >= self.trials or self.spent_s >= self.grid.total_s * (1 - 1e-9):
            return
        name = f"t{self._begun:05d}"
        config = self.searcher.suggest(name)
        if not isinstance(config, dict):
            return  # it has no more
        self._begun += 1
        trial = Trial(name, config)
        self.scheduler.on_trial_add(None, trial)
        self._advance(trial, now)

    def _advance(self, trial: Trial, now: float) -> None:
        """Train for the next target; the report comes when its stages are finished."""
        for stage in self.grid.cells[trial.choice].needs[len(trial.reported)]:
            if stage not in self._ready:
                self.spent_s += self.grid.seconds[stage]
                self._ready[stage] = now + self.grid.seconds[stage]
            now = max(now, self._ready[stage])
        heapq.heappush(self._events, (now, int(trial.trial_id[1:]), trial))

    def _goes_on(self, trial: Trial) -> bool:
        """Report as Tune's controller does it; whether there is another target."""
        cell = self.grid.cells[trial.choice]
        result = {**cell.reports[len(trial.reported)], "training_iteration": len(trial.reported) + 1}
        trial.reported.append(result)
        stopped = self.scheduler.on_trial_result(None, trial, result) == TrialScheduler.STOP
        if not stopped:
            self.searcher.on_trial_result(trial.trial_id, result)
            if len(trial.reported) < len(cell.reports):
                return True
        self.scheduler.on_trial_complete(None, trial, result)
        self.searcher.on_trial_complete(trial.trial_id, result)
        complete = len(trial.reported) == len(cell.reports)
        self.ended.append(Ended(trial.choice, self.spent_s, len(trial.reported), result[METRIC] if complete else None))
        return False


@dataclass(frozen=True)
class Contestant:
    """How a search proposes, and whether ASHA stops its trials: the study's own, or one that compares after so many targets."""

    proposes: Literal["TPE", "random", "defaults, then random"]
    asha: Literal["own", "none"] | int

    @property
    def has_defaults(self) -> bool:
        """Whether the default cells have a part in it."""
        return self.proposes != "random"

    def searcher(self, study: Study, stack: ExitStack, *, concurrent: int) -> Searching:
        """Its searcher, by the study's seed."""
        if self.proposes == "TPE":
            return ledger_searcher(study, stack, concurrent=concurrent)
        first = study.space.defaults() if self.has_defaults else []
        rest = [choice for choice in choices_of(study) if choice not in first]
        random.Random(study.seed).shuffle(rest)
        return InOrder(iter([*first, *rest]))

    def scheduler(self, study: Study) -> TrialScheduler:
        """Where defaults are not run first they are stopped like others."""
        if self.asha == "none":
            return FIFOScheduler()
        scheduler = asha(study if self.asha == "own" else dataclasses.replace(study, first_rung=self.asha))
        if not self.has_defaults:
            scheduler.is_default = _nothing
        return scheduler


def ledger_searcher(study: Study, stack: ExitStack, *, concurrent: int) -> LedgerSearcher:
    """The study's own searcher over a ledger in memory, in a room for so many trials."""
    size, room = size_of(study), Room({"CPU": float(concurrent)})
    stack.enter_context(room.entered(size.name, need_of(size), len(choices_of(study))))
    history = History(JournalStorage(InMemory()), size.name, study.space)
    proposer = Proposer(study.space, study.seed)
    return LedgerSearcher(history, size.name, room, proposer=proposer, targets=len(study.targets))


def _nothing(choice: Choice) -> bool:
    return False


CONTESTANTS = {
    OURS: Contestant("TPE", "own"),
    "TPE": Contestant("TPE", "none"),
    "random": Contestant("random", "none"),
    "random + ASHA": Contestant("random", "own"),
    "defaults, random + ASHA": Contestant("defaults, then random", "own"),
    **{f"TPE + ASHA from {targets}": Contestant("TPE", targets) for targets in (1, 2, 3)},
}
ANY, OWN = "any defaults", "the quickstart's defaults"


def seeded(study: Study, seed: int, defaults: str) -> Study:
    """The study as a seed searches it: with its own default rates, or with the pair that is this seed's turn."""
    space = study.space
    if defaults == ANY:
        pairs = list(itertools.product(range(len(LR_TARGET)), range(len(LR_INTERMEDIATE))))
        target, intermediate = pairs[seed % len(pairs)]
        space = dataclasses.replace(
            space,
            lr_intermediate=_first(intermediate, LR_INTERMEDIATE),
            lr_target=_first(target, LR_TARGET),
        )
    return dataclasses.replace(study, seed=seed, space=space)


def _first(index: int, rates: tuple[float, ...]) -> tuple[float, ...]:
    """The rates with another one first, which is the default."""
    return rates[index:] + rates[:index]


@dataclass(frozen=True)
class Curve:
    """What a search had after how much training."""

    grid: Grid
    ended: Sequence[Ended]

    def best_at(self, share: float) -> float | None:
        """The best complete score for a share of the grid's seconds; None if no trial was complete."""
        limit = share * self.grid.total_s * (1 + 1e-9)
        scores = [one.score for one in self.ended if one.score is not None and one.spent_s <= limit]
        return max(scores, default=None)

    def share_until(self, tolerance: float) -> float | None:
        """The share of the grid's seconds until a complete score is that near to the grid's best; None: it never was."""
        for one in self.ended:
            if one.score is not None and one.score >= self.grid.best - tolerance:
                return one.spent_s / self.grid.total_s
        return None


def replay(
    grid: Grid, study: Study, contestant: Contestant, *, concurrent: int, trials: int | None = None
) -> list[Ended]:
    """One search, seeded as the study is: so many trials, or until nothing is left to try."""
    with ExitStack() as stack:
        searcher = contestant.searcher(study, stack, concurrent=concurrent)
        limit = len(grid.cells) if trials is None else trials
        return Replay(grid, searcher, contestant.scheduler(study), concurrent=concurrent, trials=limit).run()


# --- the command


def main(
    seeds: Seeds = 18,
    output: Output = None,
    workers: Workers = 2,
    concurrent: Concurrent = 2,
    check: Check = True,
    quick: Quick = False,
) -> None:
    """Print tables and one JSON line; exit code 1 if the replay is not what Ray Tune does."""
    started = time.perf_counter()
    lengths = Lengths()
    if quick:
        seeds, lengths = min(seeds, 2), Lengths(pretraining=4, intermediate=2, target=2)
    study = micro_grid(lr_intermediate=LR_INTERMEDIATE, lr_target=LR_TARGET, lengths=lengths)
    if quick:
        few = dataclasses.replace(study.space, intermediates=study.space.intermediates[:1])
        study = dataclasses.replace(study, space=few, trials=len(few.grid() or ()))
    with ExitStack() as stack:
        folder = output or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        grid = train_grid(study, folder, workers=workers)
    trained_s = elapsed_since(started)
    _show_grid(grid)
    summaries: dict[str, dict[str, Any]] = {}
    for defaults in (ANY, OWN):
        contestants = {name: one for name, one in CONTESTANTS.items() if defaults == ANY or one.has_defaults}
        summaries[defaults] = {
            name: _summary(
                [
                    Curve(grid, replay(grid, seeded(study, seed, defaults), one, concurrent=concurrent))
                    for seed in range(seeds)
                ]
            )
            for name, one in contestants.items()
        }
        _show(summaries[defaults], f"{defaults}, {seeds} seeds")
    matches = _matches_tune(grid, study) if check else None
    document = {
        "grid": {
            "choices": len(grid.cells),
            "stages": len(grid.seconds),
            "seconds": round(grid.total_s, 1),
            "best_dev_score": round(grid.best, 3),
            "dev_scores": sorted(round(cell.reports[-1][METRIC], 2) for cell in grid.cells.values()),
            "best": [dataclasses.asdict(one) for one in _best(grid)],
            "rank_correlation_with_the_end_by_targets": grid.rank_correlations(),
        },
        "searches": summaries,
        "seeds": seeds,
        "concurrent": concurrent,
        "replay_matches_tune": matches,
        "steps": {"intermediate": study.intermediate_tuning.steps, "target": study.tuning.steps},
        "grid_wall_s": trained_s,
        "wall_s": elapsed_since(started),
        "load_average": os.getloadavg(),
        "hardware": hardware().as_dict(),
        "versions": versions(),
        "command": " ".join(["python", "-m", "tests.benchmarks.search_efficiency", *sys.argv[1:]]),
    }
    print(json.dumps(document))
    if matches is False:
        raise typer.Exit(1)


def _best(grid: Grid) -> list[Choice]:
    return [choice for choice, cell in grid.cells.items() if cell.reports[-1][METRIC] == grid.best]


def _summary(curves: Sequence[Curve]) -> dict[str, Any]:
    return {
        "best_dev_score": {
            f"{share:g}": _quartiles([curve.best_at(share) for curve in curves], missing=-math.inf) for share in SHARES
        },
        "share_until": {f"{one:g}": _quartiles([curve.share_until(one) for curve in curves]) for one in TOLERANCES},
        "trials": median(len(curve.ended) for curve in curves),
        "stopped_early": median(sum(one.score is None for one in curve.ended) for curve in curves),
        "spent": round(median(curve.ended[-1].spent_s / curve.grid.total_s for curve in curves), 3),
    }


def _quartiles(values: Sequence[float | None], *, missing: float = math.inf) -> dict[str, Any]:
    """Median and quartiles over seeds by nearest rank; null where one of them falls on a seed that has no value."""
    ordered = sorted(missing if value is None else value for value in values)

    def at(share: float) -> float | None:
        value = ordered[math.ceil(share * len(ordered)) - 1]
        return round(value, 4) if math.isfinite(value) else None

    known = sum(value is not None for value in values)
    return {"median": at(0.5), "quartiles": [at(0.25), at(0.75)], "of": known}


def _show_grid(grid: Grid) -> None:
    scores = sorted((cell.reports[-1][METRIC] for cell in grid.cells.values()), reverse=True)
    near = {tolerance: sum(score >= scores[0] - tolerance for score in scores) for tolerance in TOLERANCES}
    console.print(
        f"grid: {len(scores)} choices, {len(grid.seconds)} stages, {grid.total_s:.0f} s; dev score {scores[0]:.2f} best, "
        f"{median(scores):.2f} median, {scores[-1]:.2f} worst; within "
        + ", ".join(f"{tolerance:g} of the best: {count}" for tolerance, count in near.items())
    )
    correlations = ", ".join(f"{one:.2f}" for one in grid.rank_correlations())
    console.print(f"rank correlation of the scores after 1, 2, ... targets with those at the end: {correlations}")


def _show(summaries: Mapping[str, Mapping[str, Any]], title: str) -> None:
    shares = [f"best at {share:.0%}" for share in SHARES]
    table = Table("", *shares, *(f"within {one:g}" for one in TOLERANCES), "stopped", "spent")
    table.title = (
        f"{title}: best dev score for a share of the grid's seconds; share until so near to its best (how often)"
    )
    table.title_justify = "left"
    for name, summary in summaries.items():
        best = [_cell(one, "{:.1f}") for one in summary["best_dev_score"].values()]
        near = [f"{_cell(one, '{:.0%}')} ({one['of']})" for one in summary["share_until"].values()]
        table.add_row(name, *best, *near, f"{summary['stopped_early']:g}", f"{summary['spent']:.0%}")
    console.print(table)


def _cell(found: Mapping[str, Any], form: str) -> str:
    return "never" if found["median"] is None else form.format(found["median"])


# --- the same search under Ray Tune


def _matches_tune(grid: Grid, study: Study) -> bool:
    """Whether Tune, one trial at a time, runs the trials that the replay says, to the same ends."""
    trials = min(len(grid.cells), len(study.space.names) + 10)
    simulated = replay(grid, study, CONTESTANTS[OURS], concurrent=1, trials=trials)
    log = _Log()

    def read(config: dict[str, Any], **_: Any) -> None:
        for metrics in grid.cells[choice_of(config)].reports:
            tune.report(dict(metrics))

    with connected(None), tempfile.TemporaryDirectory() as folder:
        Sweep(
            dataclasses.replace(study, trials=trials),
            size_of(study),
            Path(folder),
            Room({"CPU": 1.0}),
            _silent,
            callbacks=[log],
            trial=read,
        ).search(JournalStorage(InMemory()))
    same = log.ended == [(one.choice, one.targets) for one in simulated]
    console.print(f"Ray Tune ran {len(log.ended)} trials: {'the same as' if same else 'NOT those of'} the replay")
    return same


def _silent(stage: str, done: int, total: int, value: float) -> None:
    """Nobody reads the progress of a trial that reads a table."""


class _Log(tune.Callback):  # type: ignore[misc]
    """Which choices ended, after how many targets."""

    def __init__(self) -> None:
        self.ended: list[tuple[Choice, int]] = []

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        self.ended.append((choice_of(trial.config), int(trial.last_result[RUNG])))


if __name__ == "__main__":
    typer.run(main)
