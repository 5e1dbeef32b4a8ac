"""What a search costs: with shared stages and without, at most and as expected under ASHA. Training only, no scoring."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import mean

from study.planning import estimate
from study.planning.estimate import Architecture, Load
from study.search.searcher import asha
from study.spec import Size, Study
from study.spec.space import Choice, member_tasks
from trainables.heads import HEADS
from trainables.resources import Resources
from trainables.stages.base import Stage
from trainables.stages.finetune import Tuned
from trainables.stages.pretrain import Pretrain
from trainables.store.fingerprint import fingerprint

SIMULATIONS = 50  # searches drawn at random; the mean of 50 is within a few percent of that of 500

Cost = Callable[[Pretrain | Tuned], float]  # of a training stage, in whatever unit
Costs = Mapping[str, float]  # of training stages, by fingerprint


def stages_of(stage: Stage) -> Iterator[Stage]:
    """The stage and all it rests on."""
    yield stage
    for parent in stage.parents:
        yield from stages_of(parent)


def loads_of(stage: Pretrain | Tuned) -> list[Load]:
    """The kinds of batches that a stage trains on: one, or one for each task of a mixture."""
    if isinstance(stage, Pretrain):  # an entry of its batches is a group of sentence pairs
        return [Load(stage.training, rows=2 * stage.group_pairs, masked=True)]
    return [
        Load(stage.training, rows=head.rows(task), group=task.group, masked=head.masks)
        for task in member_tasks(stage.task)
        for head in (HEADS[task.head],)
    ]


def stage_flops(architecture: Architecture, stage: Pretrain | Tuned) -> float:
    """Floating-point operations of a training stage, rows counted at their longest; a mixture as its dearest task alone."""
    return max(estimate.stage_flops(architecture, load) for load in loads_of(stage))


def stage_hours(architecture: Architecture, stage: Pretrain | Tuned, resources: Resources) -> float | None:
    """GPU-hours of a training stage, None without a known device (`estimate.gpu_hours`)."""
    return estimate.gpu_hours(stage_flops(architecture, stage), resources, stage.training.precision)


@dataclass(frozen=True)
class SearchCost:
    """What one size's training costs, in the unit of what a stage costs.

    `root`: the encoder's pre-training, once (none for a published one). `defaults`: the default cells. `expected`: the whole
    budget, where ASHA stops trials by scores without any pattern and the sampled choices are random ones. `at_most`: nothing is
    stopped and every sampled trial trains all its stages. `not_shared`: the expected trials, each training its whole chain.
    `repeats`: further seeds, which share nothing between them, at the mean cost of a choice; `repeats_at_most`: of the dearest.
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


def search_cost(study: Study, size: Size, cost: Cost) -> SearchCost:
    """What a size's search costs if a stage costs that, by simulation, the same every time."""
    rungs = _Rungs(study, size, cost)
    defaults = study.space.defaults()
    sampled = study.budget(size) - len(defaults)
    grid = [choice for choice in study.space.grid() or () if choice not in defaults]
    runs = [_simulate(study, rungs, number, grid, sampled) for number in range(SIMULATIONS if sampled else 1)]
    longest = [dataclasses.replace(choice, epochs=max(study.space.epochs)) for choice in defaults]
    whole = [sum(rungs.of(choice)[-1].values()) for choice in (*defaults, *longest, *grid)]
    of_defaults = sum(_union(rungs.of(choice)[-1] for choice in defaults).values())
    again = 0 if study.repeats is None else study.repeats.seeds * (study.repeats.top + 1)
    return SearchCost(
        root=rungs.root,
        defaults=of_defaults,
        expected=mean(shared for shared, _ in runs),
        at_most=of_defaults + sampled * max(whole),
        not_shared=mean(alone for _, alone in runs),
        repeats=again * mean(whole),
        repeats_at_most=again * max(whole),
    )


class _Rungs:
    """Of a choice, the training stages that a trial needs until it has finished so many targets."""

    def __init__(self, study: Study, size: Size, cost: Cost) -> None:
        self._study, self._size, self._cost = study, size, cost
        root = study.encoder_stage(size)
        self.root = cost(root) if isinstance(root, Pretrain) else 0.0
        self.of = lru_cache(maxsize=None)(self._of)

    def _of(self, choice: Choice) -> list[Costs]:
        found: dict[str, float] = {}
        rungs: list[Costs] = []
        for evaluate in self._study.chain(self._size, choice):
            for stage in stages_of(evaluate):
                if isinstance(stage, Tuned):
                    found[fingerprint(stage)] = self._cost(stage)
            rungs.append(dict(found))
        return rungs


def _simulate(study: Study, rungs: _Rungs, number: int, grid: Sequence[Choice], sampled: int) -> tuple[float, float]:
    """The cost of one random search, with shared stages and without; its scores are drawn, its stops are ASHA's."""
    draw = random.Random(number)
    choices = study.space.defaults()
    choices += draw.sample(grid, sampled) if grid else [study.space.sample(draw) for _ in range(sampled)]
    scheduler = asha(study)
    trained: dict[str, float] = {}
    alone = 0.0
    for index, choice in enumerate(choices):
        finished = len(rungs.of(choice))
        for rung in range(1, finished + 1):
            if scheduler.stops(str(index), choice, rung=rung, score=draw.random()):
                finished = rung
                break
        trained |= rungs.of(choice)[finished - 1]
        alone += sum(rungs.of(choice)[finished - 1].values())
    return sum(trained.values()), alone


def _union(costs: Iterator[Costs]) -> dict[str, float]:
    found: dict[str, float] = {}
    for one in costs:
        found |= one
    return found
