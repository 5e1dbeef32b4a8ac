"""What does a trial cost on top of its training, by launcher?

    python -m tests.benchmarks.launch_overhead [--rounds 6] [--quick]

All run the same small job: the first size of the test recipe, pre-trained beforehand, is fine-tuned on tagging for 2,000 steps
of 16 sentences in fp32, and scored. Each trial has its own seed, so that the store has none of its stages. Steps of a few
milliseconds are the worst case: a cost per step shows here first.

1. bare: the same stages in one process without Ray (`Job.run` in its own `Workplace`: engine, loop, store, scores).
2. inline, reused: `run_inline` in a Ray Tune function trainable whose actor has run another trial, as in `study.search.sweep`.
3. inline, fresh: the same without actor reuse, so that every trial starts a process and imports what it needs.
4. and 5. group of one and of two: `run_group`, a `TorchTrainer`, in its own Tune trial. Two workers share the batch.

Each contestant runs a short trial before the one that counts. Under Ray, a trial counts from the end of the short one to its
own end, both as Tune's controller sees them; bare, from start to end of the job. Imports and start-up are thus part of 3 to 5
and not of 1 and 2. Tracking is left out: it is the driver's work.

Every contestant has one thread a process, the study's environment for workers, and the niceness of Ray's workers (15 by
default); the bare one runs while Ray does not. The order of contestants changes in every round; groups, which cost tens of
seconds more, take part in the first two only. Seconds are medians over rounds, with their range and with the seconds of the
stages by their manifests.

Goal: an inline trial in a reused actor takes at most 3% more than the bare loop and 0.3 s: `inline_ratio`,
(inline_reused_s - 0.3) / bare_s, is at most 1.03. The last line is one JSON document.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import ray
import torch
import typer
from ray import tune
from ray.tune.integration.ray_train import TuneReportCallback
from rich.console import Console
from rich.table import Table

from study.cluster.connection import WORKER_ENVIRONMENT, connected
from study.cluster.progress_actor import ProgressActor, ProgressReporter
from tests.support import recipes
from trainables.benchmark.probes.hardware import hardware
from trainables.benchmark.subjects.fresh import environment
from trainables.launch.group import run_group
from trainables.launch.inline import run_inline
from trainables.launch.job import Job
from trainables.launch.task import run_task
from trainables.resources import WAITING_BYTES, Resources
from trainables.stages.base import Progress, Stage, Workplace
from trainables.stages.evaluate import Evaluate
from trainables.stages.finetune import FineTune
from trainables.store.stage_store import StageStore
from trainables.store.versions import versions
from trainables.training.batching import Share

SHORT_STEPS = 2
GROUP_ROUNDS = 2
ALLOWED_S, ALLOWED_RATIO = 0.3, 1.03
CONCLUSIVE_S = 10.0  # 3% of a shorter job is noise
CORES = 2  # of the Ray on this machine: two workers must fit

console = Console(highlight=False, width=128)

Rounds = Annotated[int, typer.Option(min=1, help="how many times each contestant runs")]
Steps = Annotated[int, typer.Option(min=1, help="steps of the fine-tuning")]
Quick = Annotated[bool, typer.Option("--quick", help="one round of 100 steps")]


@dataclass(frozen=True)
class Launcher:
    """A contestant under Ray: its resources, and whether Tune reuses the actor."""

    resources: Resources
    reuse: bool = False
    group: bool = False


BARE, REUSED, FRESH, ONE, TWO = "bare", "inline_reused", "inline_fresh", "group_one", "group_two"
LAUNCHERS = {
    REUSED: Launcher(Resources(), reuse=True),
    FRESH: Launcher(Resources()),
    ONE: Launcher(Resources(), group=True),
    TWO: Launcher(Resources(workers=2), group=True),
}


@dataclass(frozen=True)
class Trial:
    """The steps and the seed that identify a job."""

    steps: int
    seed: int

    @property
    def evaluation(self) -> Evaluate:
        study = recipes.tiny()
        task, training = study.targets[0], dataclasses.replace(study.tuning, steps=self.steps, seed=self.seed)
        return Evaluate(
            FineTune(study.encoder_stage(study.sizes[0]), task.for_training(), training), task, training.max_length
        )

    def job(self, output: str, resources: Resources) -> Job:
        return Job(output, resources, chain=(self.evaluation,))

    def stage_s(self, output: Path) -> float:
        """Seconds of the two stages, from their manifests."""
        stages: tuple[Stage, ...] = (self.evaluation.model, self.evaluation)
        finished = [StageStore(output).find(stage) for stage in stages]
        return sum(float(stage.manifest["context"]["seconds"]) for stage in finished if stage is not None)


@dataclass(frozen=True)
class Took:
    """Seconds of a trial and of its stages."""

    trial_s: float
    stage_s: float


def main(rounds: Rounds = 6, steps: Steps = 2000, quick: Quick = False) -> None:
    """Print a table and one JSON line."""
    if quick:
        rounds, steps = 1, 100
    started = time.perf_counter()
    took: dict[str, list[Took]] = {name: [] for name in (BARE, *LAUNCHERS)}
    with tempfile.TemporaryDirectory() as name:
        output = Path(name)
        bench = Bench(output, steps, niceness=_prepare(output))
        for turn in range(rounds):
            sides = (bench.without_ray, partial(bench.under_ray, turn))
            for side in sides if turn % 2 == 0 else reversed(sides):
                for contestant, trial in side():
                    took[contestant].append(trial)
                    console.print(
                        f"round {turn + 1}, {contestant}: {trial.trial_s:.2f} s, stages {trial.stage_s:.2f} s"
                    )
    seconds = {name: [trial.trial_s for trial in trials] for name, trials in took.items()}
    stages = {name: [trial.stage_s for trial in trials] for name, trials in took.items()}
    ratios = [(inline - ALLOWED_S) / bare for inline, bare in zip(seconds[REUSED], seconds[BARE], strict=True)]
    ratio = (median(seconds[REUSED]) - ALLOWED_S) / median(seconds[BARE])
    _show(seconds, stages)
    verdict = "reached" if ratio <= ALLOWED_RATIO else "missed"
    if median(seconds[BARE]) < CONCLUSIVE_S:
        verdict = f"undecided: the bare loop took less than {CONCLUSIVE_S:g} s"
    console.print(f"inline_ratio {ratio:.3f} ({min(ratios):.3f} to {max(ratios):.3f} by round): goal {verdict}")
    document = {
        **{f"{name}_s": round(median(values), 3) for name, values in seconds.items()},
        "inline_ratio": round(ratio, 4),
        "rounds": rounds,
        "rounds_of_groups": min(rounds, GROUP_ROUNDS),
        "spreads": {
            **{f"{name}_s": _range(values) for name, values in seconds.items()},
            "inline_ratio": _range(ratios),
        },
        "stage_s": {name: round(median(values), 3) for name, values in stages.items()},
        "steps": steps,
        "threads": 1,
        "niceness": bench.niceness,
        "load_average": os.getloadavg(),
        "wall_s": round(time.perf_counter() - started, 1),
        "hardware": hardware().as_dict(),
        "versions": versions(),
        "command": " ".join(["python", "-m", "tests.benchmarks.launch_overhead", *sys.argv[1:]]),
    }
    print(json.dumps(document))


def _range(values: Sequence[float]) -> list[float]:
    return [round(min(values), 3), round(max(values), 3)]


def _show(seconds: Mapping[str, Sequence[float]], stages: Mapping[str, Sequence[float]]) -> None:
    table = Table("", "s a trial", "range", "its stages", "over bare")
    bare = median(seconds[BARE])
    for name, values in seconds.items():
        low, high = _range(values)
        above = f"{median(values) - bare:+.2f}"
        table.add_row(name, f"{median(values):.2f}", f"{low:.2f} to {high:.2f}", f"{median(stages[name]):.2f}", above)
    console.print(table)


# --- preparation


def _prepare(output: Path) -> int:
    """Produce the stages that all trials start from; returns the niceness of Ray's workers."""
    evaluation = Trial(SHORT_STEPS, 0).evaluation
    model = evaluation.model
    assert isinstance(model, FineTune)
    stages = (model.base, model.features, evaluation.features)
    with connected(None, cpus=CORES):
        progress_actor = ProgressActor.remote()  # type: ignore[attr-defined]
        ray.get(
            run_task.remote(Job(str(output), Resources(), stages=stages), "prepare", ProgressReporter(progress_actor))
        )
        niceness: int = ray.get(ray.remote(_niceness).remote())
    return niceness


