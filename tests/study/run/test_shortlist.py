"""The order of choices by estimates, and what a search of the first few spares."""

from __future__ import annotations

from pathlib import Path

import pytest

from study.run.shortlist import Place, order, seconds_of_stages, spared
from study.spec import Study
from tests.benchmarks.micro_grid import SINGLE, micro_grid
from trainables.stages.base import Stage
from trainables.stages.finetune import Tuned
from trainables.store.stage_store import StageStore

CHOICES, TARGETS = ("none", "a", "b"), ("x", "y", "z")


def test_ranks_and_not_values_are_averaged_over_targets() -> None:
    values = {("none", "x"): 0.0, ("a", "x"): 1000.0, ("b", "x"): 1.0}
    values |= {("none", "y"): 0.2, ("a", "y"): 0.1, ("b", "y"): 0.3}
    assert order(values, CHOICES, TARGETS) == [Place("b", 1.5), Place("a", 2.0), Place("none", 2.5)]


def test_equal_choices_share_a_rank_and_keep_the_recipes_order() -> None:
    values = {("b", "x"): 1.0, ("a", "x"): 1.0, ("none", "x"): 2.0}
    assert order(values, CHOICES, TARGETS) == [Place("none", 1.0), Place("a", 2.5), Place("b", 2.5)]


def test_a_choice_without_a_value_that_others_have_is_not_ranked() -> None:
    values = {("a", "x"): 1.0, ("b", "x"): 2.0, ("a", "y"): 1.0, ("b", "y"): 1.0, ("none", "y"): 3.0}
    assert [place.choice for place in order(values, CHOICES, TARGETS)] == ["b", "a"]
    assert order({}, CHOICES, TARGETS) == []


@pytest.fixture(scope="module")
def study() -> Study:
    return micro_grid(lr_intermediate=(5e-4,), lr_target=(1e-3,))


def _seconds(stage: Stage) -> float:
    """Trainings of intermediate tasks take ten seconds, all else one."""
    return 10.0 if isinstance(stage, Tuned) and stage.task.role == "intermediate" else 1.0


def test_the_share_spared_counts_shared_trainings_once(study: Study) -> None:
    """A choice has four target trainings and five evaluations: 9 s; eight of the nine choices another 10 s."""
    (size,) = study.sizes
    names, everything = [task.name for task in SINGLE], 9 * 9 + 8 * 10
    shares = spared(study, size, names, seconds=_seconds, estimated_from=(), estimates_s=0.0)
    assert shares == pytest.approx([1 - (9 + 19 * count) / everything for count in range(1, 5)])
    bases = [study.base(size, choice) for choice in study.space_of(size).defaults()]
    shares = spared(study, size, names, seconds=_seconds, estimated_from=bases, estimates_s=5.0)
    assert shares == pytest.approx([1 - (9 * (1 + count) + 80 + 5) / everything for count in range(1, 5)])


def test_seconds_are_the_measured_ones_where_there_are_any(study: Study, tmp_path: Path) -> None:
    (size,) = study.sizes
    evaluate = study.chain(size, study.space.defaults()[0])[0]
    store = StageStore(tmp_path)
    store.commit(evaluate.model, store.workspace(evaluate.model), {}, {"seconds": 123.0})
    seconds = seconds_of_stages(study, size, tmp_path)
    assert seconds(evaluate.model) == 123.0
    other = study.chain(size, study.space.defaults()[1])[0].model
    assert seconds(other) == pytest.approx(123.0)  # the same target of the same encoder
