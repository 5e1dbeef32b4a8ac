"""How much training does sharing stages save, and does it change a score?

    python -m tests.benchmarks.shared_stages [--steps 40] [--workers 2] [--quick]

The grid of `micro_grid`: nine intermediate choices by five targets (one of which is scored without training), with one and with
two learning rates for the targets.

1. shared: trials as the study runs them, chain by chain over one stage store.
2. naive: each (intermediate, target) pair as a separate run that trains the intermediate task, then the target, and scores it,
   in a store with only the encoder. Separate fine-tuning scripts work through a grid in this way: an encoder is downloaded
   once, and everything else is done for each pair. A learning rate is not repeated for a target that
   is not trained.

Another way of counting is computed from the same seconds. `by_trial`: runs that keep the intermediate checkpoint for their own
five targets and share nothing with other runs.

Seconds are those of the stages' manifests. `train_seconds_ratio` counts intermediate and target trainings only;
`stage_seconds_ratio` also tokenising and scoring. What sharing can save follows from counting: with trainings of equal length
the grid has 40 + 36 of them naive and 8 + 36 shared, a ratio of 1.7; longer intermediate trainings raise it. So the lengths are
reported, and `by_length` extrapolates the measured seconds to longer intermediate trainings.

Both sides run in the same processes (one thread each), choice by choice, and take turns at being first. The scores of every
pair, English dev and test in all languages, must be identical to the last bit, and so must the weights (by sha256).

Goal: 3 times or better. The last line is one JSON document.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from study.cluster.connection import WORKER_ENVIRONMENT
from study.spec import Choice, Study
from tests.benchmarks.micro_grid import (
    Lengths,
    elapsed_since,
    micro_grid,
    prepare,
    seconds_of,
    size_of,
    spread,
    trained_for,
    trains,
    workplace,
)
from trainables.benchmark.probes.hardware import hardware
from trainables.stages.base import Stage, ensure
from trainables.stages.evaluate import Evaluate
from trainables.store.fingerprint import fingerprint
from trainables.store.stage_store import StageStore
from trainables.store.versions import versions

LR_INTERMEDIATE, LR_TARGET = (5e-4,), (1e-3, 2e-3)  # the quickstart's
LONGER = (1.0, 2.0, 4.0, 8.0)  # lengths of intermediate trainings, as multiples of the measured one
GOAL = 3.0

console = Console(highlight=False, width=128)

Steps = Annotated[int, typer.Option(min=1, help="steps of a target training")]
IntermediateSteps = Annotated[
    int | None, typer.Option(min=1, help="steps of an intermediate training; by default --steps")
]
Workers = Annotated[int, typer.Option(min=1, help="processes that train")]
Quick = Annotated[bool, typer.Option("--quick", help="two choices, a few steps")]


@dataclass(frozen=True)
class Run:
    """A scored pair: seconds of its stages by fingerprint, scores and weights."""

    seconds: Mapping[str, float]
    scores: Mapping[str, Any]
    weights: Mapping[str, str]  # sha256 by file, of every stage


@dataclass(frozen=True)
class Pair:
    """One evaluation of the grid, run both ways. `trainings` and `intermediates` are fingerprints of its stages."""

    intermediate: str
    target: str
    first_rate: bool
    trainings: tuple[str, ...]
    intermediates: tuple[str, ...]
    naive: Run
    shared: Run

    @property
    def same_scores(self) -> bool:
        return self.naive.scores == self.shared.scores

    @property
    def same_weights(self) -> bool:
        return self.naive.weights == self.shared.weights


def main(
    steps: Steps = 40, intermediate_steps: IntermediateSteps = None, workers: Workers = 2, quick: Quick = False
) -> None:
    """Print tables and one JSON line; exit code 1 if a score differs."""
    started = time.perf_counter()
    lengths = Lengths(intermediate=intermediate_steps or steps, target=steps)
    if quick:
        lengths = Lengths(intermediate=3, target=3)
    study = micro_grid(lr_intermediate=LR_INTERMEDIATE, lr_target=LR_TARGET, lengths=lengths)
    names = study.space.names[:2] if quick else study.space.names
    os.environ.update({**WORKER_ENVIRONMENT, "OMP_NUM_THREADS": "1"})  # for the processes that train
    with (
        tempfile.TemporaryDirectory() as folder,
        ProcessPoolExecutor(workers, get_context("spawn")) as pool,
    ):
        output = Path(folder)
        pool.submit(prepare, study, output / "shared").result()
        pairs: list[Pair] = []
        for of_choice in pool.map(partial(_both, study, output), names, range(len(names))):
            pairs += of_choice
            naive_s, shared_s = _seconds(of_choice, naive=True), _shared(of_choice)
            console.print(f"{of_choice[0].intermediate}: {naive_s:.1f} s naive, {shared_s:.1f} s shared")
    document = _document(study, pairs)
    _show(pairs, document)
    document |= {
        "steps": {
            "intermediate": study.intermediate_tuning.steps,
            "target": study.tuning.steps,
        },
        "workers": workers,
        "threads": 1,
        "load_average": os.getloadavg(),
        "wall_s": elapsed_since(started),
        "hardware": hardware().as_dict(),
        "versions": versions(),
        "command": " ".join(["python", "-m", "tests.benchmarks.shared_stages", *sys.argv[1:]]),
    }
    print(json.dumps(document))
    if not document["scores_identical"]:
        raise typer.Exit(1)


# --- the two sides


def _both(study: Study, output: Path, intermediate: str, turn: int) -> list[Pair]:
    """All pairs of an intermediate choice, run both ways."""
    choices = [choice for choice in _choices(study) if choice.intermediate == intermediate]
    evaluations: dict[str, tuple[bool, Evaluate]] = {}
    for number, choice in enumerate(choices):
        for evaluate in study.chain(size_of(study), choice):
            evaluations.setdefault(fingerprint(evaluate), (number == 0, evaluate))
    store = StageStore(output / "shared")
    sides = [
        lambda: {key: _run(evaluate, store) for key, (_, evaluate) in evaluations.items()},
        lambda: {key: _alone(study, evaluate, store) for key, (_, evaluate) in evaluations.items()},
    ]
    runs = {side: sides[side]() for side in ((0, 1) if turn % 2 == 0 else (1, 0))}
    pairs = []
    for key, (first, evaluate) in evaluations.items():
        needed = trained_for(evaluate)
        trainings = tuple(key for key, stage in needed.items() if trains(stage))
        before = tuple(key for key in trainings if needed[key] != evaluate.model or not evaluate.task.trained)
        pairs.append(
            Pair(intermediate, evaluate.task.name, first, trainings, before, naive=runs[1][key], shared=runs[0][key])
        )
    return pairs


def _choices(study: Study) -> list[Choice]:
    """Every intermediate choice with every learning rate of the targets."""
    return [
        Choice(default.intermediate, default.lr_intermediate, rate)
        for default in study.space.defaults()
        for rate in LR_TARGET
    ]


def _alone(study: Study, evaluate: Evaluate, prepared: StageStore) -> Run:
    """The pair in its own store, which has only the encoder and its vocabulary."""
    with tempfile.TemporaryDirectory(dir=prepared.root.parent) as folder:
        store = StageStore(Path(folder))
        root = study.encoder_stage(size_of(study))
        for stage in (root, *root.parents):
            shutil.copytree(prepared.folder(stage), store.folder(stage))
        return _run(evaluate, store)


def _run(evaluate: Evaluate, store: StageStore) -> Run:
    ensure(evaluate, workplace(store.root))
    needed = trained_for(evaluate)
    scored = store.find(evaluate)
    assert scored is not None
    return Run(seconds_of(store, needed), dict(scored.metrics), _weights(store, needed))


def _weights(store: StageStore, stages: Mapping[str, Stage]) -> dict[str, str]:
    hashes = {}
    for stage in stages.values():
        finished = store.find(stage)
        assert finished is not None
        for name, file in finished.manifest["files"].items():
            if name.endswith(".safetensors"):
                hashes[f"{stage.label}/{name}"] = file["sha256"]
    return hashes


# --- the document


def _seconds(pairs: Sequence[Pair], *, naive: bool, everything: bool = False, longer: float = 1.0) -> float:
    """Seconds of trainings, or of all stages: summed over pairs if naive, each stage once otherwise.

    `longer` multiplies the seconds of intermediate trainings.
    """
    spent: dict[Any, float] = {}
    for number, pair in enumerate(pairs):
        run = pair.naive if naive else pair.shared
        for key, seconds in run.seconds.items():
            if everything or key in pair.trainings:
                spent[number if naive else None, key] = seconds * (longer if key in pair.intermediates else 1.0)
    return sum(spent.values())


def _shared(pairs: Sequence[Pair]) -> float:
    return _seconds(pairs, naive=False)


def pairs_ratio(pairs: Sequence[Pair], *, everything: bool = False, longer: float = 1.0) -> float:
    naive, shared = (_seconds(pairs, naive=naive, everything=everything, longer=longer) for naive in (True, False))
    return naive / shared


def _by_trial(pairs: Sequence[Pair]) -> float:
    """Seconds of trials that share nothing with others; the targets of a trial share its intermediate training."""
    trials: dict[tuple[str, bool], list[Pair]] = {}
    for pair in pairs:
        trials.setdefault((pair.intermediate, pair.first_rate), []).append(pair)
    return sum(_shared(of_trial) for of_trial in trials.values())


def _document(study: Study, pairs: Sequence[Pair]) -> dict[str, Any]:
    one_rate = [pair for pair in pairs if pair.first_rate]
    grids = {"one_rate": one_rate, "two_rates": pairs}
    repeated = _repeated(pairs)
    return {
        "train_seconds_ratio": round(pairs_ratio(one_rate), 3),
        "scores_identical": all(pair.same_scores for pair in pairs),
        "weights_identical": all(pair.same_weights for pair in pairs),
        "train_seconds_ratio_two_rates": round(pairs_ratio(pairs), 3),
        "spreads": {
            "train_seconds_ratio_by_choice": spread(
                [pairs_ratio([pair for pair in one_rate if pair.intermediate == name]) for name in _names(pairs)]
            ),
            "same_training_again_over_its_median": spread(repeated) if repeated else None,
        },
        "grids": {
            name: {
                "pairs": len(grid),
                "trainings": {
                    "naive": sum(len(pair.trainings) for pair in grid),
                    "shared": len({key for pair in grid for key in pair.trainings}),
                },
                "train_seconds": {
                    "naive": round(_seconds(grid, naive=True), 1),
                    "shared": round(_shared(grid), 1),
                },
                "stage_seconds_ratio": round(pairs_ratio(grid, everything=True), 3),
                "by_trial": round(_by_trial(grid) / _shared(grid), 3),
                "by_length": {f"{longer:g}": round(pairs_ratio(grid, longer=longer), 2) for longer in LONGER},
            }
            for name, grid in grids.items()
        },
        "choices": list(_names(pairs)),
        "targets": [task.name for task in study.targets],
    }


def _names(pairs: Sequence[Pair]) -> list[str]:
    return list(dict.fromkeys(pair.intermediate for pair in pairs))


def _repeated(pairs: Sequence[Pair]) -> list[float]:
    """The seconds of each repetition of an intermediate training, over the median of its repetitions."""
    seconds_by_training: dict[str, list[float]] = {}
    for pair in pairs:
        for key in pair.intermediates:
            seconds_by_training.setdefault(key, []).append(pair.naive.seconds[key])
    return [seconds / median(runs) for runs in seconds_by_training.values() for seconds in runs]


def _show(pairs: Sequence[Pair], document: Mapping[str, Any]) -> None:
    table = Table("intermediate", "pairs", "naive, s", "shared, s", "ratio", "scores", "weights")
    for name in _names(pairs):
        of_choice = [pair for pair in pairs if pair.intermediate == name]
        table.add_row(
            name,
            str(len(of_choice)),
            f"{_seconds(of_choice, naive=True):.1f}",
            f"{_shared(of_choice):.1f}",
            f"{pairs_ratio(of_choice):.2f}",
            "identical" if all(pair.same_scores for pair in of_choice) else "DIFFER",
            "identical" if all(pair.same_weights for pair in of_choice) else "differ",
        )
    console.print(table)
    longer = Table(
        "grid",
        "trainings",
        "training, s",
        "ratio",
        "by trial",
        "all stages",
        *(f"x{factor:g}" for factor in LONGER),
    )
    longer.title, longer.title_justify = "ratios, naive over shared; xN: intermediate trainings N times as long", "left"
    for name, grid in document["grids"].items():
        trainings, seconds = grid["trainings"], grid["train_seconds"]
        longer.add_row(
            name.replace("_", " "),
            f"{trainings['naive']} / {trainings['shared']}",
            f"{seconds['naive']:.0f} / {seconds['shared']:.0f}",
            f"{seconds['naive'] / seconds['shared']:.2f}",
            f"{grid['by_trial']:.2f}",
            f"{grid['stage_seconds_ratio']:.2f}",
            *(f"{ratio:.2f}" for ratio in grid["by_length"].values()),
        )
    console.print(longer)
    ratio = document["train_seconds_ratio"]
    console.print(f"train_seconds_ratio {ratio:.2f}: goal {'reached' if ratio >= GOAL else 'missed'}")


if __name__ == "__main__":
    typer.run(main)
