"""Trains every choice of a grid study once, and keeps the table that searches are replayed against.

    python -m tests.benchmarks.grid_table --output DIR [--grid three_sizes] [--seed 11] [--workers 2] [--quick]

`three_sizes` is `micro_grid.front_grid`, 117 choices; `one_size` is `micro_grid.micro_grid` as `search_efficiency` trains it,
75 choices. A stage is trained when it is first needed; the command may be interrupted and continues where it was. It writes
`DIR/grid.json`, which holds for each size and choice the English dev score after each target and the stages behind it, and
the seconds of each stage. Pre-training is free. The last line is one JSON document.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import sys
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from scipy.stats import spearmanr

from study.cluster.connection import WORKER_ENVIRONMENT
from study.search.records import DEV_SCORE, TARGETS_FINISHED
from study.spec import Choice, Study
from tests.benchmarks.micro_grid import (
    FRONT_LENGTHS,
    FRONT_SEED,
    Lengths,
    elapsed_since,
    front_grid,
    micro_grid,
    prepare,
    seconds_of,
    trained_for,
    workplace,
)
from trainables.benchmark.probes.hardware import hardware
from trainables.hyperparameters import Diverged
from trainables.stages.base import Stage
from trainables.stages.chain import run_chain
from trainables.store.atomic import write_text
from trainables.store.stage_store import StageStore
from trainables.store.versions import versions

# Of the grid of one size: the quickstart's rates, and one more for the targets.
LR_INTERMEDIATE, LR_TARGET = (5e-4, 2e-4, 1e-3), (1e-3, 2e-3, 4e-3)
TABLE = "grid.json"

console = Console(highlight=False, width=150)


class GridName(StrEnum):
    ONE_SIZE = "one_size"
    THREE_SIZES = "three_sizes"


@dataclass(frozen=True)
class Cell:
    """A choice's metrics after each target, and the stages that each target needs, in order."""

    reports: tuple[Mapping[str, float], ...]
    needs: tuple[tuple[str, ...], ...]

    @property
    def score(self) -> float:
        """English dev over all targets."""
        return self.reports[-1][DEV_SCORE]


@dataclass(frozen=True)
class Grid:
    """The cells of all choices of one size, and the seconds of every stage behind them."""

    cells: Mapping[Choice, Cell]
    seconds: Mapping[str, float]

    @property
    def total_s(self) -> float:
        return sum(self.seconds.values())

    @property
    def best(self) -> float:
        return max(cell.score for cell in self.cells.values())

    def rank_correlations(self) -> list[float]:
        """Spearman correlation of the scores after each number of targets with the final ones: what ASHA knows at a rung."""
        scores = np.array([[report[DEV_SCORE] for report in cell.reports] for cell in self.cells.values()])
        return [round(float(spearmanr(column, scores[:, -1]).statistic), 3) for column in scores.T]


def study_of(grid: GridName, *, seed: int | None = None, quick: bool = False) -> Study:
    """The study of a grid; `quick` leaves two steps a training and two intermediate choices."""
    lengths = Lengths(2, 2) if quick else None
    if grid is GridName.THREE_SIZES:
        study = front_grid(seed=FRONT_SEED if seed is None else seed, lengths=lengths or FRONT_LENGTHS)
    else:
        study = micro_grid(
            lr_intermediate=LR_INTERMEDIATE, lr_target=LR_TARGET, lengths=lengths or Lengths(), seed=seed or 0
        )
    if quick:
        few = dataclasses.replace(study.space, intermediates=study.space.intermediates[:1])
        study = dataclasses.replace(study, space=few, trials=len(few.grid() or ()))
    return study


def train_grids(study: Study, output: Path, *, workers: int) -> dict[str, Grid]:
    """Train what the store lacks, and return the table of each size.

    Raises:
        RuntimeError: a learning rate of the grid makes training diverge.
    """
    os.environ.update({**WORKER_ENVIRONMENT, "OMP_NUM_THREADS": "1"})  # for the processes that train
    cells: dict[str, dict[Choice, Cell]] = {size.name: {} for size in study.sizes}
    stages: dict[str, Stage] = {}
    keys = [(size.name, choice) for size in study.sizes for choice in study.space_of(size).grid() or ()]
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        pool.submit(prepare, study, output).result()
        console.print(f"{len(keys)} choices to train")
        started = time.perf_counter()
        for number, ((size, choice), reports) in enumerate(
            zip(keys, pool.map(partial(_train, study, output), keys), strict=True), 1
        ):
            needs = []
            for evaluate in study.chain(study.size(size), choice):
                needed = trained_for(evaluate)
                stages |= needed
                needs.append(tuple(reversed(needed)))  # parents first
            cells[size][choice] = Cell(tuple(reports), tuple(needs))
            if number % 10 == 0:
                console.print(f"{number} of {len(keys)} choices after {elapsed_since(started):.0f} s")
    seconds = usual_seconds(seconds_of(StageStore(output), stages), {key: stage.label for key, stage in stages.items()})
    return {size: Grid(of_size, _of_cells(seconds, of_size.values())) for size, of_size in cells.items()}


