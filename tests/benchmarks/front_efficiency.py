"""How much training does a search take to find the front of accuracy against speed over several sizes?

    python -m tests.benchmarks.front_efficiency GRID.json [--grid three_sizes] [--seeds 18]

Searches are replayed against a table that `grid_table` trained. Only the clock is simulated: `--concurrent` trials run at a
time, a stage costs its seconds when it is first needed and nothing afterwards, and a trial that needs a stage which another one
is training waits for it. No choice runs twice. Sizes stand at the p50 that the published quickstart measured.

   front            the study's `allocation="front"`: `study.search.front.Turns`, and ASHA inside each size
   equal budgets    the study's default: TPE and ASHA inside each size, the sizes in turn
   random           all sizes' choices in a random order, none stopped
   TPE              Optuna's multi-objective TPE over size and choice, which can stop no trial
   ASHA, sum        a random order, stopped by ASHA over all sizes on the equally weighted sum of accuracy and speed, each
                    scaled to the range from the reference point to the best of the grid
   MO-ASHA          the same order, stopped by Syne Tune's MOASHA with non-dominated sorting of score and latency
                    (Schmucker et al. 2021, arXiv:2106.12639); where it is installed: `pip install --no-deps syne-tune`

The front is of English dev scores of complete trials, its area measured as in `study.search.front.hypervolume`. Reported are
the share of the grid's seconds until the area is within 1% of the whole grid's, the area that is missing at some shares (the
regret), its mean over the first quarter (hypervolume per training second), and the share until the best score of all is found.
Figures are medians with quartiles over seeds. A seed changes searchers, orders and which rates are the defaults, not the table.
What a trial costs is known to the searches as it is in the table; a study learns it from its first default cells.
The last line is one JSON document.
"""

from __future__ import annotations

import dataclasses
import heapq
import importlib
import importlib.util
import itertools
import json
import math
import os
import random
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Protocol

import optuna
import typer
from rich.console import Console
from rich.table import Table

from study.search.asha import Rungs
from study.search.front.hypervolume import BEYOND_SLOWEST, hypervolume
from study.search.front.posterior import Point
from study.search.front.turns import Turns, chance_of
from study.search.journal import TrialJournal
from study.search.records import DEV_SCORE, TrialOutcome
from study.search.suggestions import suggest
from study.search.trial_store import TrialStore, distributions
from study.spec import Choice, Study
from tests.benchmarks.grid_table import Grid, GridName, read_table, study_of
from tests.benchmarks.micro_grid import elapsed_since
from tests.benchmarks.search_efficiency import InMemory, quartiles
from trainables.benchmark.probes.hardware import hardware
from trainables.store.versions import versions

MEASURED = Path(__file__).parents[2] / "docs" / "measured" / "quickstart" / "run.json"
SHARES = (0.1, 0.25, 0.5)  # of the grid's training seconds
WITHIN = 0.01  # of the whole grid's area
OURS = "front"

console = Console(highlight=False, width=150)


@dataclass(frozen=True)
class Task:
    """What is searched: a study, the table of each of its sizes, and where the sizes stand by speed."""

    study: Study
    grids: Mapping[str, Grid]
    positions: Mapping[str, float]

    @property
    def chance(self) -> float:
        return chance_of(self.study)

    @property
    def total_s(self) -> float:
        return sum(grid.total_s for grid in self.grids.values())

    @property
    def points(self) -> list[Point]:
        return [Point(size, choice) for size, grid in self.grids.items() for choice in grid.cells]

    def area(self, scores: Mapping[str, float]) -> float:
        return hypervolume(scores, self.positions, chance=self.chance)

    @property
    def best_area(self) -> float:
        return self.area({size: grid.best for size, grid in self.grids.items()})


class Search(Protocol):
    """What decides in a replay."""

    def next(self) -> Point | None: ...

    def stops(self, trial: str, point: Point, *, targets_finished: int, score: float) -> bool: ...


