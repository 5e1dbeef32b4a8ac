"""Ranks a size's intermediate choices by estimates of what they are worth to each target, in one process and without Ray.

Estimates are stages of the study's output folder: what an interrupted ranking finished is found again, intermediate trainings
are those of the search, and a search finds those that a ranking made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from study.console import Console, Status, Timeline
from study.errors import CannotRun, joined
from study.planning.stages import stages_of
from study.run.bucket.driving import kept_in_bucket
from study.run.identity import check_identity
from study.run.output_folder import locked
from study.run.shortlist import Place, order, seconds_of_stages, spared
from study.spec import NONE, Resources, Size, Study
from trainables.estimators.base import Estimate
from trainables.estimators.registry import ESTIMATORS
from trainables.estimators.units import why_undefined
from trainables.estimators.vectors import Vectors
from trainables.hyperparameters import Diverged, OutOfMemory
from trainables.launch.process import prepare_process
from trainables.stages.base import Stage, Workplace, ensure
from trainables.stages.finetune import Tuned
from trainables.stages.pretrain import Pretrain
from trainables.store.fingerprint import fingerprint
from trainables.store.manifests import seconds_of
from trainables.store.opening import open_store
from trainables.store.stage_store import StageStore
from trainables.training.batching import Share
from trainables.training.micro_batches import known_limits

Cell = tuple[str, str]  # an intermediate choice and a target


@dataclass(frozen=True)
class Ranking:
    """A size's estimates by one estimator; a cell has a value, or is `unavailable` with the reason.

    `estimates_s` are the seconds of the estimates, `trainings_s` those of the intermediate trainings that they need (0: none),
    whenever they ran. `spared` holds the share of the default cells' seconds that is spared by running none and the first
    1, 2, ... intermediate tasks of the order.
    """

    size: str
    estimator: str
    values: Mapping[Cell, float]
    unavailable: Mapping[Cell, str]
    order: tuple[Place, ...]
    estimates_s: float
    trainings_s: float
    spared: tuple[float, ...]

    @property
    def targets(self) -> list[str]:
        return list(dict.fromkeys(target for _, target in (*self.values, *self.unavailable)))

    def by_value(self, target: str) -> list[tuple[str, float]]:
        """A target's choices, best first."""
        own = [(choice, value) for (choice, of), value in self.values.items() if of == target]
        return sorted(own, key=lambda pair: -pair[1])

    def document(self) -> dict[str, Any]:
        """As JSON values."""
        targets = {
            target: {
                "values": dict(self.by_value(target)),
                "unavailable": {choice: reason for (choice, of), reason in self.unavailable.items() if of == target},
            }
            for target in self.targets
        }
        return {
            "size": self.size,
            "estimator": self.estimator,
            "order": [{"intermediate": place.choice, "mean_rank": place.rank} for place in self.order],
            "targets": targets,
            "estimates_s": round(self.estimates_s, 3),
            "trainings_s": round(self.trainings_s, 3),
            "spared": [round(share, 4) for share in self.spared],
        }


def rank(study: Study, output: Path, *, sizes: Sequence[Size], estimators: Sequence[str]) -> list[Ranking]:
    """The rankings of these sizes by these estimators. In a bucket, they exclude a run of the study on any machine.

    Raises:
        CannotRun: the output folder is unusable, in use or holds another study; or a size's encoder or intermediate trainings
            are not in it, and this process cannot train them.
        DataError: a data set breaks a rule of its format.
    """
    if study.unpinned:
        raise CannotRun(joined(f"not pinned when the study was built: {what}" for what in study.unpinned))
    wanted = {(size.name, name): estimate_stages(study, size, name) for size in sizes for name in estimators}
    store = open_store(output)
    if problems := [line for size in sizes for line in _untrainable(study, size, estimators, store)]:
        raise CannotRun(joined(problems))
    with locked(output), kept_in_bucket(output):
        check_identity(study, output, searches=False)
        for size in sizes:
            stages = [stage for name in estimators for stage in wanted[size.name, name].values()]
            _produce([stage for stage in stages if isinstance(stage, Estimate)], size, output)
    return [ranking_of(study, study.size(size), name, cells, output=output) for (size, name), cells in wanted.items()]


def estimate_stages(study: Study, size: Size, estimator: str) -> dict[Cell, Estimate | str]:
    """The stage of each cell's estimate, at the default learning rate; the reason where a target allows none."""
    build = ESTIMATORS[estimator]
    stages: dict[Cell, Estimate | str] = {}
    for choice in study.space_of(size).defaults():
        base = study.base(size, choice)
        for target, evaluate in zip(study.targets, study.chain(size, choice), strict=True):
            reason = why_undefined(target)
            if reason is None and base not in stages_of(evaluate.model):
                reason = "the target is not trained from an encoder that is tuned before"
            elif reason is None and build.reads_texts and not (choice.intermediate == NONE or isinstance(base, Tuned)):
                reason = "its encoder is not tuned on texts of its own"
            stages[choice.intermediate, target.name] = reason or build(base, target, evaluate.max_length)
    return stages


