"""Does the search find the best choice with less training than the full grid or random search?

    python -m tests.benchmarks.search_efficiency [--seeds 18] [--output DIR] [--quick]

1. The whole grid is trained once: every intermediate choice of `micro_grid` with three learning rates for it and three for the
   targets, 75 choices by five targets, stages shared. The table holds the English dev score of each choice after each target,
   and the seconds of each stage (training, tokenising and scoring; pre-training is free).
2. Searches are replayed against that table until nothing is left to try. Searcher and early stopping are the study's own
   (`TrialStoreSearcher` with `suggest`, and ASHA's `Rungs`), seeded; only the clock is simulated. `--concurrent` trials run
   at a time. A stage costs its seconds when it is first needed and nothing afterwards; a trial that needs a stage which
   another trial is training waits for it. No choice is suggested twice.

   TPE + ASHA    the study's search: every intermediate first at the default rates, never stopped, then Optuna's TPE
   TPE           the same without ASHA
   random        the grid's choices in a random order, none stopped, none repeated: the strongest form of random search
   random + ASHA the same order with ASHA, no trial exempt
   defaults, random + ASHA   the study's search with a random order in place of TPE: isolates the contribution of TPE
   TPE + ASHA from N         the study's search, but trials are first compared after N targets. The study's two
                             (`Study.first_rung`) were chosen on a grid of an earlier ladder; another grid may prefer
                             another number.

Two things are compared at equal training seconds: the best English dev score among complete trials, which is what the study
would choose, and the share of the grid's seconds until a complete trial is within a tolerance of the grid's best. Figures are
medians with quartiles over seeds. A seed changes searcher and order, not the table: the result holds for this grid, trained
with one seed and scored on 150 dev examples a target, so a difference of one point is noise.

With good default rates, a search starts close to the best choice. So each seed takes another of the nine pairs of rates as the
default ("any defaults"); the result with the quickstart's own defaults is reported too.

`--check` runs the first seed's TPE + ASHA through Ray Tune itself (`study.search.sweep.Sweep`), one trial at a time, with a
trainable that only reads the table, and compares its trials with the replay's: choice, outcome, order. With `--output` the
trained stages are kept and reused. The last line is one JSON document.
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
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Annotated, Any, Literal, Protocol

import typer
from optuna.storages.journal import BaseJournalBackend
from ray import tune
from ray.tune.search import Searcher
from rich.console import Console
from rich.table import Table

from study.cluster.connection import connected
from study.search.asha import Rungs
from study.search.journal import TrialJournal
from study.search.records import DEV_SCORE, TARGETS_FINISHED
from study.search.searcher import TrialStoreSearcher
from study.search.slots import Slots, trial_request
from study.search.suggestions import suggest
from study.search.sweep import Sweep
from study.search.trial import choice_of
from study.search.trial_store import TrialStore
from study.spec import Choice, Study
from tests.benchmarks.grid_table import LR_INTERMEDIATE, LR_TARGET, Grid, GridName, study_of, train_grids
from tests.benchmarks.micro_grid import choices_of, elapsed_since, size_of
from trainables.benchmark.probes.hardware import hardware
from trainables.store.versions import versions

SHARES = (0.15, 0.25, 0.5, 1.0)  # of the grid's training seconds
TOLERANCES = (0.0, 0.5, 1.0)  # points of dev score
OURS = "TPE + ASHA"

console = Console(highlight=False, width=150)

Seeds = Annotated[int, typer.Option(min=1, help="seeds of each searcher")]
Output = Annotated[Path | None, typer.Option(help="output folder for the trained stages; those in it are reused")]
Workers = Annotated[int, typer.Option(min=1, help="processes that train the grid")]
Concurrent = Annotated[int, typer.Option(min=1, help="concurrent trials in the replay")]
Check = Annotated[bool, typer.Option(help="compare the replay with Ray Tune itself")]
Quick = Annotated[bool, typer.Option("--quick", help="a few steps a training, two intermediate choices, two seeds")]


# --- replaying searches


class Searching(Protocol):
    """The part of Tune's searcher interface that a replay calls."""

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None: ...

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None: ...

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None: ...


