"""What the benchmarks of the search compute: a replay's clock, savings by sharing, and how soon a search nears the best."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from study.search.records import DEV_SCORE, TARGETS_FINISHED, TrialOutcome
from study.spec.space import NONE, Choice
from tests.benchmarks.grid_table import Cell, Grid, read_table, usual_seconds, write_table
from tests.benchmarks.micro_grid import choices_of, micro_grid, size_of, trained_for, trains
from tests.benchmarks.search_efficiency import (
    CONTESTANTS,
    OURS,
    Curve,
    Ended,
    InOrder,
    Replay,
    own_searcher,
    replay,
)
from tests.benchmarks.shared_stages import Pair, Run, pairs_ratio
from trainables.store.fingerprint import fingerprint

STUDY = micro_grid(lr_intermediate=(3e-4, 1e-4), lr_target=(2e-3, 1e-3))
CHOICES = choices_of(STUDY)
BEST = CHOICES[-1]
SIBLINGS = [choice for choice in CHOICES if choice.lr_intermediate == 1e-4][:2]  # they share an intermediate training
TARGETS = len(STUDY.targets)


@pytest.fixture(scope="module")
def grid() -> Grid:
    """An intermediate training takes 2 s, a target training 1 s; each choice scores a point more than the one before."""

    def needs(choice: Choice) -> Iterator[tuple[str, ...]]:
        base = () if choice.intermediate == NONE else (f"{choice.intermediate} {choice.lr_intermediate}",)
        for number in range(TARGETS):
            yield (*base, f"{choice} {number}")

    cells = {
        choice: Cell(
            tuple(
                {DEV_SCORE: 20.0 + rank, TARGETS_FINISHED: number + 1, "test_score": 1.0} for number in range(TARGETS)
            ),
            tuple(needs(choice)),
        )
        for rank, choice in enumerate(CHOICES)
    }
    stages = {stage for cell in cells.values() for needed in cell.needs for stage in needed}
    return Grid(cells, {stage: 1.0 if stage.startswith("Choice") else 2.0 for stage in stages})


def _in_order(grid: Grid, choices: list[Choice], concurrent: int) -> Replay:
    replayed = Replay(grid, InOrder(iter(choices)), None, concurrent=concurrent, trials=len(choices))
    replayed.run()
    return replayed


def test_the_grid_has_nine_intermediate_choices_and_five_targets_and_shares_trainings() -> None:
    assert len(STUDY.space.names) == 9
    assert len(CHOICES) == len(set(CHOICES)) == STUDY.space.choice_count == 2 * (1 + 8 * 2)
    stages = [
        trained_for(evaluate) for choice in STUDY.space.defaults() for evaluate in STUDY.chain(size_of(STUDY), choice)
    ]
    naive = sum(trains(stage) for by_key in stages for stage in by_key.values())
    shared = {key for by_key in stages for key, stage in by_key.items() if trains(stage)}
    assert (naive, len(shared)) == (8 * 5 + 9 * 4, 8 + 9 * 4)  # one of the five targets is not trained


def test_a_table_is_read_as_it_was_written(grid: Grid, tmp_path: Path) -> None:
    write_table({"a": grid, "b": grid}, tmp_path / "grid.json", seed=11)
    read = read_table(tmp_path / "grid.json")
    assert list(read) == ["a", "b"]
    assert list(read["a"].cells) == CHOICES
    assert [cell.score for cell in read["b"].cells.values()] == [cell.score for cell in grid.cells.values()]
    assert read["a"].total_s == grid.total_s
    names: dict[str, str] = {}  # the table numbers stages
    for choice, cell in read["a"].cells.items():
        for needed, originally in zip(cell.needs, grid.cells[choice].needs, strict=True):
            for name, original in zip(needed, originally, strict=True):
                assert names.setdefault(name, original) == original
                assert read["a"].seconds[name] == grid.seconds[original]
    assert len(set(names.values())) == len(names) == len(grid.seconds)


def test_a_stage_of_a_disturbed_machine_costs_what_others_like_it_did() -> None:
    seconds = {"a": 1.0, "b": 9.0, "c": 2.0, "other": 7.0}
    labels = {"a": "target-x", "b": "target-x", "c": "target-x", "other": "target-y"}
    assert usual_seconds(seconds, labels) == {"a": 2.0, "b": 2.0, "c": 2.0, "other": 7.0}


def test_a_stage_costs_its_time_only_once(grid: Grid) -> None:
    replayed = _in_order(grid, [*SIBLINGS, SIBLINGS[0]], concurrent=1)
    assert [trial.spent_s for trial in replayed.ended] == [2 + TARGETS, 2 + 2 * TARGETS, 2 + 2 * TARGETS]


def test_concurrent_trials_wait_for_shared_stages_instead_of_running_them_twice(grid: Grid) -> None:
    replayed = _in_order(grid, SIBLINGS, concurrent=2)
    assert replayed.spent_s == 2 + 2 * TARGETS
    assert [trial.choice for trial in replayed.ended] == SIBLINGS


@pytest.mark.parametrize("name", list(CONTESTANTS))
def test_no_contestant_spends_more_than_the_whole_grid(name: str, grid: Grid) -> None:
    ended = replay(grid, STUDY, CONTESTANTS[name], concurrent=2)
    assert {trial.choice for trial in ended} <= set(CHOICES)
    assert max(trial.spent_s for trial in ended) <= grid.total_s
    assert any(trial.score is not None for trial in ended)
    if "ASHA" not in name:
        assert all(trial.score is not None for trial in ended)


def test_the_studys_own_search_first_completes_every_default(grid: Grid) -> None:
    ended = replay(grid, STUDY, CONTESTANTS[OURS], concurrent=1)
    defaults = STUDY.space.defaults()
    assert [trial.choice for trial in ended[: len(defaults)]] == defaults
    assert all(trial.score is not None for trial in ended[: len(defaults)])
    assert ended == replay(grid, STUDY, CONTESTANTS[OURS], concurrent=1)
    other = dataclasses.replace(STUDY, seed=1)
    assert ended != replay(grid, other, CONTESTANTS[OURS], concurrent=1)


def test_the_trial_store_has_the_score_at_which_a_trial_was_stopped(grid: Grid) -> None:
    """Otherwise TPE learns nothing from the trial, and ASHA of a resumed search compares with fewer trials."""
    ours = CONTESTANTS[OURS]
    with ExitStack() as stack:
        searcher = own_searcher(STUDY, stack, concurrent=2)
        Replay(grid, searcher, ours.rungs(STUDY), concurrent=2, trials=len(CHOICES)).run()
        stopped = [record for record in searcher.trial_store.records if record.outcome is TrialOutcome.STOPPED_EARLY]
    assert stopped
    for record in stopped:
        assert record.partial_scores[record.metrics[TARGETS_FINISHED]] == record.metrics[DEV_SCORE]


def test_the_best_score_over_time_and_the_time_until_it_is_near(grid: Grid) -> None:
    total, best = grid.total_s, grid.cells[BEST].reports[-1][DEV_SCORE]
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


def test_the_ratio_of_shared_trainings_is_that_of_their_counts() -> None:
    """With trainings of 1 s: (40 + 36) / (8 + 36); then with intermediate trainings of 2 s."""
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
