"""Where the next trial goes when all sizes of a study share the search: planted truths, and what a resumed search decides."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from ray.tune.search import Searcher

from study.search.front.allocation import SizeState, decide
from study.search.front.hypervolume import hypervolume
from study.search.front.posterior import Observed, Point, posterior
from study.search.front.turns import Turns, chance_of, positions_of, untried
from study.search.journal import open_journal
from study.search.records import DEV_SCORE, TrialOutcome, TrialRecord
from study.search.slots import Slots
from study.search.sweep import Sweep
from study.search.trial_store import TrialStore
from study.spec.space import Choice, LogUniform
from tests.study.search.conftest import COMPLETE, STUDY

ARMS = ("none", "a", "b")
RATES = (1e-3, 5e-4, 2e-3)
GRID = [Choice(arm, None if arm == "none" else 1e-3, rate) for rate in RATES for arm in ARMS]
DEFAULTS = GRID[:3]
CHANCE = 30.0


def record(choice: Choice, score: float) -> TrialRecord:
    return TrialRecord(str(choice), choice, TrialOutcome.COMPLETE, {DEV_SCORE: score}, partial_scores={1: score})


def state(
    name: str,
    position: float,
    scores: Sequence[float],
    *,
    running: Sequence[Choice] = (),
    trials_left: int = 99,
) -> SizeState:
    """A size whose first choices of the grid have these scores."""
    tried = [*GRID[: len(scores)], *running]
    return SizeState(
        name,
        position,
        [record(choice, score) for choice, score in zip(GRID, scores, strict=False)],
        running,
        DEFAULTS,
        [choice for choice in GRID if choice not in tried],
        trials_left,
    )


def equal_seconds(size: str, choice: Choice) -> float:
    return 10.0


def test_area_by_hand() -> None:
    """Over chance: the faster size's 30 points for one doubling of latency, then the better of both for another."""
    positions = {"fast": 0.0, "slow": math.log(2)}
    assert hypervolume({"fast": 60.0, "slow": 70.0}, positions, chance=CHANCE) == pytest.approx(math.log(2) * (30 + 40))
    assert hypervolume({"fast": 60.0, "slow": 55.0}, positions, chance=CHANCE) == pytest.approx(math.log(2) * (30 + 30))
    assert hypervolume({"slow": 70.0}, positions, chance=CHANCE) == pytest.approx(math.log(2) * 40)


def test_what_was_observed_is_believed_and_what_is_like_it_is_better_known() -> None:
    points = [Point("s", Choice("a", 1e-3, rate)) for rate in (1e-3, 2e-3, 1e-1)]
    observed = [Observed(points[0], 70.0), Observed(Point("s", Choice("b", 1e-3, 1e-3)), 66.0)]
    beliefs = posterior(observed, {"s": 60.0}, points)
    assert beliefs.mean[0] == pytest.approx(70.0, abs=0.1)
    assert beliefs.sd[0] == pytest.approx(0.0, abs=0.1)
    assert 70.0 > beliefs.mean[1] > beliefs.mean[2] > 60.0
    assert beliefs.sd[1] < beliefs.sd[2]
    estimated = posterior([dataclasses.replace(observed[0], sd=10.0), observed[1]], {"s": 60.0}, points)
    assert estimated.mean[0] < beliefs.mean[0], "an estimated score counts for less"


def test_default_cells_come_first_the_cheapest_of_all_sizes_before_others() -> None:
    states = [state("slow", 1.0, ()), state("fast", 0.0, (50.0,))]
    seconds = {"slow": 50.0, "fast": 2.0}
    first = decide(states, chance=CHANCE, seconds=lambda size, choice: seconds[size])
    assert first.next == Point("fast", DEFAULTS[1])
    states[1] = state("fast", 0.0, (50.0, 50.0, 50.0))
    assert decide(states, chance=CHANCE, seconds=equal_seconds).next == Point("slow", DEFAULTS[0])


def test_a_size_that_is_dominated_is_done_and_says_why() -> None:
    """The slow size scores 30 points less than the fast one, and its choices differ by one point."""
    states = [state("fast", 0.0, (80.0, 81.0, 80.5, 80.0)), state("slow", 1.0, (50.0, 51.0, 50.5, 50.0))]
    decision = decide(states, chance=CHANCE, seconds=equal_seconds)
    assert decision.next is not None
    assert decision.next.size == "fast"
    assert list(decision.done) == ["slow"]
    assert decision.done["slow"].startswith("dominated")
    assert "fast is faster with 81.0" in decision.done["slow"]


def test_the_size_that_can_move_the_front_gets_the_trials() -> None:
    """The slow size gains ten points by another target rate; what is left of the fast one has its worst arm."""
    fast, slow = (60.0, 60.0, 50.0, 60.0, 60.0, 50.0, 60.0, 60.0), (70.0, 70.5, 69.5, 80.0)
    states = [state("fast", 0.0, fast), state("slow", math.log(2), slow)]
    decision = decide(states, chance=CHANCE, seconds=equal_seconds)
    assert decision.next is not None
    assert decision.next.size == "slow"
    assert decision.next.choice.lr_target == 5e-4, "its better rate, with an arm that is untried there"
    assert "its best has 60.0" in decision.done["fast"]