@dataclass(frozen=True)
class Ended:
    """A trial that ended: the training seconds spent by then, and its score unless it was stopped."""

    point: Point
    spent_s: float
    score: float | None


@dataclass
class Replay:
    """A search on a simulated clock. The trial stores are the truth, as in a study."""

    task: Task
    build: Callable[[Replay], Search]
    concurrent: int
    spent_s: float = 0.0
    ended: list[Ended] = field(default_factory=list)
    stores: dict[str, TrialStore] = field(init=False)
    _ready: dict[tuple[str, str], float] = field(default_factory=dict)  # when a started stage of a size finishes
    _events: list[tuple[float, int, Point, int, int]] = field(default_factory=list)
    _started: int = 0

    def __post_init__(self) -> None:
        journal, study = TrialJournal(InMemory()), self.task.study
        self.stores = {size.name: TrialStore(journal, size.name, space=study.space_of(size)) for size in study.sizes}

    def seconds(self, size: str, choice: Choice) -> float:
        """What the choice still has to train."""
        grid = self.task.grids[size]
        needed = dict.fromkeys(itertools.chain.from_iterable(grid.cells[choice].needs))
        return sum(grid.seconds[stage] for stage in needed if (size, stage) not in self._ready)

    def run(self) -> list[Ended]:
        """Run until nothing is left that the search would try."""
        search = self.build(self)
        self._fill(search, 0.0)
        while self._events:
            now, _, point, number, finished = heapq.heappop(self._events)
            if self._report(search, point, number, finished):
                self._advance(point, number, finished, now)
            else:
                self._fill(search, now)
        return self.ended

    def _fill(self, search: Search, now: float) -> None:
        while sum(len(store.unfinished) for store in self.stores.values()) < self.concurrent:
            if (point := search.next()) is None:
                return
            self._advance(point, self.stores[point.size].start(point.choice), 0, now)

    def _advance(self, point: Point, number: int, finished: int, now: float) -> None:
        """Train for the next target; its report is due when its stages are finished."""
        grid = self.task.grids[point.size]
        for stage in grid.cells[point.choice].needs[finished]:
            key = point.size, stage
            if key not in self._ready:
                self.spent_s += grid.seconds[stage]
                self._ready[key] = now + grid.seconds[stage]
            now = max(now, self._ready[key])
        self._started += 1
        heapq.heappush(self._events, (now, self._started, point, number, finished + 1))

    def _report(self, search: Search, point: Point, number: int, finished: int) -> bool:
        """Report a target; returns whether the trial continues."""
        store, reports = self.stores[point.size], self.task.grids[point.size].cells[point.choice].reports
        score = reports[finished - 1][DEV_SCORE]
        store.report(number, finished, score=score)
        stopped = search.stops(f"{point.size} {number}", point, targets_finished=finished, score=score)
        if finished < len(reports) and not stopped:
            return True
        complete = finished == len(reports)
        outcome = TrialOutcome.COMPLETE if complete else TrialOutcome.STOPPED_EARLY
        store.finish(number, outcome, metrics={DEV_SCORE: score})
        self.ended.append(Ended(point, self.spent_s, score if complete else None))
        return False


# --- contestants


class InEachSize:
    """ASHA inside each size, as in a study."""

    def __init__(self, replay: Replay) -> None:
        study = replay.task.study
        self._rungs = {size.name: Rungs(study, exempt=study.space_of(size).is_default) for size in study.sizes}

    def stops(self, trial: str, point: Point, *, targets_finished: int, score: float) -> bool:
        return self._rungs[point.size].stops(trial, point.choice, targets_finished=targets_finished, score=score)


class Front(InEachSize):
    def __init__(self, replay: Replay) -> None:
        super().__init__(replay)
        task = replay.task
        self._turns = Turns(task.study, replay.stores, positions=task.positions, seconds=lambda: replay.seconds)

    def next(self) -> Point | None:
        return self._turns.decision().next