def _niceness() -> int:
    return os.nice(0)


# --- the contestants


@dataclass(frozen=True)
class Bench:
    """A prepared store, and the trials that run on it."""

    output: Path
    steps: int
    niceness: int
    _seeds: Iterator[int] = field(default_factory=partial(itertools.count, 1))

    def without_ray(self) -> Iterator[tuple[str, Took]]:
        """The bare loop, in a process with the environment, niceness and threads of Ray's workers."""
        trials = self._trials()
        with (
            environment({**WORKER_ENVIRONMENT, "OMP_NUM_THREADS": "1"}),
            ProcessPoolExecutor(1, get_context("spawn"), os.nice, (self.niceness - os.nice(0),)) as pool,
        ):
            trial_s = [pool.submit(_bare, trial, str(self.output)).result() for trial in trials]
        yield BARE, Took(trial_s[-1], trials[-1].stage_s(self.output))

    def under_ray(self, turn: int) -> Iterator[tuple[str, Took]]:
        """Every launcher once, another one first in each round; groups in the first rounds only."""
        names = [name for name, launcher in LAUNCHERS.items() if not launcher.group or turn < GROUP_ROUNDS]
        first = turn % len(names)
        with connected(None, cpus=CORES):
            progress = ProgressReporter(ProgressActor.remote())  # type: ignore[attr-defined]
            for name in names[first:] + names[:first]:
                trials = self._trials()
                ends = _sweep(LAUNCHERS[name], trials, self.output, f"{name}-{turn}", progress)
                yield name, Took(ends[-1] - ends[0], trials[-1].stage_s(self.output))

    def _trials(self) -> tuple[Trial, Trial]:
        """The short trial and the one that counts."""
        return Trial(SHORT_STEPS, next(self._seeds)), Trial(self.steps, next(self._seeds))