@pytest.mark.parametrize(("dear", "chosen"), [(5e-4, 2e-3), (2e-3, 5e-4)])
def test_of_choices_that_promise_the_same_the_cheaper_is_taken(dear: float, chosen: float) -> None:
    decision = decide(
        [state("s", 0.0, (70.0, 70.0, 70.0))],
        chance=CHANCE,
        seconds=lambda size, choice: 20.0 if choice.lr_target == dear else 10.0,
    )
    assert decision.next is not None
    assert decision.next.choice.lr_target == chosen


def test_of_equals_the_first_is_taken_and_every_time() -> None:
    states = [state("one", 0.0, (60.0, 60.0, 60.0)), state("two", 0.0, (60.0, 60.0, 60.0))]
    decisions = {decide(states, chance=CHANCE, seconds=equal_seconds).next for _ in range(3)}
    assert decisions == {Point("one", GRID[3])}


def test_a_running_trial_sends_the_next_one_elsewhere() -> None:
    scores = (70.0, 72.0, 71.0)
    first = decide([state("s", 0.0, scores)], chance=CHANCE, seconds=equal_seconds).next
    assert first is not None
    again = decide([state("s", 0.0, scores, running=[first.choice])], chance=CHANCE, seconds=equal_seconds).next
    assert again is not None
    assert again.choice.lr_target != first.choice.lr_target, "the same rate teaches less"


def test_a_size_without_budget_left_gets_nothing() -> None:
    states = [state("s", 0.0, (70.0, 72.0, 71.0), trials_left=0)]
    assert decide(states, chance=CHANCE, seconds=equal_seconds).next is None


def test_a_trial_stopped_early_tells_what_it_would_have_scored() -> None:
    """After one target it is ten points behind the others at that point, so its rate is not tried again."""
    base = state("s", 0.0, (70.0, 70.0, 70.0))
    records = [dataclasses.replace(entry, partial_scores={1: 60.0 + shift}) for shift, entry in enumerate(base.records)]
    stopped = TrialRecord("t", GRID[3], TrialOutcome.STOPPED_EARLY, {}, partial_scores={1: 40.0})
    known = dataclasses.replace(base, records=[*records, stopped], untried=GRID[4:])
    decision = decide([known], chance=CHANCE, seconds=equal_seconds)
    assert decision.next is not None
    assert decision.next.choice.lr_target == RATES[2]


def test_a_resumed_search_decides_as_an_uninterrupted_one(tmp_path: Path) -> None:
    """Over stores that were closed after each trial, and over the same stores kept open."""
    study = dataclasses.replace(
        STUDY,
        trials=6,
        sizes=tuple(dataclasses.replace(size, trials=None) for size in STUDY.sizes),
        space=dataclasses.replace(STUDY.space, lr_target=RATES),
    )
    positions = {size.name: float(number) for number, size in enumerate(study.sizes)}

    def turns(folder: Path) -> tuple[Turns, dict[str, TrialStore]]:
        journal = open_journal(folder)
        stores = {size.name: TrialStore(journal, size.name, space=study.space_of(size)) for size in study.sizes}
        return Turns(study, stores, positions=positions, seconds=lambda: equal_seconds), stores

    def run(folder: Path, *, reopened: bool) -> list[Point]:
        folder.mkdir()
        ran: list[Point] = []
        opened = turns(folder)
        while (point := opened[0].decision().next) is not None:
            number = opened[1][point.size].start(point.choice)
            score = 60.0 + 10 * positions[point.size] - abs(math.log(point.choice.lr_target / 5e-4))
            opened[1][point.size].finish(number, TrialOutcome.COMPLETE, metrics={DEV_SCORE: score})
            ran.append(point)
            opened = turns(folder) if reopened else opened
        return ran

    uninterrupted = run(tmp_path / "whole", reopened=False)
    assert uninterrupted == run(tmp_path / "reopened", reopened=True)
    assert {point.size for point in uninterrupted[:4]} == set(positions), "every size has its default cells"
    assert len(set(uninterrupted)) == len(uninterrupted) > 4


SHARED = dataclasses.replace(
    STUDY,
    trials=4,
    sizes=tuple(dataclasses.replace(size, trials=None) for size in STUDY.sizes),
    space=dataclasses.replace(STUDY.space, lr_target=RATES),
)
FAST, SLOW = (size.name for size in SHARED.sizes)


class WithoutTune(Sweep):
    """A sweep whose trials complete at once, one after the other, with 50 points."""

    def _tuner(self, searcher: Any, scheduler: Any, *, trials: int, name: str) -> Any:
        class Tuner:
            def fit(self) -> None:
                for number in range(trials):
                    if searcher.suggest(f"t{number}") == Searcher.FINISHED:
                        return
                    searcher.on_trial_complete(f"t{number}", COMPLETE)

        return Tuner()


