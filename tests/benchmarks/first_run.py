"""What does a newcomer's first quarter of an hour look like? Install, run the quickstart, and read what it shows.

    python -m tests.benchmarks.first_run [--environment .venv] [--seeds 3] [--quick]

1. `install_s`: a clean clone of this checkout's commit, and `make` of its environment (pip's cache is as this machine has it).
   With `--environment`, that one is used and nothing is installed.
2. `run_s`, `peak_memory_mb`, `front_points`: `python -m study run quickstart` there, as the run prints them. `front_points` are
   the configurations that nothing measured beats in both score and p50 latency.
3. Over seeds of fine-tuning, in this process: every size of the quickstart without an intermediate task and with each that it
   tries, at the default rates. `monotone`: without one, each size's mean score (over targets, without English) exceeds that of
   the next smaller one by more than the standard deviation over seeds of either. `above_chance`: targets whose mean over seeds
   the two larger sizes score above chance. `gain_beyond_interval`: (size, intermediate task, target) whose 95% t-interval of
   the gain over seeds is above 0; it is of one cell each, not corrected for their number.

The last line is one JSON document.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from statistics import mean, stdev
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from scipy import stats

from study.recipes.quickstart import quickstart
from study.spec import NONE, Study
from tests.benchmarks.micro_grid import elapsed_since, workplace
from tests.support.commands import ROOT
from trainables.benchmark.probes.hardware import hardware
from trainables.stages.chain import run_chain
from trainables.store.versions import versions

PREFIXES = ("test_without_english", "chance")  # of the metrics that a cell keeps

console = Console(highlight=False, width=128)

Output = Annotated[
    Path | None, typer.Option(help="where the quickstart's output folder is kept; it must not exist yet")
]
Environment = Annotated[Path | None, typer.Option(help="a virtual environment to use; nothing is installed")]
Seeds = Annotated[int, typer.Option(min=2, help="seeds of fine-tuning for the findings")]
SeedsOnly = Annotated[bool, typer.Option("--seeds-only", help="no quickstart: only the findings over seeds")]
Quick = Annotated[bool, typer.Option("--quick", help="this environment, a small recipe, two steps of two seeds")]


@dataclass(frozen=True)
class Cell:
    """The mean test score without English by target, and chance, of one choice of a size with one seed."""

    size: str
    intermediate: str
    seed: int
    scores: Mapping[str, float]
    chances: Mapping[str, float]

    @property
    def mean(self) -> float:
        return mean(self.scores.values())


def main(
    environment: Environment = None,
    output: Output = None,
    seeds: Seeds = 3,
    seeds_only: SeedsOnly = False,
    quick: Quick = False,
) -> None:
    """Print tables and one JSON line."""
    started = time.perf_counter()
    recipe = "quickstart"
    if quick:
        environment, seeds, recipe = Path(sys.prefix), 2, "tests/support/recipes.py:inline"
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        of_run = {} if seeds_only else _first_run(recipe, environment, folder, output=output)
        cells = _cells(folder / "stages", seeds, quick=quick)
    sizes = [size.name for size in quickstart().sizes]
    gained = _gains(cells)
    _show(cells, gained)
    print(
        json.dumps(
            {
                **of_run,
                "monotone": _monotone(cells, sizes),
                "above_chance": _above_chance(cells, sizes[1:]),
                "gain_beyond_interval": [list(key) for key, (_, low, _) in gained.items() if low > 0],
                "gains": {" ".join(key): [round(value, 2) for value in interval] for key, interval in gained.items()},
                "mean_scores": {
                    size: [round(cell.mean, 2) for cell in cells if (cell.size, cell.intermediate) == (size, NONE)]
                    for size in sizes
                },
                "seeds": seeds,
                "load_average": os.getloadavg(),
                "wall_s": elapsed_since(started),
                "hardware": hardware().as_dict(),
                "versions": versions(),
                "command": " ".join(["python", "-m", "tests.benchmarks.first_run", *sys.argv[1:]]),
            }
        )
    )


def _first_run(recipe: str, environment: Path | None, folder: Path, *, output: Path | None) -> dict[str, Any]:
    """What the installation and the run measured."""
    root, python, install_s = _installed(folder, environment)
    run = _run(root, python, recipe, (output or folder / "out").absolute())
    console.print(f"{recipe}: {run['wall_s']:.0f} s, {run['peak_memory_mb'] / 1000:.1f} GB")
    return {
        "install_s": install_s,
        "run_s": run["wall_s"],
        "peak_memory_mb": run["peak_memory_mb"],
        "front_points": len(run["pareto"]),
        "phases_s": run["seconds"],
        "front": run["pareto"],
    }


def _installed(folder: Path, environment: Path | None) -> tuple[Path, Path, float | None]:
    """The checkout and the Python to run it with, and the seconds that both took to set up; None if nothing was installed."""
    if environment is not None:
        return ROOT, environment.absolute() / "bin" / "python", None
    start = time.perf_counter()
    clone = folder / "clone"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
    with open(folder / "install.log", "w") as log:
        subprocess.run(["make", ".venv/.ready"], cwd=clone, check=True, stdout=log, stderr=log)
    seconds = elapsed_since(start)
    console.print(f"clone and environment: {seconds:.0f} s")
    return clone, clone / ".venv" / "bin" / "python", seconds


def _run(root: Path, python: Path, recipe: str, output: Path) -> dict[str, Any]:
    """The document that `study run` prints last."""
    command = [str(python), "-m", "study", "run", recipe, "--output", str(output)]
    start = time.perf_counter()
    done = subprocess.run(command, cwd=root, stdout=subprocess.PIPE, text=True, check=True)
    document: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return {**document, "wall_s": elapsed_since(start)}


def _cells(store: Path, seeds: int, *, quick: bool) -> list[Cell]:
    names = [size.name for size in quickstart().sizes]
    jobs = [(seed, name) for seed in range(seeds) for name in reversed(names)]
    os.environ["OMP_NUM_THREADS"] = "1"  # for the processes that train
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), get_context("spawn")) as pool:
        return [cell for cells in pool.map(partial(_trained, store, quick), jobs) for cell in cells]


def _trained(store: Path, quick: bool, job: tuple[int, str]) -> list[Cell]:
    seed, name = job
    study = _shortened(quickstart(seed)) if quick else quickstart(seed)
    size = study.size(name)
    cells = []
    for choice in study.space_of(size).defaults():
        metrics: dict[str, Any] = {}
        run_chain(study.chain(size, choice), workplace(store), metrics.update)
        scores, chances = (
            {task.name: metrics[f"{prefix}/{task.name}"] for task in study.targets} for prefix in PREFIXES
        )
        cells.append(Cell(name, choice.intermediate, seed, scores, chances))
    return cells


def _shortened(study: Study) -> Study:
    tuning, intermediate = (
        replace(training, steps=2, batch_size=4) for training in (study.tuning, study.intermediate_tuning)
    )
    return replace(study, tuning=tuning, intermediate_tuning=intermediate)


def _monotone(cells: Sequence[Cell], sizes: Sequence[str]) -> bool:
    """Whether each size's mean exceeds that of the next smaller one by more than the standard deviation of either."""
    scores = [[cell.mean for cell in cells if (cell.size, cell.intermediate) == (size, NONE)] for size in sizes]
    return all(mean(large) - mean(small) > max(map(stdev, (small, large))) for small, large in pairwise(scores))