def _bare(trial: Trial, output: str) -> float:
    torch.set_num_threads(1)
    start = time.perf_counter()
    job = trial.job(output, Resources())
    job.run(Workplace(StageStore(Path(output)), Share(0, 1, job.resources.micro_batch)), report=lambda metrics: None)
    return time.perf_counter() - start


class Ends(tune.Callback):  # type: ignore[misc]
    """Records when each trial ended, and in which process."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.pids: list[int] = []

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.times.append(time.perf_counter())
        self.pids.append(int(trial.last_result["pid"]))


def _sweep(launcher: Launcher, trials: Sequence[Trial], output: Path, name: str, progress: Progress) -> list[float]:
    """Run the trials one after another; returns the time at which each ended."""
    ends = Ends()
    needs = {"memory": WAITING_BYTES} if launcher.group else {"CPU": launcher.resources.cpus}
    tuner = tune.Tuner(
        tune.with_resources(
            tune.with_parameters(_trial, launcher=launcher, output=str(output), progress=progress), needs
        ),
        param_space={"trial": tune.grid_search(list(trials))},
        tune_config=tune.TuneConfig(max_concurrent_trials=1, reuse_actors=launcher.reuse),
        run_config=tune.RunConfig(name=name, storage_path=str(output / "tune"), callbacks=[ends], verbose=0),
    )
    results = tuner.fit()
    if results.errors or len(ends.times) != len(trials):
        raise RuntimeError(f"{name}: only {len(ends.times)} of {len(trials)} trials succeeded: {results.errors}")
    if (len(set(ends.pids)) == 1) != launcher.reuse:
        raise RuntimeError(f"{name}: trials ran in the processes {ends.pids} with reuse_actors={launcher.reuse}")
    return ends.times


def _trial(config: dict[str, Any], *, launcher: Launcher, output: str, progress: Progress) -> None:
    """Launches a trial as `study.search.sweep` does."""
    job = config["trial"].job(output, launcher.resources)
    if launcher.group:
        name = f"group-{tune.get_context().get_trial_id()}"
        run_group(job, name=name, progress=progress, callbacks=[TuneReportCallback()])
    else:
        run_inline(job, report=tune.report, progress=progress)


if __name__ == "__main__":
    typer.run(main)
