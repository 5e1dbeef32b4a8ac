"""What does sharing stages save, and does it change a score?

    python -m tests.benchmarks.shared_stages [--steps 40] [--workers 2] [--quick]

The grid of `micro_grid`: nine intermediate choices by five targets (one of them is scored and not trained), and the same with
two learning rates of the targets.

1. shared: trials as the study runs them, chain by chain over one stage store.
2. naive: each (intermediate, target) pair as a run of its own, that trains the intermediate task, then the target, and scores
   it, in a store that holds the pre-trained encoder and nothing else. That is how separate fine-tuning scripts go through such
   a grid: an encoder is downloaded, or pre-trained once, and the rest is done for each pair. A rate is not repeated where
   nothing is trained with it.

Two other ways to count stand beside it, computed from the same seconds. `by_trial`: runs that keep the intermediate checkpoint
for their own five targets and share nothing with other runs. `with_pretraining`: naive runs that pre-train their encoder too,
as runs of a ladder would that shared nothing. In all others pre-training is outside.

Seconds are those of the stages' manifests. `train_seconds_ratio` counts intermediate and target trainings alone;
`stage_seconds_ratio` tokenising and scoring too. How much sharing can save is a matter of counting: with trainings of equal
length the grid has 40 + 36 of them naive and 8 + 36 shared, 1.7 times; an intermediate training that is longer than a target's
brings more. So the lengths are said, and `by_length` says what the same measured seconds come to where intermediate trainings
are longer.

Fair: both sides run in the same processes (one thread each), choice by choice, and take turns in who is first. The scores of
every pair, English dev and test in all languages, must be equal to the last bit, and so must the weights (by sha256).

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

LR_INTERMEDIATE, LR_TARGET = (3e-4,), (2e-3, 1e-3)  # the quickstart's
LONGER = (1.0, 2.0, 4.0, 8.0)  # intermediate trainings, in multiples of what was run
GOAL = 3.0

console = Console(highlight=False, width=128)

Steps = Annotated[int, typer.Option(min=1, help="steps of a target training")]
IntermediateSteps = Annotated[
    int | None, typer.Option(min=1, help="steps of an intermediate training; the same if left out")
]
Workers = Annotated[int, typer.Option(min=1, help="processes that each go through choices")]
Quick = Annotated[bool, typer.Option("--quick", help="two choices, a few steps")]


@dataclass(frozen=True)
class Run:
    """A pair that was scored: seconds of the stages that were made for it, by fingerprint, and what came out."""

    seconds: Mapping[str, float]
    scores: Mapping[str, Any]
    weights: Mapping[str, str]  # sha256 by file, of every stage


@dataclass(frozen=True)
class Pair:
    """One evaluation of the grid: how it went naive, and what it is and what it rests on."""

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
        lengths = Lengths(pretraining=4, intermediate=3, target=3)
    study = micro_grid(lr_intermediate=LR_INTERMEDIATE, lr_target=LR_TARGET, lengths=lengths)
    names = study.space.names[:2] if quick else study.space.names
    os.environ.update({**WORKER_ENVIRONMENT, "OMP_NUM_THREADS": "1"})  # for the processes that train
    with (
        tempfile.TemporaryDirectory() as folder,
        ProcessPoolExecutor(workers, get_context("spawn")) as pool,
    ):
        output = Path(folder)
        pretraining_s = pool.submit(prepare, study, output / "shared").result()
        console.print(f"pre-training, given to both: {pretraining_s:.0f} s")
        pairs: list[Pair] = []
        for some in pool.map(partial(_both, study, output), names, range(len(names))):
            pairs += some
            console.print(
                f"{some[0].intermediate}: {_seconds(some, naive=True):.1f} s naive, {_shared(some):.1f} s shared"
            )
    document = _document(study, pairs, pretraining_s)
    _show(pairs, document)
    document |= {
        "steps": {
            "pretraining": "given",
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
    """All pairs of an intermediate choice, both ways."""
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
    found = {side: sides[side]() for side in ((0, 1) if turn % 2 == 0 else (1, 0))}
    pairs = []
    for key, (first, evaluate) in evaluations.items():
        needed = trained_for(evaluate)
        trainings = tuple(key for key, stage in needed.items() if trains(stage))
        before = tuple(key for key in trainings if needed[key] != evaluate.model or not evaluate.task.trained)
        pairs.append(
            Pair(intermediate, evaluate.task.name, first, trainings, before, naive=found[1][key], shared=found[0][key])
        )
    return pairs


def _choices(study: Study) -> list[Choice]:
    """Every intermediate by every learning rate of the targets."""
    return [
        Choice(default.intermediate, default.lr_intermediate, rate)
        for default in study.space.defaults()
        for rate in LR_TARGET
    ]


def _alone(study: Study, evaluate: Evaluate, given: StageStore) -> Run:
    """The pair in a store of its own, that holds the encoder and its vocabulary."""
    with tempfile.TemporaryDirectory(dir=given.root.parent) as folder:
        store = StageStore(Path(folder))
        root = study.pretrain(size_of(study))
        for stage in (root, *root.parents):
            shutil.copytree(given.folder(stage), store.folder(stage))
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
        found = store.find(stage)
        assert found is not None
        for name, file in found.manifest["files"].items():
            if name.endswith(".safetensors"):
                hashes[f"{stage.label}/{name}"] = file["sha256"]
    return hashes


# --- what it comes to


def _seconds(pairs: Sequence[Pair], *, naive: bool, everything: bool = False, longer: float = 1.0) -> float:
    """Seconds of trainings, or of all stages: of every pair by itself, or each stage once.

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
    """Seconds of trials that share nothing with others; the targets of each have one intermediate training."""
    trials: dict[tuple[str, bool], list[Pair]] = {}
    for pair in pairs:
        trials.setdefault((pair.intermediate, pair.first_rate), []).append(pair)
    return sum(_shared(some) for some in trials.values())


