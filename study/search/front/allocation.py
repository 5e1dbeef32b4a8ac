"""Which trial runs next, over all sizes: the one that could add most to the front for each second of training.

Every size's default cells come first, the cheapest first. Then, of each untried choice, the upper end of what it may score
(`posterior`) says by how much it could raise the area under the front (`hypervolume`), and what it still has to train says how
long that takes. A size none of whose choices could raise the front is done. All of this follows from the stored trials, so a
resumed search decides as an uninterrupted one would.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev

from scipy.stats import norm

from study.search.front.hypervolume import fronts, hypervolume
from study.search.front.posterior import Observed, Point, posterior
from study.search.records import TrialOutcome, TrialRecord
from study.spec.space import Choice

CHANCE_BEYOND = 0.05  # that any of the untried choices scores more than its limit
LEAST_S = 1e-3  # of a trial whose stages are all made
MOVES = 0.1  # percentage points: the front does not move by less

Seconds = Callable[[str, Choice], float]  # of what a choice of a size still has to train


@dataclass(frozen=True)
class SizeState:
    """A size's search so far.

    Attributes:
        position: log latency, or what stands for it.
        defaults: its default cells.
        untried: choices that may run next, the untried default cells included.
        trials_left: of its budget.
    """

    name: str
    position: float
    records: Sequence[TrialRecord]
    running: Sequence[Choice]
    defaults: Sequence[Choice]
    untried: Sequence[Choice]
    trials_left: int

    @property
    def best(self) -> float | None:
        return max((record.dev_score for record in self.records if record.dev_score is not None), default=None)


@dataclass(frozen=True)
class Decision:
    """The next trial, and by size why none of it could move the front. Without `next`, nothing could."""

    next: Point | None
    done: Mapping[str, str]


def decide(states: Sequence[SizeState], *, chance: float, seconds: Seconds) -> Decision:
    """What runs next; `chance` is the score of a guess, in percent."""
    waiting = [
        Point(state.name, choice)
        for state in states
        for choice in state.untried
        if choice in state.defaults and state.trials_left > 0
    ]
    if waiting:
        return Decision(min(waiting, key=lambda point: seconds(point.size, point.choice)), {})
    return _over_all(states, chance=chance, seconds=seconds)


def _over_all(states: Sequence[SizeState], *, chance: float, seconds: Seconds) -> Decision:
    levels = {state.name: _level(state, chance) for state in states}
    positions = {state.name: state.position for state in states}
    observed = [entry for state in states for entry in _observed(state)]
    running = [Point(state.name, choice) for state in states for choice in state.running]
    expected = posterior(observed, levels, running).mean if running else ()
    best = {state.name: state.best for state in states if state.best is not None}
    for point, score in zip(
        running, expected, strict=True
    ):  # as if they had ended as expected: the next one tries elsewhere
        observed.append(Observed(point, float(score)))
        best[point.size] = max(best.get(point.size, chance), float(score))
    front, area = fronts(best, positions, chance=chance), hypervolume(best, positions, chance=chance)

    points = [Point(state.name, choice) for state in states if state.trials_left > 0 for choice in state.untried]
    beliefs = posterior(observed, levels, points)
    deviations = norm.isf(CHANCE_BEYOND / max(1, len(points)))  # Bonferroni: many choices have many chances to be lucky
    limits = dict(zip(points, (beliefs.mean + deviations * beliefs.sd).tolist(), strict=True))

    def a_second(point: Point) -> float:
        added = hypervolume({**best, point.size: limits[point]}, positions, chance=chance) - area
        return added / max(seconds(point.size, point.choice), LEAST_S)

    hopeful = [point for point in points if limits[point] >= front[point.size] + MOVES]
    highest = {
        state.name: max((limits[point] for point in points if point.size == state.name), default=None)
        for state in states
    }
    done = {
        state.name: _reason(state, limit, best, positions, front[state.name])
        for state in states
        if (limit := highest[state.name]) is not None and limit < front[state.name] + MOVES
    }
    return Decision(max(hopeful, key=a_second, default=None), done)


def _reason(
    state: SizeState, limit: float, best: Mapping[str, float], positions: Mapping[str, float], front: float
) -> str:
    """Why the size is done, in words."""
    faster = [size for size, score in best.items() if score >= front and positions[size] < state.position]
    if faster:
        return (
            f"dominated: none of its untried choices is likely to score over {limit:.1f}, and {faster[0]} is faster with "
            f"{best[faster[0]]:.1f}"
        )
    return f"none of its untried choices is likely to score over {limit:.1f}, and its best has {front:.1f}"


def _level(state: SizeState, chance: float) -> float:
    """The size's score before a choice is known: the mean of its default cells."""
    scores = [
        record.dev_score for record in state.records if record.dev_score is not None and record.choice in state.defaults
    ]
    return mean(scores) if scores else chance


def _observed(state: SizeState) -> list[Observed]:
    """Complete trials, and those stopped early with what they would have scored.

    A mean over some targets differs from that over all by what it does in the size's complete trials.
    """
    observed = []
    for record in state.records:
        if record.dev_score is not None:
            observed.append(Observed(Point(state.name, record.choice), record.dev_score))
        elif record.outcome is TrialOutcome.STOPPED_EARLY and record.partial_scores:
            finished = max(record.partial_scores)
            rises = [
                other.dev_score - other.partial_scores[finished]
                for other in state.records
                if other.dev_score is not None and finished in other.partial_scores
            ]
            if len(rises) > 1:
                score = record.partial_scores[finished] + mean(rises)
                observed.append(Observed(Point(state.name, record.choice), score, sd=stdev(rises)))
    return observed