def _above_chance(cells: Sequence[Cell], sizes: Sequence[str]) -> list[str]:
    """Targets that each of these sizes scores above chance without an intermediate task, in the mean over seeds."""
    baseline = {size: [cell for cell in cells if (cell.size, cell.intermediate) == (size, NONE)] for size in sizes}
    return [
        target
        for target in cells[0].scores
        if all(mean(c.scores[target] for c in of_size) > of_size[0].chances[target] for of_size in baseline.values())
    ]


def _gains(cells: Sequence[Cell]) -> dict[tuple[str, str, str], tuple[float, float, float]]:
    """By size, intermediate task and target: the mean gain over seeds, and the ends of its 95% t-interval."""
    scores = {(cell.size, cell.intermediate, cell.seed): cell.scores for cell in cells}
    seeds = sorted({cell.seed for cell in cells})
    intervals = {}
    for size, intermediate in dict.fromkeys((cell.size, cell.intermediate) for cell in cells):
        for target in cells[0].scores:
            differences = [
                scores[size, intermediate, seed][target] - scores[size, NONE, seed][target] for seed in seeds
            ]
            if intermediate != NONE and len(differences) > 1:
                half = float(stats.t.ppf(0.975, len(seeds) - 1)) * stdev(differences) / len(seeds) ** 0.5
                gain = mean(differences)
                intervals[size, intermediate, target] = (gain, gain - half, gain + half)
    return intervals


def _show(cells: Sequence[Cell], gained: Mapping[tuple[str, str, str], tuple[float, float, float]]) -> None:
    targets = list(cells[0].scores)
    table = Table("size", "intermediate", *targets, "mean")
    table.title = "mean over seeds, and the difference from none where it is beyond its interval"
    for size, intermediate in dict.fromkeys((cell.size, cell.intermediate) for cell in cells):
        of_choice = [cell for cell in cells if (cell.size, cell.intermediate) == (size, intermediate)]
        shown = []
        for target in targets:
            gain, low, high = gained.get((size, intermediate, target), (0.0, 0.0, 0.0))
            beyond = f" ({gain:+.1f})" if low > 0 or high < 0 else ""
            shown.append(f"{mean(cell.scores[target] for cell in of_choice):.1f}{beyond}")
        table.add_row(size, intermediate, *shown, f"{mean(cell.mean for cell in of_choice):.1f}")
    console.print(table)


if __name__ == "__main__":
    typer.run(main)