class EqualBudgets(InEachSize):
    def __init__(self, replay: Replay) -> None:
        super().__init__(replay)
        self._stores, self._seed = replay.stores, replay.task.study.seed

    def next(self) -> Point | None:
        for name, store in sorted(self._stores.items(), key=lambda entry: entry[1].started):
            if (choice := suggest(store, self._seed)) is not None:
                return Point(name, choice)
        return None


class RandomOrder:
    def __init__(self, replay: Replay) -> None:
        self._points = iter(_shuffled(replay.task))

    def next(self) -> Point | None:
        return next(self._points, None)

    def stops(self, trial: str, point: Point, *, targets_finished: int, score: float) -> bool:
        return False


class WeightedSum(RandomOrder):
    def __init__(self, replay: Replay) -> None:
        super().__init__(replay)
        self._task = replay.task
        self._rungs = Rungs(replay.task.study, exempt=lambda choice: False)

    def stops(self, trial: str, point: Point, *, targets_finished: int, score: float) -> bool:
        task, best = self._task, max(grid.best for grid in self._task.grids.values())
        fastest, slowest = min(task.positions.values()), max(task.positions.values()) + BEYOND_SLOWEST
        accuracy = (score - task.chance) / (best - task.chance)
        speed = (slowest - task.positions[point.size]) / (slowest - fastest)
        return self._rungs.stops(trial, point.choice, targets_finished=targets_finished, score=50 * (accuracy + speed))


class MoAsha(RandomOrder):
    """Syne Tune's scheduler, which minimises."""

    def __init__(self, replay: Replay) -> None:
        super().__init__(replay)
        scheduler = importlib.import_module("syne_tune.optimizer.schedulers.multiobjective.moasha")
        self._trial = importlib.import_module("syne_tune.backend.trial_status").Trial
        self._task, self._trials = replay.task, dict[str, Any]()
        self._scheduler = scheduler.MOASHA(
            {},
            metrics=["error", "position"],
            time_attr="targets_finished",
            max_t=len(replay.task.study.targets) + 1,
            grace_period=replay.task.study.first_rung,
            reduction_factor=replay.task.study.reduction_factor,
            random_seed=replay.task.study.seed,
        )

    def stops(self, trial: str, point: Point, *, targets_finished: int, score: float) -> bool:
        if trial not in self._trials:
            self._trials[trial] = self._trial(len(self._trials), {}, datetime.now())
            self._scheduler.on_trial_add(self._trials[trial])
        position = self._task.positions[point.size]
        result = {"error": -score, "position": position, "targets_finished": targets_finished}
        return bool(self._scheduler.on_trial_result(self._trials[trial], result) == "STOP")


class MultiObjectiveTpe:
    """Optuna alone: both objectives, size and choice as parameters. A choice that was tried is told and drawn again."""

    def __init__(self, replay: Replay) -> None:
        self._replay, self._order = replay, _shuffled(replay.task)
        self._trials: dict[Point, optuna.Trial] = {}
        self._told = 0
        sampler = optuna.samplers.TPESampler(
            seed=replay.task.study.seed, multivariate=True, group=True, constant_liar=True
        )
        self._study = optuna.create_study(directions=("maximize", "minimize"), sampler=sampler)

    def next(self) -> Point | None:
        for trial in self._replay.ended[self._told :]:
            values = (trial.score or 0.0, self._replay.task.positions[trial.point.size])
            self._study.tell(self._trials[trial.point], values)
        self._told = len(self._replay.ended)
        for _ in range(5):
            trial = self._study.ask()
            if (point := self._drawn(trial)) not in self._trials:
                break
            self._study.tell(trial, state=optuna.trial.TrialState.FAIL)
        else:  # it keeps to what it knows
            if (point := next((point for point in self._order if point not in self._trials), None)) is None:  # type: ignore[assignment]
                return None
            self._study.enqueue_trial(_parameters(point))
            trial = self._study.ask()
            self._drawn(trial)
        self._trials[point] = trial
        return point

    def _drawn(self, trial: optuna.Trial) -> Point:
        study = self._replay.task.study
        size = trial.suggest_categorical("size", [size.name for size in study.sizes])
        name = trial.suggest_categorical("intermediate", study.space.names)
        values: dict[str, Any] = {"lr_intermediate": None}
        for parameter, distribution in distributions(study.space, Choice(name, None, 1.0)).items():
            values[parameter] = trial.suggest_categorical(parameter, distribution.choices)
        return Point(size, Choice(**values))

    def stops(self, trial: str, point: Point, *, targets_finished: int, score: float) -> bool:
        return False