def shared(output: Path, scores: Mapping[str, float]) -> dict[str, TrialStore]:
    """The stores of two sizes whose default cells are done, each with the size's score."""
    journal = open_journal(output)
    stores = {name: TrialStore(journal, name, space=SHARED.space) for name in (FAST, SLOW)}
    for name, store in stores.items():
        for choice in SHARED.space.defaults():
            metrics = {DEV_SCORE: scores[name]}
            store.finish(store.start(choice), TrialOutcome.COMPLETE, metrics=metrics)
    return stores


def turns_of(stores: Mapping[str, TrialStore], **options: Any) -> Turns:
    return Turns(SHARED, stores, positions={FAST: 0.0, SLOW: 1.0}, seconds=lambda: equal_seconds, **options)


def sweep_of(name: str, output: Path, **options: Any) -> Sweep:
    return WithoutTune(
        SHARED, SHARED.size(name), output, Slots({"CPU": 8.0}), lambda *_: None, trial=lambda **_: None, **options
    )


@pytest.mark.parametrize("ended", [True, False])
def test_a_size_that_left_or_ended_gets_no_turn_and_the_others_go_on(tmp_path: Path, ended: bool) -> None:
    stores = shared(tmp_path, {FAST: 80.0, SLOW: 81.0})
    turns = turns_of(stores)
    assert turns.wait(FAST)
    if ended:
        stores[FAST].end("nothing else could move the front")
        turns = turns_of(stores)
    else:
        turns.leave(FAST)
    assert turns.wait(SLOW, until=iter([False, True]).__next__), "it does not wait for a size that starts nothing"
    assert turns.choice(FAST) is None
    assert turns.choice(SLOW) is not None


def test_a_search_that_ended_still_retries_what_failed_and_starts_nothing_else(tmp_path: Path) -> None:
    stores = shared(tmp_path, {FAST: 80.0, SLOW: 40.0})
    choice = untried(SHARED.space, stores[SLOW], SHARED.seed)[0]
    stores[SLOW].finish(stores[SLOW].start(choice), TrialOutcome.FAILED, metrics={}, reason="out of memory")
    stores[SLOW].end("dominated")
    sweep = sweep_of(SLOW, tmp_path, retry_failed=True)
    reopened = {name: sweep.store(open_journal(tmp_path)) if name == SLOW else store for name, store in stores.items()}
    result = sweep.search_in_turns(reopened[SLOW], turns_of(reopened))
    assert [(trial.choice, trial.outcome) for trial in result.trials[-2:]] == [
        (choice, TrialOutcome.FAILED),
        (choice, TrialOutcome.COMPLETE),
    ]
    assert len(result.trials) == 4
    assert result.ended == "dominated"


@pytest.mark.parametrize(("unfinished", "refused"), [(False, False), (True, False), (False, True)])
def test_a_search_ends_for_good_only_if_nothing_is_unfinished_and_the_budget_refused_nothing(
    tmp_path: Path, unfinished: bool, refused: bool
) -> None:
    stores = shared(tmp_path, {FAST: 80.0, SLOW: 40.0})
    turns = turns_of(stores, may_start=lambda size, choice: not refused)
    if unfinished:  # the budget did not let it resume
        stores[FAST].start(untried(SHARED.space, stores[FAST], SHARED.seed)[0])
    assert turns.wait(FAST) is not refused
    turns.leave(FAST)
    result = sweep_of(SLOW, tmp_path).search_in_turns(stores[SLOW], turns)
    assert len(result.trials) == len(SHARED.space.defaults())
    assert (result.ended is None) is (unfinished or refused)


def test_chance_is_of_the_targets_with_an_english_dev_set() -> None:
    """The mean of tagging's 0 and of entailment's 50; retrieval has no dev set, and its chance does not count."""
    assert [target.has_english_dev for target in STUDY.targets] == [True, True, False]
    assert chance_of(STUDY) == pytest.approx(sum(target.chance() for target in STUDY.targets[:2]) / 2)


def test_candidates_of_ranges_start_with_the_default_cells(tmp_path: Path) -> None:
    space = dataclasses.replace(STUDY.space, lr_target=LogUniform(1e-5, 1e-3, default=1e-4))
    store = TrialStore(open_journal(tmp_path), "s", space=space)
    candidates = untried(space, store, 0)
    assert candidates[: len(space.names)] == space.defaults()
    assert len(set(candidates)) > 50
    assert candidates == untried(space, store, 0)


def test_sizes_stand_by_latency_or_else_all_by_their_parameters() -> None:
    first, second = STUDY.sizes
    parameters = {first.name: 100, second.name: 400}
    both = {first.name: 2.0, second.name: 4.0}
    assert positions_of(both, parameters, STUDY.sizes) == {first.name: math.log(2), second.name: math.log(4)}
    of_one = positions_of({first.name: 2.0}, parameters, STUDY.sizes)
    assert of_one[second.name] - of_one[first.name] == pytest.approx(math.log(4))
    with pytest.raises(ValueError, match=second.name):
        positions_of({}, {first.name: 100}, STUDY.sizes)