def ranking_of(
    study: Study, size: Size, estimator: str, cells: Mapping[Cell, Estimate | str], *, output: Path
) -> Ranking:
    """What the store holds of these estimates. An estimate is missing where the intermediate training diverged."""
    store = open_store(output)
    values: dict[Cell, float] = {}
    unavailable: dict[Cell, str] = {}
    for cell, stage in cells.items():
        if isinstance(stage, str):
            unavailable[cell] = stage
            continue
        finished = store.find(stage)
        if finished is None:
            unavailable[cell] = f"training {cell[0]} diverged"
        elif (value := finished.metrics.get("value")) is None:
            unavailable[cell] = finished.metrics["unavailable"]
        else:
            values[cell] = value
    places = order(values, study.space_of(size).names, [target.name for target in study.targets])
    estimates_s, trainings_s = _spent(cells.values(), store)
    shares = spared(
        study,
        size,
        [place.choice for place in places if place.choice != NONE],
        seconds=seconds_of_stages(study, size, output),
        estimated_from=_needed(cells.values()),
        estimates_s=estimates_s,
    )
    return Ranking(
        *(size.name, estimator, values, unavailable, tuple(places)),
        estimates_s=estimates_s,
        trainings_s=trainings_s,
        spared=tuple(shares),
    )


def _untrainable(study: Study, size: Size, estimators: Sequence[str], store: StageStore) -> list[str]:
    """What must be in the store because a group, or a GPU, would have to train it."""
    if size.resources.inline:
        return []
    needed = _needed(stage for name in estimators for stage in estimate_stages(study, size, name).values())
    missing = [stage.label for stage in needed if isinstance(stage, Tuned | Pretrain) and store.find(stage) is None]
    if not missing:
        return []
    return [
        f"size {size.name} trains on {size.resources.workers} workers or a GPU, and the output folder lacks "
        f"{', '.join(sorted(set(missing)))}: run the study first, or choose another size"
    ]


@dataclass
class _Progress:
    """What the console shows: estimates done, and the stage that runs."""

    total: int
    done: int = 0
    running: dict[str, str] = field(default_factory=dict)

    def __call__(self, stage: str, done: int, total: int, loss: float | None) -> None:
        self.running = {stage: f"{stage}: {done} of {total}"}

    def status(self) -> Status:
        return Status(f"{self.done} of {self.total} estimates", stages=tuple(self.running.values()))


def _produce(stages: Sequence[Estimate], size: Size, output: Path) -> None:
    prepare_process(Resources(cpus=size.resources.cpus))  # estimates are computed on CPUs
    progress, console = _Progress(len(stages)), Console(Timeline())
    work = Workplace(
        open_store(output),
        Share.of(size.resources) if size.resources.inline else Share(0, 1, size.resources.micro_batch),
        size.resources,
        limits=known_limits(output, size.resources),
        device=torch.device("cpu"),
        progress=progress,
    )
    console.say(f"{len(stages)} estimates for size {size.name}")
    with console.watch(progress.status):
        for stage in stages:
            _produce_one(stage, work, console.say)
            progress.done += 1


def _produce_one(stage: Estimate, work: Workplace, say: Callable[[str], object]) -> None:
    try:
        ensure(stage, work)
    except Diverged as error:
        say(f"no {stage.label}: {error}")
    except OutOfMemory as error:
        raise CannotRun(f"{stage.label}: {error}; use a smaller micro_batch") from error


def _needed(cells: Iterable[Estimate | str]) -> list[Stage]:
    """The estimates and every stage that they need, each once; an arm that has no estimate needs none."""
    estimates = [cell for cell in cells if isinstance(cell, Estimate)]
    return list({fingerprint(stage): stage for estimate in estimates for stage in stages_of(estimate)}.values())


def _spent(cells: Iterable[Estimate | str], store: StageStore) -> tuple[float, float]:
    """Seconds of the finished estimates with their vectors, and of the trainings that they need."""
    estimates_s = trainings_s = 0.0
    for stage in _needed(cells):
        finished = store.find(stage) if isinstance(stage, Estimate | Vectors | Tuned) else None
        if finished is None:
            continue
        seconds = seconds_of(finished.manifest)
        if isinstance(stage, Tuned):
            trainings_s += seconds
        else:
            estimates_s += seconds
    return estimates_s, trainings_s