def _parameters(point: Point) -> dict[str, Any]:
    values = dataclasses.asdict(point.choice)
    kept = ("intermediate", "lr_target", *(("lr_intermediate",) if point.choice.lr_intermediate else ()))
    return {"size": point.size, **{name: values[name] for name in kept}}


def _shuffled(task: Task) -> list[Point]:
    points = task.points
    random.Random(task.study.seed).shuffle(points)
    return points


CONTESTANTS: dict[str, Callable[[Replay], Search]] = {
    OURS: Front,
    "equal budgets": EqualBudgets,
    "random": RandomOrder,
    "TPE": MultiObjectiveTpe,
    "ASHA, sum": WeightedSum,
}
if importlib.util.find_spec("syne_tune") is not None:
    CONTESTANTS["MO-ASHA"] = MoAsha


# --- what a replay shows


@dataclass(frozen=True)
class Curve:
    """The progress of a search over training seconds."""

    task: Task
    ended: list[Ended]

    def steps(self) -> Iterator[tuple[float, float]]:
        """The share of the grid's seconds, and the share of its area from then on."""
        best: dict[str, float] = {}
        for trial in self.ended:
            if trial.score is not None:
                best[trial.point.size] = max(trial.score, best.get(trial.point.size, 0.0))
                yield trial.spent_s / self.task.total_s, self.task.area(best) / self.task.best_area

    def missing_at(self, share: float) -> float:
        """The share of the grid's area that is not found within a share of its seconds."""
        return 1 - max((area for spent, area in self.steps() if spent <= share * (1 + 1e-9)), default=0.0)

    def share_until(self, within: float) -> float | None:
        """The share of the grid's seconds until the area is within a share of the grid's; None if it never is."""
        return next((spent for spent, area in self.steps() if area >= 1 - within - 1e-9), None)

    def mean_area(self, until: float) -> float:
        """The mean share of the area over the first seconds."""
        steps = [(0.0, 0.0), *(step for step in self.steps() if step[0] < until), (until, 0.0)]
        return sum((after[0] - before[0]) * before[1] for before, after in itertools.pairwise(steps)) / until

    def share_until_best(self) -> float | None:
        """The share of the grid's seconds until the best score of all sizes is found."""
        best = max(grid.best for grid in self.task.grids.values())
        return next((trial.spent_s / self.task.total_s for trial in self.ended if trial.score == best), None)

    @property
    def spent(self) -> float:
        return self.ended[-1].spent_s / self.task.total_s


def seeded(task: Task, seed: int) -> Task:
    """The task for one seed, which also takes another pair of rates as the defaults."""
    space = task.study.space
    assert isinstance(space.lr_intermediate, tuple)
    assert isinstance(space.lr_target, tuple)
    pairs = list(itertools.product(range(len(space.lr_target)), range(len(space.lr_intermediate))))
    target, intermediate = pairs[seed % len(pairs)]
    rotated = dataclasses.replace(
        space,
        lr_target=space.lr_target[target:] + space.lr_target[:target],
        lr_intermediate=space.lr_intermediate[intermediate:] + space.lr_intermediate[:intermediate],
    )
    return dataclasses.replace(task, study=dataclasses.replace(task.study, seed=seed, space=rotated))


