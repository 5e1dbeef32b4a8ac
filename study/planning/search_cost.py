"""What a search costs: with shared stages and without, at most and as expected under ASHA; training, scoring and disk."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import mean
from typing import Any

from study.planning.architecture import Architecture
from study.planning.stages import stages_of
from study.search.asha import Rungs
from study.spec import Choice, Size, Study
from trainables.stages.base import Stage
from trainables.stages.evaluate import Evaluate
from trainables.stages.finetune import Tuned
from trainables.stages.merge import MergeEncoders
from trainables.stages.pretrain import Pretrain
from trainables.store.fingerprint import fingerprint

SIMULATIONS = 50  # random searches; the mean of 50 is within a few percent of that of 500
BYTES_A_PARAMETER = 4  # stages store weights in fp32, whatever they were trained in
CHECKPOINT = 3  # times the weights: with Adam's two moments
GB = 1e9

StageCost = Callable[[Any], float]  # of one stage of the kinds that are counted, in any unit
StageCosts = Mapping[str, float]  # of several, by fingerprint


@dataclass(frozen=True)
class SearchCost:
    """What one size's training and scoring cost, in the unit of its stage costs.

    - `root`: pre-training the encoder, once; 0 for a published one.
    - `defaults`: the default cells.
    - `expected`: the whole budget, with random sampled choices and ASHA stopping trials by random scores.
    - `at_most`: ASHA stops nothing, and every sampled trial trains all its stages.
    - `not_shared`: the expected trials, each training its whole chain.
    - `repeats`: further seeds, which share nothing, at the mean cost of a choice.
    - `repeats_at_most`: the same at the cost of the most expensive choice.
    """

    root: float
    defaults: float
    expected: float
    at_most: float
    not_shared: float
    repeats: float
    repeats_at_most: float

    @property
    def expected_total(self) -> float:
        return self.root + self.expected + self.repeats

    @property
    def at_most_total(self) -> float:
        return self.root + self.at_most + self.repeats_at_most


def search_cost(
    study: Study, size: Size, stage_cost: StageCost, *, counted: tuple[type[Stage], ...] = (Tuned, Evaluate)
) -> SearchCost:
    """The cost of a size's search, by a simulation with fixed seeds; of the stages `counted` and of the encoder's."""
    needs = _Needs(study, size, stage_cost, counted)
    space = study.space_of(size)
    defaults = space.defaults()
    sampled = study.budget(size) - len(defaults)
    grid = [choice for choice in space.grid() or () if choice not in defaults]
    runs = [_simulate(study, size, needs, seed, grid, sampled) for seed in range(SIMULATIONS if sampled else 1)]
    longest = [dataclasses.replace(choice, epochs=max(space.epochs)) for choice in defaults]
    whole = [sum(needs.of(choice)[-1].values()) for choice in (*defaults, *longest, *grid)]
    of_defaults = sum(_union(needs.of(choice)[-1] for choice in defaults).values())
    repeated = 0 if study.repeats is None else min(study.repeats.top + 1, study.budget(size))
    repeats = 0 if study.repeats is None else study.repeats.seeds * repeated
    return SearchCost(
        root=needs.root,
        defaults=of_defaults,
        expected=mean(shared for shared, _ in runs),
        at_most=of_defaults + sampled * max(whole),
        not_shared=mean(not_shared for _, not_shared in runs),
        repeats=repeats * mean(whole),
        repeats_at_most=repeats * max(whole),
    )


class _Needs:
    """For a choice, the cost of each stage `counted` that a trial needs to finish its first 1, 2, ... targets."""

    def __init__(self, study: Study, size: Size, stage_cost: StageCost, counted: tuple[type[Stage], ...]) -> None:
        self._study, self._size, self._stage_cost, self._counted = study, size, stage_cost, counted
        root = study.encoder_stage(size)
        self.root = stage_cost(root) if isinstance(root, Pretrain) else 0.0
        self.of = lru_cache(maxsize=None)(self._of)

    def _of(self, choice: Choice) -> list[StageCosts]:
        costs: dict[str, float] = {}
        rungs: list[StageCosts] = []
        for evaluate in self._study.chain(self._size, choice):
            for stage in stages_of(evaluate):
                if isinstance(stage, self._counted):
                    costs[fingerprint(stage)] = self._stage_cost(stage)
            rungs.append(dict(costs))
        return rungs


def _simulate(
    study: Study, size: Size, needs: _Needs, seed: int, grid: Sequence[Choice], sampled: int
) -> tuple[float, float]:
    """The cost of one random search, with shared stages and without; scores are random, stops are ASHA's."""
    rng = random.Random(seed)
    space = study.space_of(size)
    choices = space.defaults()
    choices += rng.sample(grid, sampled) if grid else [space.sample(rng) for _ in range(sampled)]
    rungs = Rungs(study, exempt=space.is_default)
    trained: dict[str, float] = {}
    not_shared = 0.0
    for index, choice in enumerate(choices):
        finished = len(needs.of(choice))
        for rung in range(1, finished + 1):
            if rungs.stops(str(index), choice, targets_finished=rung, score=rng.random()):
                finished = rung
                break
        trained |= needs.of(choice)[finished - 1]
        not_shared += sum(needs.of(choice)[finished - 1].values())
    return sum(trained.values()), not_shared