@dataclass
class InOrder:
    """Suggests choices in the order of a list and learns nothing."""

    choices: Iterator[Choice]

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        choice = next(self.choices, None)
        return Searcher.FINISHED if choice is None else {"trial": trial_id, **dataclasses.asdict(choice)}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None: ...

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None: ...


class InMemory(BaseJournalBackend):  # type: ignore[misc]
    """An Optuna journal in memory."""

    def __init__(self) -> None:
        self._logs: list[dict[str, Any]] = []

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        self._logs += logs

    def read_logs(self, log_number_from: int) -> list[dict[str, Any]]:
        return self._logs[log_number_from:]


@dataclass
class Trial:
    """A running trial and its reports."""

    trial_id: str
    choice: Choice
    reported: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Ended:
    """A trial that ended: the training seconds spent by then, and its score unless it was stopped."""

    choice: Choice
    spent_s: float
    targets: int
    score: float | None


@dataclass
class Replay:
    """A search against the grid's table on a simulated clock."""

    grid: Grid
    searcher: Searching
    rungs: Rungs | None
    concurrent: int
    trials: int
    spent_s: float = 0.0
    ended: list[Ended] = field(default_factory=list)
    _ready: dict[str, float] = field(default_factory=dict)  # when a started stage finishes
    _events: list[tuple[float, int, Trial]] = field(default_factory=list)
    _started: int = 0

    def run(self) -> list[Ended]:
        """Run until the searcher has no more choices, the number of trials is reached, or the grid's seconds are spent."""
        for _ in range(self.concurrent):
            self._start(0.0)
        while self._events:
            now, _, trial = heapq.heappop(self._events)
            if self._report(trial):
                self._advance(trial, now)
            else:
                self._start(now)
        return self.ended

    def _start(self, now: float) -> None:
        if self._started >= self.trials or self.spent_s >= self.grid.total_s * (1 - 1e-9):
            return
        name = f"t{self._started:05d}"
        config = self.searcher.suggest(name)
        if not isinstance(config, dict):
            return  # the searcher has no more choices
        self._started += 1
        trial = Trial(name, choice_of(config))
        self._advance(trial, now)

    def _advance(self, trial: Trial, now: float) -> None:
        """Train for the next target; its report is due when its stages are finished."""
        for stage in self.grid.cells[trial.choice].needs[len(trial.reported)]:
            if stage not in self._ready:
                self.spent_s += self.grid.seconds[stage]
                self._ready[stage] = now + self.grid.seconds[stage]
            now = max(now, self._ready[stage])
        heapq.heappush(self._events, (now, int(trial.trial_id[1:]), trial))

    def _report(self, trial: Trial) -> bool:
        """Report as Tune's controller does; returns whether the trial continues with another target."""
        cell = self.grid.cells[trial.choice]
        result = {**cell.reports[len(trial.reported)], "training_iteration": len(trial.reported) + 1}
        trial.reported.append(result)
        stopped = self.rungs is not None and self.rungs.stops(
            trial.trial_id, trial.choice, targets_finished=len(trial.reported), score=result[DEV_SCORE]
        )
        if not stopped:
            self.searcher.on_trial_result(trial.trial_id, result)
            if len(trial.reported) < len(cell.reports):
                return True
        self.searcher.on_trial_complete(trial.trial_id, result)
        complete = len(trial.reported) == len(cell.reports)
        self.ended.append(
            Ended(trial.choice, self.spent_s, len(trial.reported), result[DEV_SCORE] if complete else None)
        )
        return False


@dataclass(frozen=True)
class Contestant:
    """How a search suggests, and the ASHA that stops its trials: the study's own, none, or one with another first rung."""

    suggests: Literal["TPE", "random", "defaults, then random"]
    asha: Literal["own", "none"] | int

    @property
    def has_defaults(self) -> bool:
        """Whether it runs the default cells first."""
        return self.suggests != "random"

    def searcher(self, study: Study, stack: ExitStack, *, concurrent: int) -> Searching:
        """The searcher, seeded with the study's seed."""
        if self.suggests == "TPE":
            return own_searcher(study, stack, concurrent=concurrent)
        first = study.space.defaults() if self.has_defaults else []
        rest = [choice for choice in choices_of(study) if choice not in first]
        random.Random(study.seed).shuffle(rest)
        return InOrder(iter([*first, *rest]))

    def rungs(self, study: Study) -> Rungs | None:
        """ASHA's rungs, None without it; where default cells do not run first, they are stopped like others."""
        if self.asha == "none":
            return None
        if self.asha != "own":
            study = dataclasses.replace(study, first_rung=self.asha)
        return Rungs(study, exempt=study.space.is_default if self.has_defaults else _nothing)