def _document(study: Study, pairs: Sequence[Pair], pretraining_s: float) -> dict[str, Any]:
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
                "pairs": len(some),
                "trainings": {
                    "naive": sum(len(pair.trainings) for pair in some),
                    "shared": len({key for pair in some for key in pair.trainings}),
                },
                "train_seconds": {
                    "naive": round(_seconds(some, naive=True), 1),
                    "shared": round(_shared(some), 1),
                },
                "stage_seconds_ratio": round(pairs_ratio(some, everything=True), 3),
                "by_trial": round(_by_trial(some) / _shared(some), 3),
                "with_pretraining": round(
                    (_seconds(some, naive=True) + len(some) * pretraining_s) / (_shared(some) + pretraining_s), 2
                ),
                "by_length": {f"{longer:g}": round(pairs_ratio(some, longer=longer), 2) for longer in LONGER},
            }
            for name, some in grids.items()
        },
        "pretraining_s": round(pretraining_s, 1),
        "choices": list(_names(pairs)),
        "targets": [task.name for task in study.targets],
    }


def _names(pairs: Sequence[Pair]) -> list[str]:
    return list(dict.fromkeys(pair.intermediate for pair in pairs))


def _repeated(pairs: Sequence[Pair]) -> list[float]:
    """How the seconds of one and the same intermediate training, run again for each pair, lie about their median."""
    taken: dict[str, list[float]] = {}
    for pair in pairs:
        for key in pair.intermediates:
            taken.setdefault(key, []).append(pair.naive.seconds[key])
    return [seconds / median(some) for some in taken.values() for seconds in some]


def _show(pairs: Sequence[Pair], document: Mapping[str, Any]) -> None:
    table = Table("intermediate", "pairs", "naive, s", "shared, s", "ratio", "scores", "weights")
    for name in _names(pairs):
        some = [pair for pair in pairs if pair.intermediate == name]
        table.add_row(
            name,
            str(len(some)),
            f"{_seconds(some, naive=True):.1f}",
            f"{_shared(some):.1f}",
            f"{pairs_ratio(some):.2f}",
            "identical" if all(pair.same_scores for pair in some) else "DIFFER",
            "identical" if all(pair.same_weights for pair in some) else "differ",
        )
    console.print(table)
    longer = Table(
        "grid",
        "trainings",
        "training, s",
        "ratio",
        "by trial",
        "all stages",
        *(f"x{one:g}" for one in LONGER),
        "pre-training too",
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
            f"{grid['with_pretraining']:.1f}",
        )
    console.print(longer)
    ratio = document["train_seconds_ratio"]
    console.print(f"train_seconds_ratio {ratio:.2f}: goal {'reached' if ratio >= GOAL else 'missed'}")


if __name__ == "__main__":
    typer.run(main)