def _union(costs: Iterable[StageCosts]) -> dict[str, float]:
    union: dict[str, float] = {}
    for by_stage in costs:
        union |= by_stage
    return union


@dataclass(frozen=True)
class Storage:
    """GB of a size's models, for a search as `search_cost` expects it and one trial at a time.

    `all_end` and `best_end`: at the end, with every model and with those of the best trials alone. Each peak adds a checkpoint
    of the stage that is being trained, and `best_peak` also the models of the trial that is running.
    """

    all_end: float
    all_peak: float
    best_end: float
    best_peak: float


def storage_of(study: Study, size: Size, architecture: Architecture) -> Storage:
    """What the models of a size take: its encoder, checkpoints that arms start from, merges and trained models."""
    model_gb = architecture.count.total * BYTES_A_PARAMETER / GB

    def lasting_gb(stage: Tuned | MergeEncoders) -> float:
        """Of what `--keep best` keeps, whatever trial needed it."""
        return model_gb if isinstance(stage, MergeEncoders) or stage.task.role == "intermediate" else 0.0

    models = (Tuned, MergeEncoders)
    every = search_cost(study, size, lambda stage: model_gb if isinstance(stage, models) else 0.0, counted=models)
    lasting = search_cost(
        study, size, lambda stage: lasting_gb(stage) if isinstance(stage, models) else 0.0, counted=models
    )
    trained = sum(task.trained for task in study.targets)
    with_baseline = 2 if len(study.space_of(size).names) > 1 else 1
    encoders_gb = len(study.encoder_stages(size)) * model_gb
    all_end = encoders_gb + every.expected + every.repeats
    best_end = encoders_gb + lasting.expected + lasting.repeats + with_baseline * trained * model_gb
    checkpoint = CHECKPOINT * model_gb
    return Storage(all_end, all_end + checkpoint, best_end, best_end + trained * model_gb + checkpoint)


def storage_lines(study: Study, architectures: Mapping[str, Architecture]) -> list[str]:
    """What each size's models take, and all of them together; none where no architecture is known."""
    storage = {
        size.name: storage_of(study, size, architectures[size.name])
        for size in study.sizes
        if size.name in architectures
    }
    if len(storage) > 1:
        parts = storage.values()
        storage["in all"] = Storage(
            *(sum(getattr(part, name) for part in parts) for name in ("all_end", "all_peak", "best_end", "best_peak"))
        )
    return [
        f"models on disk, {name}: {_gb(needs.all_end)} at the end and {_gb(needs.all_peak)} at the peak; with --keep best "
        f"{_gb(needs.best_end)} and {_gb(needs.best_peak)}"
        for name, needs in storage.items()
    ]


def _gb(value: float) -> str:
    return f"{value:,.0f} GB" if value >= 10 else f"{value:.2g} GB"