def own_searcher(study: Study, stack: ExitStack, *, concurrent: int) -> TrialStoreSearcher:
    """The study's own searcher over a trial store in memory, with slots for `concurrent` trials."""
    size, slots = size_of(study), Slots({"CPU": float(concurrent)})
    stack.enter_context(slots.admitted(size.name, trial_request(size), trials=len(choices_of(study))))
    store = TrialStore(TrialJournal(InMemory()), size.name, space=study.space)
    return TrialStoreSearcher(
        store,
        size.name,
        slots=slots,
        suggest_next=lambda: suggest(store, study.seed),
        targets=len(study.targets),
    )


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
    """The study for one seed: with its own default rates, or with the pair of rates that this seed takes."""
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
    """The rates rotated; the first is the default."""
    return rates[index:] + rates[:index]


@dataclass(frozen=True)
class Curve:
    """The progress of a search over training seconds."""

    grid: Grid
    ended: Sequence[Ended]

    def best_at(self, share: float) -> float | None:
        """The best score of a complete trial within a share of the grid's seconds; None if no trial is complete."""
        limit = share * self.grid.total_s * (1 + 1e-9)
        scores = [trial.score for trial in self.ended if trial.score is not None and trial.spent_s <= limit]
        return max(scores, default=None)

    def share_until(self, tolerance: float) -> float | None:
        """The share of the grid's seconds until a score is within the tolerance of the grid's best; None if none ever is."""
        for trial in self.ended:
            if trial.score is not None and trial.score >= self.grid.best - tolerance:
                return trial.spent_s / self.grid.total_s
        return None


def replay(
    grid: Grid, study: Study, contestant: Contestant, *, concurrent: int, trials: int | None = None
) -> list[Ended]:
    """One search with the study's seed: `trials` trials, or until nothing is left to try."""
    with ExitStack() as stack:
        searcher = contestant.searcher(study, stack, concurrent=concurrent)
        limit = len(grid.cells) if trials is None else trials
        return Replay(grid, searcher, contestant.rungs(study), concurrent=concurrent, trials=limit).run()


# --- the command


