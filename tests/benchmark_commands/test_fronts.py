"""The replay of searches for the front: its clock, its area, and that what searches well in it would find a planted front."""

from __future__ import annotations

import dataclasses
import itertools
import math
import random

import pytest

from study.search.front.posterior import Point
from study.search.records import DEV_SCORE, TARGETS_FINISHED
from study.spec import Choice, Study
from tests.benchmarks.front_efficiency import CONTESTANTS, OURS, Curve, Ended, Replay, Task, measured_positions, seeded
from tests.benchmarks.grid_table import Cell, Grid
from tests.benchmarks.micro_grid import front_grid

WHOLE = front_grid()
STUDY = dataclasses.replace(WHOLE, space=dataclasses.replace(WHOLE.space, intermediates=WHOLE.space.intermediates[:2]))
LEVELS = {"1x64": (60.0, 1.0), "2x128": (75.0, 3.0), "4x192": (80.0, 9.0)}  # dev score, and seconds of a training


def planted(study: Study) -> dict[str, Grid]:
    """Scores that learning rates move by up to ten points, arms by two, and chance by half a point."""
    rng, grids = random.Random(0), {}
    for size, (level, seconds) in LEVELS.items():
        cells: dict[Choice, Cell] = {}
        stages: dict[str, float] = {}
        for choice in study.space.grid() or ():
            base = () if choice.intermediate == "none" else (f"{choice.intermediate} {choice.lr_intermediate}",)
            score = level - 5 * abs(math.log(choice.lr_target / 3e-3)) + 2 * (choice.intermediate != "none")
            score += rng.gauss(0, 0.5)
            needs = [(*base, f"{choice} {target}") for target in range(len(study.targets))]
            stages |= dict.fromkeys(itertools.chain.from_iterable(needs), seconds)
            reports = [
                {DEV_SCORE: score + rng.gauss(0, 1.5 / finished), TARGETS_FINISHED: finished}
                for finished in range(1, len(needs))
            ]
            cells[choice] = Cell((*reports, {DEV_SCORE: score, TARGETS_FINISHED: len(needs)}), tuple(needs))
        grids[size] = Grid(cells, stages)
    return grids


@pytest.fixture(scope="module")
def task() -> Task:
    return Task(STUDY, planted(STUDY), measured_positions())


def test_the_grid_of_three_sizes_has_117_choices_of_rates_that_no_recipe_has() -> None:
    assert sum(len(WHOLE.space_of(size).grid() or ()) for size in WHOLE.sizes) == 117
    assert all(size.resources.inline for size in WHOLE.sizes)


def test_positions_are_of_the_published_quickstart() -> None:
    positions = measured_positions()
    assert positions["1x64"] < positions["2x128"] < positions["4x192"]


def test_area_over_time_by_hand(task: Task) -> None:
    """A third of the seconds pass until a size is found, and the front is complete at half of them."""
    best = {size: max(grid.cells, key=lambda choice: grid.cells[choice].score) for size, grid in task.grids.items()}
    ended = [
        Ended(Point(size, best[size]), share * task.total_s, task.grids[size].best)
        for size, share in (("1x64", 0.2), ("2x128", 0.4), ("4x192", 0.5))
    ]
    curve = Curve(task, [Ended(Point("1x64", best["1x64"]), 0.1 * task.total_s, None), *ended])
    only_small = task.area({"1x64": task.grids["1x64"].best}) / task.best_area
    assert curve.missing_at(0.1) == 1.0
    assert curve.missing_at(0.25) == pytest.approx(1 - only_small)
    assert curve.share_until(0.01) == pytest.approx(0.5)
    assert curve.share_until_best() == pytest.approx(0.5)
    assert curve.mean_area(0.25) == pytest.approx(0.05 * only_small / 0.25)
    assert Curve(task, ended[:1]).share_until(0.01) is None


@pytest.mark.parametrize("name", list(CONTESTANTS))
def test_every_contestant_runs_to_its_end_without_repeating_a_choice(name: str, task: Task) -> None:
    ended = Replay(seeded(task, 1), CONTESTANTS[name], 2).run()
    points = [trial.point for trial in ended]
    assert len(set(points)) == len(points)
    assert ended[-1].spent_s <= task.total_s * (1 + 1e-9)
    if name != OURS:
        assert len(points) == len(task.points)


def test_the_front_is_found_sooner_than_in_a_random_order(task: Task) -> None:
    """The median of five seeds each, on the planted grid."""

    def median_share(name: str) -> float:
        shares = [
            Curve(task, Replay(seeded(task, seed), CONTESTANTS[name], 1).run()).share_until(0.01) for seed in range(5)
        ]
        return sorted(math.inf if share is None else share for share in shares)[2]

    assert median_share(OURS) < 0.6 * median_share("random")


def test_every_default_cell_runs_to_its_end(task: Task) -> None:
    ended = Replay(task, CONTESTANTS[OURS], 1).run()
    complete = {trial.point for trial in ended if trial.score is not None}
    assert {Point(size.name, choice) for size in STUDY.sizes for choice in STUDY.space.defaults()} <= complete
    assert len(ended) < len(task.points), "what cannot move the front is not trained"
