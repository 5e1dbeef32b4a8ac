"""The order of intermediate choices by estimates of their worth, and what a search of the first few would spare."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from scipy import stats

from study.planning.estimate.stage_times import StageTimes, StoredTimes, planned, usual
from study.planning.estimate.study_estimate import NOMINAL_GFLOPS
from study.planning.stages import stages_of
from study.spec import NONE, Choice, Size, Study
from trainables.stages.base import Stage
from trainables.stages.evaluate import Evaluate
from trainables.stages.finetune import Tuned
from trainables.store.fingerprint import fingerprint

Values = Mapping[tuple[str, str], float]  # by intermediate choice and target; without those that have none


@dataclass(frozen=True)
class Place:
    """A choice's place in an order: its mean rank over targets, from 1, ties sharing theirs."""

    choice: str
    rank: float


def order(values: Values, choices: Sequence[str], targets: Sequence[str]) -> list[Place]:
    """The choices by their mean rank over the targets, best first; equal ones as in `choices`.

    Values of different targets have no common scale, so ranks are averaged. A target for which no choice has a value is left
    out, and so is a choice that lacks the value of a target for which others have one: its mean would be of other targets.
    """
    judged = [target for target in targets if any((choice, target) in values for choice in choices)]
    ranked = [choice for choice in choices if judged and all((choice, target) in values for target in judged)]
    if not ranked:
        return []
    ranks = [stats.rankdata([-values[choice, target] for choice in ranked]) for target in judged]
    places = [
        Place(choice, float(sum(of_target[number] for of_target in ranks)) / len(judged))
        for number, choice in enumerate(ranked)
    ]
    return sorted(places, key=lambda place: place.rank)


def spared(
    study: Study,
    size: Size,
    first: Sequence[str],
    *,
    seconds: Callable[[Stage], float],
    estimated_from: Iterable[Stage],
    estimates_s: float,
) -> list[float]:
    """The share of the default cells' seconds that is spared by running none and the first 1, 2, ... of these tasks only.

    `seconds` is what training or scoring stages take. `estimated_from` are the stages that the estimates need: trainings among
    them are paid, whatever is run. The estimates' own seconds count. A share is negative where estimating costs more than it
    spares.
    """
    default_cells = {choice.intermediate: choice for choice in study.space_of(size).defaults()}
    costs = {name: _costs(study, size, choice, seconds) for name, choice in default_cells.items()}
    everything = sum(_union(costs.values()).values())
    trained = _seconds(estimated_from, seconds)
    shares = []
    for count in range(1, len(first) + 1):
        run = _union([trained, *(costs[name] for name in (NONE, *first[:count]))])
        shares.append(1 - (sum(run.values()) + estimates_s) / everything)
    return shares


def seconds_of_stages(study: Study, size: Size, output: Path) -> Callable[[Stage], float]:
    """What stages take: as they took, else as stages like them did, else as their operations suggest.

    In the last case only ratios mean something.
    """
    cells = [leaf for choice in study.space_of(size).defaults() for leaf in study.chain(size, choice)]
    known = [planned(study, size, stage) for leaf in cells for stage in dict.fromkeys(stages_of(leaf))]
    measured = StoredTimes(output).read()
    times = StageTimes(usual(NOMINAL_GFLOPS), known, measured)

    def seconds(stage: Stage) -> float:
        as_planned = planned(study, size, stage)
        return measured.get(as_planned.name, times.seconds(as_planned))

    return seconds


def _costs(study: Study, size: Size, choice: Choice, seconds: Callable[[Stage], float]) -> dict[str, float]:
    return _union(_seconds(stages_of(leaf), seconds) for leaf in study.chain(size, choice))


def _seconds(stages: Iterable[Stage], seconds: Callable[[Stage], float]) -> dict[str, float]:
    """Of the trainings and evaluations among the stages, by fingerprint."""
    return {fingerprint(stage): seconds(stage) for stage in stages if isinstance(stage, Tuned | Evaluate)}


def _union(costs: Iterable[Mapping[str, float]]) -> dict[str, float]:
    union: dict[str, float] = {}
    for by_stage in costs:
        union |= by_stage
    return union