def usual_seconds(seconds: Mapping[str, float], labels: Mapping[str, str]) -> dict[str, float]:
    """Each stage's seconds as the median of the stages with its label: a size's trainings on a task all take the same steps.

    What the machine did beside the training would otherwise make one choice dear and another cheap.
    """
    by_label: dict[str, list[float]] = {}
    for key, value in seconds.items():
        by_label.setdefault(labels[key], []).append(value)
    return {key: median(by_label[labels[key]]) for key in seconds}


def _of_cells(seconds: Mapping[str, float], cells: Iterable[Cell]) -> dict[str, float]:
    needed = dict.fromkeys(itertools.chain.from_iterable(stages for cell in cells for stages in cell.needs))
    return {key: seconds[key] for key in needed}


def _train(study: Study, output: Path, key: tuple[str, Choice]) -> list[dict[str, float]]:
    size, choice = key
    reports: list[dict[str, float]] = []
    try:
        run_chain(
            study.chain(study.size(size), choice),
            workplace(output),
            lambda metrics: reports.append(
                {name: metrics[name] for name in (DEV_SCORE, TARGETS_FINISHED, "test_score")}
            ),
        )
    except Diverged as error:
        raise RuntimeError(f"{size} {choice}: {error}; remove the learning rate from the grid") from error
    return reports


# --- the table as a file


def write_table(grids: Mapping[str, Grid], path: Path, **context: Any) -> None:
    """Write the grids of a study's sizes; `context` says how they were trained."""
    keys = dict.fromkeys(key for grid in grids.values() for key in grid.seconds)
    numbers = {key: number for number, key in enumerate(keys)}  # shorter than fingerprints
    seconds = {key: value for grid in grids.values() for key, value in grid.seconds.items()}
    table = {
        "context": context,
        "seconds": [round(seconds[key], 3) for key in keys],
        "sizes": {
            size: [
                {
                    "choice": dataclasses.asdict(choice),
                    "reports": [{name: round(value, 4) for name, value in report.items()} for report in cell.reports],
                    "needs": [[numbers[key] for key in needed] for needed in cell.needs],
                }
                for choice, cell in grid.cells.items()
            ]
            for size, grid in grids.items()
        },
    }
    write_text(path, json.dumps(table) + "\n")


def read_table(path: Path) -> dict[str, Grid]:
    """The grids that `write_table` wrote, by size."""
    table = json.loads(path.read_text())
    seconds = {str(number): value for number, value in enumerate(table["seconds"])}
    grids = {}
    for size, entries in table["sizes"].items():
        cells = {
            Choice(**entry["choice"]): Cell(
                tuple(entry["reports"]), tuple(tuple(map(str, needed)) for needed in entry["needs"])
            )
            for entry in entries
        }
        grids[size] = Grid(cells, _of_cells(seconds, cells.values()))
    return grids


def describe(grids: Mapping[str, Grid]) -> dict[str, Any]:
    """By size: choices, seconds, and the distribution of dev scores."""
    return {
        size: {
            "choices": len(grid.cells),
            "stages": len(grid.seconds),
            "seconds": round(grid.total_s, 1),
            "best_dev_score": round(grid.best, 3),
            "dev_scores": sorted(round(cell.score, 2) for cell in grid.cells.values()),
        }
        for size, grid in grids.items()
    }


def main(
    output: Annotated[Path, typer.Option(help="folder of the stages and the table; those in it are reused")],
    grid: Annotated[GridName, typer.Option()] = GridName.THREE_SIZES,
    seed: Annotated[int | None, typer.Option(help="of fine-tuning; by default the grid's own")] = None,
    workers: Annotated[int, typer.Option(min=1, help="processes that train")] = 2,
    quick: Annotated[bool, typer.Option("--quick", help="two steps a training, two intermediate choices")] = False,
) -> None:
    """Train a grid, write its table and print one JSON line."""
    started = time.perf_counter()
    study = study_of(grid, seed=seed, quick=quick)
    grids = train_grids(study, output, workers=workers)
    context = {
        "study": study.name,
        "seed": study.seed,
        "steps": {"intermediate": study.intermediate_tuning.steps, "target": study.tuning.steps},
        "precision": study.tuning.precision,
        "wall_s": elapsed_since(started),
        "load_average": os.getloadavg(),
        "hardware": hardware().as_dict(),
        "versions": versions(),
        "command": " ".join(["python", "-m", "tests.benchmarks.grid_table", *sys.argv[1:]]),
    }
    write_table(grids, output / TABLE, **context)
    print(json.dumps({"table": str(output / TABLE), "sizes": describe(grids), **context}))


if __name__ == "__main__":
    typer.run(main)
