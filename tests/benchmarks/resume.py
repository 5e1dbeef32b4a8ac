"""What does the same command cost on a finished study?

    python -m tests.benchmarks.resume [--recipe quickstart] [--output runs/quickstart] [--rounds 5] [--quick]

A study is run once, or is finished in `--output` already. Two commands then take turns: the same command again, and a process
that only imports what the command imports. The difference is the cost of resuming: reading the state of every search, looking
for what MLflow lacks, and writing the report. The time of the first run is reported too. Each command is a new process; a first
one that does not count fills the page cache. Seconds are medians, with their range.

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
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from tests.benchmarks.micro_grid import elapsed_since, spread
from trainables.benchmark.probes.hardware import hardware
from trainables.store.versions import versions

RESUME, IMPORTS = "resume", "imports alone"
# What `study run` imports before it looks at the output folder.
IMPORTING = "import study.cli.app, study.run.driver"

console = Console(highlight=False, width=128)

Recipe = Annotated[str, typer.Option(help="a recipe, as `study run` takes it")]
Output = Annotated[Path | None, typer.Option(help="the study's output folder; it is kept")]
Rounds = Annotated[int, typer.Option(min=1, help="how many times each command runs")]
Quick = Annotated[bool, typer.Option("--quick", help="a small recipe, one round")]


def main(recipe: Recipe = "quickstart", output: Output = None, rounds: Rounds = 5, quick: Quick = False) -> None:
    """Print a table and one JSON line."""
    started = time.perf_counter()
    if quick:
        recipe, rounds = "tests/support/recipes.py:inline", 1
    with ExitStack() as stack:
        folder = output or Path(stack.enter_context(tempfile.TemporaryDirectory())) / "out"
        existed = folder.exists()
        study = ["-m", "study", "run", recipe, "--output", str(folder)]
        first_s, _ = _timed(study)
        console.print(f"{recipe}: {'resumed' if existed else 'run'} in {first_s:.1f} s")
        commands = {RESUME: study, IMPORTS: ["-c", IMPORTING]}
        for command in commands.values():
            _timed(command)
        seconds: dict[str, list[float]] = {name: [] for name in commands}
        inside: list[float] = []
        for turn in range(rounds):
            for name in commands if turn % 2 == 0 else reversed(commands):
                duration_s, last_line = _timed(commands[name])
                seconds[name].append(duration_s)
                if name == RESUME:
                    document = json.loads(last_line)
                    inside.append(float(document["wall_s"]))
    above = [resume - imports for resume, imports in zip(seconds[RESUME], seconds[IMPORTS], strict=True)]
    _show(seconds, above)
    trials = sum(size["trials"] for size in document["sizes"])
    console.print(
        f"{trials} trials in {len(document['sizes'])} sizes; the command itself reports {median(inside):.1f} s"
    )
    print(
        json.dumps(
            _document(seconds, above, inside)
            | {
                "first_run_s": None if existed else round(first_s, 1),
                "recipe": recipe,
                "trials": trials,
                "phases_s": document["seconds"],
                "rounds": rounds,
                "load_average": os.getloadavg(),
                "wall_s": elapsed_since(started),
                "hardware": hardware().as_dict(),
                "versions": versions(),
                "command": " ".join(["python", "-m", "tests.benchmarks.resume", *sys.argv[1:]]),
            }
        )
    )


def _timed(arguments: Sequence[str]) -> tuple[float, str]:
    """Seconds of a Python process, and the last line of its standard output.

    Raises:
        RuntimeError: the process failed.
    """
    start = time.perf_counter()
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True)
    duration_s = time.perf_counter() - start
    if done.returncode:
        raise RuntimeError(f"{' '.join(arguments)}: exit code {done.returncode}: {done.stderr[-2000:]}")
    return duration_s, (done.stdout.strip().splitlines() or [""])[-1]


def _document(
    seconds: Mapping[str, Sequence[float]], above: Sequence[float], inside: Sequence[float]
) -> dict[str, Any]:
    return {
        "resume_s": round(median(seconds[RESUME]), 2),
        "imports_s": round(median(seconds[IMPORTS]), 2),
        "above_imports_s": round(median(above), 2),
        "resume_over_imports": round(median(seconds[RESUME]) / median(seconds[IMPORTS]), 3),
        "command_clock_s": round(median(inside), 2),
        "spreads": {
            "resume_s": spread(seconds[RESUME], 2),
            "imports_s": spread(seconds[IMPORTS], 2),
            "above_imports_s": spread(above, 2),
        },
    }


def _show(seconds: Mapping[str, Sequence[float]], above: Sequence[float]) -> None:
    table = Table("", "s", "range")
    for name, values in {**seconds, "above imports": above}.items():
        low, high = spread(values, 2)
        table.add_row(name, f"{median(values):.2f}", f"{low:.2f} to {high:.2f}")
    console.print(table)


if __name__ == "__main__":
    typer.run(main)
