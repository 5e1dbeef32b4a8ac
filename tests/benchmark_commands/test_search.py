"""What the benchmarks of the search count: a replay's clock, what sharing saves, when a search was near the grid's best."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from ray.tune.schedulers import FIFOScheduler

from study.search.trial_store import METRIC, RUNG
from study.spec.space import NONE, Choice
from tests.benchmarks.micro_grid import choices_of, micro_grid, size_of, trained_for, trains
from tests.benchmarks.search_efficiency import (
    CONTESTANTS,
    OURS,
    Cell,
    Curve,
    Ended,
    Grid,
    InOrder,
    Replay,
    ledger_searcher,
    replay,
)
from tests.benchmarks.shared_stages import Pair, Run, pairs_ratio
from trainables.store.fingerprint import fingerprint

STUDY = micro_grid(lr_intermediate=(3e-4, 1e-4), lr_target=(2e-3, 1e-3))
CHOICES = choices_of(STUDY)
BEST = CHOICES[-1]
SISTERS = [choice for choice in CHOICES if choice.lr_intermediate == 1e-4][:2]  # of one intermediate training
TARGETS = len(STUDY.targets)


@pytest.fixture(scope="module")
def grid() -> Grid:
    """Two seconds for an intermediate training, one for each target's own; later choices score higher, by a point each."""

    def needs(choice: Choice) -> Iterator[tuple[str, ...]]:
        base = () if choice.intermediate == NONE else (f"{choice.intermediate} {choice.lr_intermediate}",)
        for number in range(TARGETS):
            yield (*base, f"{choice} {number}")

    cells = {
        choice: Cell(
            tuple({METRIC: 20.0 + rank, RUNG: number + 1, "test_score": 1.0} for number in range(TARGETS)),
            tuple(needs(choice)),
        )
        for rank, choice in enumerate(CHOICES)
    }
    stages = {stage for cell in cells.values() for some in cell.needs for stage in some}
    return Grid(cells, {stage: 1.0 if stage.startswith("Choice") else 2.0 for stage in stages})


def _in_order(grid: Grid, choices: list[Choice], concurrent: int) -> Replay:
    found = Replay(grid, InOrder(iter(choices)), FIFOScheduler(), concurrent=concurrent, trials=len(choices))
    found.run()
    return found


def test_the_grid_has_nine_intermediate_choices_and_five_targets_and_shares_what_can_be_shared() -> None:
    assert len(STUDY.space.names) == 9
    assert len(CHOICES) == len(set(CHOICES)) == STUDY.space.points == 2 * (1 + 8 * 2)
    stages = [
        trained_for(evaluate) for choice in STUDY.space.defaults() for evaluate in STUDY.chain(size_of(STUDY), choice)
    ]
    naive = sum(trains(stage) for some in stages for stage in some.values())
    shared = {key for some in stages for key, stage in some.items() if trains(stage)}
    assert (naive, len(shared)) == (8 * 5 + 9 * 4, 8 + 9 * 4)  # one of the five targets is not trained


def test_a_stage_costs_once(grid: Grid) -> None:
    found = _in_order(grid, [*SISTERS, SISTERS[0]], concurrent=1)
    assert [one.spent_s for one in found.ended] == [2 + TARGETS, 2 + 2 * TARGETS, 2 + 2 * TARGETS]


def test_two_trials_at_a_time_wait_for_each_others_stages_and_pay_for_none_twice(grid: Grid) -> None:
    found = _in_order(grid, SISTERS, concurrent=2)
    assert found.spent_s == 2 + 2 * TARGETS
    assert [one.choice for one in found.ended] == SISTERS


@pytest.mark.parametrize("name", list(CONTESTANTS))
def test_every_contestant_stays_within_the_grids_seconds(name: str, grid: Grid) -> None:
    ended = replay(grid, STUDY, CONTESTANTS[name], concurrent=2)
    assert {one.choice for one in ended} <= set(CHOICES)
    assert max(one.spent_s for one in ended) <= grid.total_s
    assert any(one.score is not None for one in ended)
    if "ASHA" not in name:
        assert all(one.score is not None for one in ended)


def test_the_studys_own_search_runs_every_default_to_its_end_first(grid: Grid) -> None:
    ended = replay(grid, STUDY, CONTESTANTS[OURS], concurrent=1)
    defaults = STUDY.space.defaults()
    assert [one.choice for one in ended[: len(defaults)]] == defaults
    assert all(one.score is not None for one in ended[: len(defaults)])
    assert ended == replay(grid, STUDY, CONTESTANTS[OURS], concurrent=1)
    other = dataclasses.replace(STUDY, seed=1)
    assert ended != replay(grid, other, CONTESTANTS[OURS], concurrent=1)


def test_the_ledger_knows_what_a_trial_scored_where_it_was_stopped(grid: Grid) -> None:
    """Else TPE learns nothing of it, and ASHA of a search that goes on would compare with fewer trials."""
    ours = CONTESTANTS[OURS]
    with ExitStack() as stack:
        searcher = ledger_searcher(STUDY, stack, concurrent=2)
        Replay(grid, searcher, ours.scheduler(STUDY), concurrent=2, trials=len(CHOICES)).run()
        stopped = [record for record in searcher.history.records if record.outcome == "stopped_early"]
    assert stopped
    for record in stopped:
        assert record.rungs[record.metrics[RUNG]] == record.metrics[METRIC]


def test_what_was_best_when_and_how_soon_it_was_near(grid: Grid) -> None:
    total, best = grid.total_s, grid.cells[BEST].reports[-1][METRIC]
    ended = [
        Ended(CHOICES[0], 0.1 * total, TARGETS, best - 5),
        Ended(CHOICES[1], 0.2 * total, 1, None),
        Ended(CHOICES[2], 0.3 * total, TARGETS, best - 1),
        Ended(BEST, 0.6 * total, TARGETS, best),
    ]
    curve = Curve(grid, ended)
    assert [curve.best_at(share) for share in (0.05, 0.2, 0.5, 1.0)] == [None, best - 5, best - 1, best]
    assert curve.share_until(1.0) == pytest.approx(0.3)
    assert curve.share_until(0.0) == pytest.approx(0.6)
    assert Curve(grid, ended[:2]).share_until(1.0) is None


def test_sharing_saves_what_counting_says() -> None:
    """Trainings of a second each: 40 + 36 over 8 + 36; then intermediate ones of two seconds."""
    pairs = []
    for choice in STUDY.space.defaults():
        for evaluate in STUDY.chain(size_of(STUDY), choice):
            stages = trained_for(evaluate)
            trainings = tuple(key for key, stage in stages.items() if trains(stage))
            own = fingerprint(evaluate.model) if evaluate.task.trained else None
            run = Run(dict.fromkeys(stages, 1.0), {}, {})
            before = tuple(key for key in trainings if key != own)
            pairs.append(Pair(choice.intermediate, evaluate.task.name, True, trainings, before, naive=run, shared=run))
    assert pairs_ratio(pairs) == pytest.approx((40 + 36) / (8 + 36))
    assert pairs_ratio(pairs, longer=2.0) == pytest.approx((80 + 36) / (16 + 36))
    assert pairs_ratio(pairs, everything=True) > 1