def summary(curves: list[Curve]) -> dict[str, Any]:
    return {
        "share_until_front": quartiles([curve.share_until(WITHIN) for curve in curves]),
        "missing_area": {f"{share:g}": quartiles([curve.missing_at(share) for curve in curves]) for share in SHARES},
        "mean_area_of_first_quarter": quartiles([curve.mean_area(0.25) for curve in curves]),
        "share_until_best_score": quartiles([curve.share_until_best() for curve in curves]),
        "spent": quartiles([curve.spent for curve in curves]),
    }


def measured_positions() -> dict[str, float]:
    """Log p50 in ms of the fastest variant of each size of the published quickstart."""
    sizes = json.loads(MEASURED.read_text())["sizes"]
    return {size["name"]: math.log(min(bench["p50_ms"] for bench in size["bench"])) for size in sizes}


def main(
    table: Annotated[Path, typer.Argument(help="grid.json of `grid_table`")],
    grid: Annotated[GridName, typer.Option()] = GridName.THREE_SIZES,
    seeds: Annotated[int, typer.Option(min=1)] = 18,
    concurrent: Annotated[int, typer.Option(min=1, help="concurrent trials in the replay")] = 2,
) -> None:
    """Print a table and one JSON line."""
    started = time.perf_counter()
    grids, study = read_table(table), study_of(grid)
    study = dataclasses.replace(study, sizes=tuple(size for size in study.sizes if size.name in grids))
    measured = measured_positions()
    task = Task(study, grids, {size: measured[size] for size in grids})
    summaries = {}
    for name, build in CONTESTANTS.items():
        curves = []
        for seed in range(seeds):
            own = seeded(task, seed)
            curves.append(Curve(own, Replay(own, build, concurrent).run()))
        summaries[name] = summary(curves)
        console.print(f"{name}: {seeds} searches replayed after {elapsed_since(started):.0f} s")
    _show(summaries, f"{table.name}, {seeds} seeds: shares of the grid's {task.total_s:.0f} training seconds")
    document = {
        "searches": summaries,
        "seeds": seeds,
        "concurrent": concurrent,
        "positions": task.positions,
        "chance": task.chance,
        "grid": {
            "seconds": round(task.total_s, 1),
            "area": round(task.best_area, 4),
            "best": {size: grid.best for size, grid in grids.items()},
            "trained": json.loads(table.read_text())["context"],
        },
        "wall_s": elapsed_since(started),
        "load_average": os.getloadavg(),
        "hardware": hardware().as_dict(),
        "versions": versions(),
        "command": " ".join(["python", "-m", "tests.benchmarks.front_efficiency", *sys.argv[1:]]),
    }
    print(json.dumps(document))


def _show(summaries: Mapping[str, Mapping[str, Any]], title: str) -> None:
    missing = [f"missing at {share:.0%}" for share in SHARES]
    table = Table("", "front within 1%", *missing, "mean area to 25%", "best score", "spent", title=title)
    for name, entry in summaries.items():
        table.add_row(
            name,
            _cell(entry["share_until_front"]),
            *(_cell(quartile, "{:.1%}") for quartile in entry["missing_area"].values()),
            _cell(entry["mean_area_of_first_quarter"], "{:.1%}"),
            _cell(entry["share_until_best_score"]),
            _cell(entry["spent"]),
        )
    console.print(table)


def _cell(entry: Mapping[str, Any], template: str = "{:.0%}") -> str:
    """Median, quartiles, and of how many seeds."""
    values = [entry["median"], *entry["quartiles"]]
    middle, low, high = ("never" if value is None else template.format(value) for value in values)
    return f"{middle} [{low}, {high}] ({entry['of']})"


if __name__ == "__main__":
    typer.run(main)