def main(
    seeds: Seeds = 18,
    output: Output = None,
    workers: Workers = 2,
    concurrent: Concurrent = 2,
    check: Check = True,
    quick: Quick = False,
) -> None:
    """Print tables and one JSON line; exit code 1 if the replay differs from Ray Tune."""
    started = time.perf_counter()
    if quick:
        seeds = min(seeds, 2)
    study = study_of(GridName.ONE_SIZE, quick=quick)
    with ExitStack() as stack:
        folder = output or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        grid = train_grids(study, folder, workers=workers)[size_of(study).name]
    trained_s = elapsed_since(started)
    _show_grid(grid)
    summaries: dict[str, dict[str, Any]] = {}
    for defaults in (ANY, OWN):
        contestants = {
            name: contestant for name, contestant in CONTESTANTS.items() if defaults == ANY or contestant.has_defaults
        }
        summaries[defaults] = {
            name: _summary(
                [
                    Curve(grid, replay(grid, seeded(study, seed, defaults), contestant, concurrent=concurrent))
                    for seed in range(seeds)
                ]
            )
            for name, contestant in contestants.items()
        }
        _show(summaries[defaults], f"{defaults}, {seeds} seeds")
    matches = _matches_tune(grid, study) if check else None
    document = {
        "grid": {
            "choices": len(grid.cells),
            "stages": len(grid.seconds),
            "seconds": round(grid.total_s, 1),
            "best_dev_score": round(grid.best, 3),
            "dev_scores": sorted(round(cell.reports[-1][DEV_SCORE], 2) for cell in grid.cells.values()),
            "best": [dataclasses.asdict(choice) for choice in _best(grid)],
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
    return [choice for choice, cell in grid.cells.items() if cell.reports[-1][DEV_SCORE] == grid.best]


def _summary(curves: Sequence[Curve]) -> dict[str, Any]:
    return {
        "best_dev_score": {
            f"{share:g}": quartiles([curve.best_at(share) for curve in curves], missing=-math.inf) for share in SHARES
        },
        "share_until": {
            f"{tolerance:g}": quartiles([curve.share_until(tolerance) for curve in curves]) for tolerance in TOLERANCES
        },
        "trials": median(len(curve.ended) for curve in curves),
        "stopped_early": median(sum(trial.score is None for trial in curve.ended) for curve in curves),
        "spent": round(median(curve.ended[-1].spent_s / curve.grid.total_s for curve in curves), 3),
    }


def quartiles(values: Sequence[float | None], *, missing: float = math.inf) -> dict[str, Any]:
    """Median and quartiles over seeds by nearest rank; null where one falls on a seed without a value."""
    ordered = sorted(missing if value is None else value for value in values)

    def at(share: float) -> float | None:
        value = ordered[math.ceil(share * len(ordered)) - 1]
        return round(value, 4) if math.isfinite(value) else None

    known = sum(value is not None for value in values)
    return {"median": at(0.5), "quartiles": [at(0.25), at(0.75)], "of": known}


def _show_grid(grid: Grid) -> None:
    scores = sorted((cell.reports[-1][DEV_SCORE] for cell in grid.cells.values()), reverse=True)
    near = {tolerance: sum(score >= scores[0] - tolerance for score in scores) for tolerance in TOLERANCES}
    console.print(
        f"grid: {len(scores)} choices, {len(grid.seconds)} stages, {grid.total_s:.0f} s; dev score {scores[0]:.2f} best, "
        f"{median(scores):.2f} median, {scores[-1]:.2f} worst; within "
        + ", ".join(f"{tolerance:g} of the best: {count}" for tolerance, count in near.items())
    )
    correlations = ", ".join(f"{value:.2f}" for value in grid.rank_correlations())
    console.print(f"rank correlation of the scores after 1, 2, ... targets with the final ones: {correlations}")


def _show(summaries: Mapping[str, Mapping[str, Any]], title: str) -> None:
    shares = [f"best at {share:.0%}" for share in SHARES]
    table = Table("", *shares, *(f"within {tolerance:g}" for tolerance in TOLERANCES), "stopped", "spent")
    table.title = (
        f"{title}: best dev score within a share of the grid's seconds; share until within ... of its best (seeds)"
    )
    table.title_justify = "left"
    for name, summary in summaries.items():
        best = [_cell(quartiles, "{:.1f}") for quartiles in summary["best_dev_score"].values()]
        near = [f"{_cell(quartiles, '{:.0%}')} ({quartiles['of']})" for quartiles in summary["share_until"].values()]
        table.add_row(name, *best, *near, f"{summary['stopped_early']:g}", f"{summary['spent']:.0%}")
    console.print(table)


def _cell(quartiles: Mapping[str, Any], template: str) -> str:
    return "never" if quartiles["median"] is None else template.format(quartiles["median"])


# --- the same search under Ray Tune


def _matches_tune(grid: Grid, study: Study) -> bool:
    """Whether Tune, one trial at a time, runs the same trials as the replay, with the same outcomes."""
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
            Slots({"CPU": 1.0}),
            _silent,
            callbacks=[log],
            trial=read,
        ).search(TrialJournal(InMemory()))
    same = log.ended == [(trial.choice, trial.targets) for trial in simulated]
    console.print(f"Ray Tune ran {len(log.ended)} trials: {'the same as' if same else 'NOT the same as'} the replay")
    return same


def _silent(stage: str, done: int, total: int, loss: float | None) -> None:
    """Progress of a trial that only reads a table: discarded."""


class _Log(tune.Callback):  # type: ignore[misc]
    """Records which choices ended, after how many targets."""

    def __init__(self) -> None:
        self.ended: list[tuple[Choice, int]] = []

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        self.ended.append((choice_of(trial.config), int(trial.last_result[TARGETS_FINISHED])))


if __name__ == "__main__":
    typer.run(main)
