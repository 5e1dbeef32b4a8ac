"""How long the rest of a study takes: from what is missing, what was measured, and one more trial or the whole search."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from study.planning.estimate.stage_times import fast, slow
from study.planning.estimate.study_estimate import StudyEstimate
from study.planning.estimate.trials import predicted_search
from study.planning.stages import stages_of
from study.spec import Repeats
from tests.study.planning.estimate.helpers import Clock, estimate_of, seconds_left, store_stage, store_trial, to_end
from tests.support import recipes


def test_stages_in_the_store_cost_nothing(tmp_path: Path) -> None:
    """Trials whose stages were in the store took no time; those to come must not be thought to take none either."""
    study = recipes.inline()
    (size,) = study.sizes
    clock = Clock()
    estimate = estimate_of(study, tmp_path, clock=clock)
    first, *others = study.space.defaults()
    store_trial(study, size, first, tmp_path, seconds=60.0)
    estimate.trial_started(size.name, first)
    clock.now = 1.0
    estimate.trial_ended(size.name, first)
    left = seconds_left(estimate)
    assert left > 60.0 * len(others), "at least a target training of a minute for each default cell"
    for choice in others:
        store_trial(study, size, choice, tmp_path, seconds=60.0)
    snapshot = estimate.snapshot()
    assert snapshot.seconds_left is not None
    assert snapshot.seconds_left < left - 60.0
    assert snapshot.trials == {size.name: (1, study.trials)}
    assert snapshot.stages_done == len(list(tmp_path.glob("stages/*@*")))


def test_the_time_to_the_end_with_one_more_trial(tmp_path: Path) -> None:
    """The default cells, that trial, repeats and benchmark: less than the whole search. What is stored takes nothing."""
    study = recipes.inline()
    (size,) = study.sizes
    whole = dataclasses.replace(study, trials=4, repeats=Repeats(seeds=2, top=1), benchmark=recipes.tiny().benchmark)
    estimate = estimate_of(whole, tmp_path)
    sampled = predicted_search(whole, size)[2:]
    of_default, of_sampled = (to_end(estimate, size, choice) for choice in (whole.space.defaults()[0], sampled[0]))
    assert of_default < of_sampled < seconds_left(estimate)
    one_each = to_end(estimate, size, sampled[0], {size.name: 3600.0})
    assert to_end(estimate, size, sampled[0], {size.name: 7200.0}) == pytest.approx(2 * one_each)
    assert estimate.spent({size.name: 3600.0}) == 0.0
    for stage in {stage for evaluate in whole.chain(size, sampled[0]) for stage in stages_of(evaluate)}:
        store_stage(tmp_path, stage, 60.0)
    assert estimate.trial_seconds()(size.name, sampled[0]) == 0.0
    assert estimate.trial_seconds()(size.name, sampled[1]) > 0.0
    estimate.trial_started(size.name, sampled[0])
    stages = len(list(tmp_path.glob("stages/*@*")))
    assert estimate.spent({size.name: 3600.0}) == pytest.approx(60.0 * stages)
    assert estimate_of(whole, tmp_path / "new", gflops=None).to_end(size.name, sampled[0]) is None


def test_a_default_cell_is_asked_for_by_itself(tmp_path: Path) -> None:
    """So that a budget too small for all of them tries some: the others do not count, nor repeats of what was not tried."""
    study = dataclasses.replace(recipes.inline(), trials=4, benchmark=recipes.tiny().benchmark)
    (size,) = study.sizes
    repeated = dataclasses.replace(study, repeats=Repeats(seeds=2, top=2))
    first, second = study.space.defaults()[:2]
    estimate = estimate_of(study, tmp_path)
    alone = to_end(estimate, size, first)
    of_both = to_end(estimate, size, predicted_search(study, size)[2])
    assert alone < to_end(estimate_of(repeated, tmp_path), size, first) < of_both + 2 * alone
    estimate.trial_started(size.name, first)
    assert alone < to_end(estimate, size, second)


def test_default_cells_of_a_search_that_is_over_are_not_to_come(tmp_path: Path) -> None:
    """As of a size whose encoder failed."""
    study = recipes.inline()
    (size,) = study.sizes
    failed = dataclasses.replace(size, name="failed")
    study = dataclasses.replace(study, trials=4)
    choice = predicted_search(study, size)[2]
    alone = to_end(estimate_of(study, tmp_path), size, choice)
    estimate = estimate_of(dataclasses.replace(study, sizes=(size, failed)), tmp_path)
    assert to_end(estimate, size, choice) > 1.5 * alone
    estimate.searched("failed")
    assert to_end(estimate, size, choice) == pytest.approx(alone)


def test_the_estimate_is_of_the_whole_study(tmp_path: Path) -> None:
    """Encoder, search, repeats, benchmark and report; each counts until it is over."""
    study = recipes.inline()
    (size,) = study.sizes
    whole = dataclasses.replace(study, repeats=Repeats(seeds=2, top=1), benchmark=recipes.tiny().benchmark)

    search, everything = seconds_left(estimate_of(study, tmp_path)), seconds_left(estimate_of(whole, tmp_path))
    assert everything > search
    clock = Clock()
    estimate = estimate_of(whole, tmp_path, clock=clock)
    estimate.searched(size.name)
    benchmark = seconds_left(estimate)
    assert benchmark < everything
    with estimate.benchmark_of(size.name):
        clock.now = 3.0
        assert seconds_left(estimate) == pytest.approx(benchmark - 3.0)
    assert seconds_left(estimate) < benchmark - 3.0


def test_repeats_replace_their_prediction(tmp_path: Path) -> None:
    study = dataclasses.replace(recipes.inline(), repeats=Repeats(seeds=2, top=1))
    (size,) = study.sizes
    estimate = estimate_of(study, tmp_path)
    repeats = study.repeats_of(study.space.defaults()[0])
    estimate.repeating(size.name, repeats)
    before = seconds_left(estimate)
    estimate.trial_started(size.name, repeats[0])
    estimate.trial_ended(size.name, repeats[0])
    assert seconds_left(estimate) < before


def test_what_a_trial_takes_beside_its_stages_is_learned(tmp_path: Path) -> None:
    """The start of a Ray Train group takes seconds on one machine and minutes on another."""
    study = recipes.tiny()
    size = study.sizes[1]
    clock = Clock()
    estimate = estimate_of(study, tmp_path, clock=clock, cores=2.0)
    choice = study.space.defaults()[0]
    estimate.trial_started(size.name, choice)
    store_trial(study, size, choice, tmp_path, seconds=1.0)
    clock.now = 400.0
    estimate.trial_ended(size.name, choice)
    assert seconds_left(estimate) > 350.0, "one more trial"


def test_without_a_measured_rate_the_first_trial_tells(tmp_path: Path) -> None:
    study = recipes.inline()
    (size,) = study.sizes
    estimate = estimate_of(study, tmp_path, gflops=None)
    assert estimate.snapshot().seconds_left is None
    assert estimate.time_left() == ""
    assert estimate.range_s(fast(100.0), slow(100.0)) is None
    store_trial(study, size, study.space.defaults()[0], tmp_path, seconds=3600.0)
    assert "hours left" in estimate.time_left()


def test_the_range_is_narrow_where_stages_were_measured(tmp_path: Path) -> None:
    study = recipes.inline()
    (size,) = study.sizes

    def width(estimate: StudyEstimate) -> float:
        likely = estimate.range_s(fast(100.0), slow(100.0))
        assert likely is not None
        return likely[1] / likely[0]

    assert width(estimate_of(study, tmp_path)) > 2
    store_trial(study, size, study.space.defaults()[0], tmp_path, seconds=3600.0)
    assert width(estimate_of(study, tmp_path)) < 1.6
