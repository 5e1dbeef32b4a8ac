"""Benchmarks that are still to come: what they score, what they have measured, and how they end."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from study.planning.estimate.benchmarks import BenchmarksLeft
from study.planning.estimate.study_estimate import StudyEstimate
from study.spec.benchmark_plan import Cascade
from tests.study.planning.estimate.helpers import Clock, estimate_of, seconds_left, store_trial, to_end
from tests.support import recipes
from trainables.benchmark.measurement import CASCADE


def test_a_size_without_an_encoder_has_nothing_to_benchmark(tmp_path: Path) -> None:
    """Unless an earlier run of the command finished trials of it; and a cascade takes two sizes."""
    study = recipes.inline()
    (size,) = study.sizes
    plan = dataclasses.replace(recipes.tiny().benchmark, cascade=Cascade(loss=0.5))
    two = dataclasses.replace(study, sizes=(size, dataclasses.replace(size, name="failed")), benchmark=plan)
    choice = study.space.defaults()[0]
    per_hour = {size.name: 0.0, "failed": 3600.0, CASCADE: 3600.0}

    def cost(estimate: StudyEstimate) -> float:
        estimate.encoder_failed("failed")
        return to_end(estimate, size, choice, per_hour)

    assert cost(estimate_of(two, tmp_path)) == 0.0
    resumed = estimate_of(two, tmp_path)
    resumed.resume("failed", [choice], [])
    assert cost(resumed) > 0.0
    one_left = estimate_of(two, tmp_path)
    alone = estimate_of(dataclasses.replace(study, benchmark=recipes.tiny().benchmark), tmp_path)
    one_left.encoder_failed("failed")
    assert to_end(one_left, size, choice) == pytest.approx(to_end(alone, size, choice))


def test_a_benchmark_scores_what_differs_from_the_search_and_an_overdue_one_is_not_nearly_over(tmp_path: Path) -> None:
    variants = ("fp32", "int8", "compiled")  # the search scored fp32
    study = dataclasses.replace(
        recipes.inline(), benchmark=dataclasses.replace(recipes.tiny().benchmark, variants=variants)
    )
    (size,) = study.sizes
    clock = Clock()
    estimate = estimate_of(study, tmp_path, clock=clock)
    estimate.resume(size.name, study.space.defaults(), ())
    estimate.searched(size.name)

    scored_fast = seconds_left(estimate)
    store_trial(study, size, study.space.defaults()[0], tmp_path, seconds=100.0)
    chains = 2  # the best trial, and the best without an intermediate task
    evaluations = 100.0 * len(study.targets) * 2 * chains
    assert scored_fast + 1.5 * evaluations > seconds_left(estimate) > scored_fast + 0.9 * evaluations
    after = seconds_left(estimate) - evaluations
    with estimate.benchmark_of(size.name):
        clock.now = 10_000.0
        assert seconds_left(estimate) == pytest.approx(0.2 * 10_000.0, rel=0.01), "overdue by far"
    assert seconds_left(estimate) < after


def test_a_cascade_is_still_to_come_until_it_was_measured(tmp_path: Path) -> None:
    study = recipes.inline()
    (size,) = study.sizes
    plan = dataclasses.replace(recipes.tiny().benchmark, variants=("fp32",))
    two = dataclasses.replace(study, sizes=(size, dataclasses.replace(size, name="other")))
    without = estimate_of(dataclasses.replace(two, benchmark=plan), tmp_path)
    estimate = estimate_of(
        dataclasses.replace(two, benchmark=dataclasses.replace(plan, cascade=Cascade(loss=0.5))), tmp_path
    )

    assert seconds_left(estimate) > seconds_left(without)
    choice, per_hour = study.space.defaults()[0], {size.name: 0.0, "other": 0.0, CASCADE: 3600.0}
    costs = [to_end(of, size, choice, per_hour) for of in (estimate, without)]
    assert costs[0] - costs[1] == pytest.approx(seconds_left(estimate) - seconds_left(without))
    for one in (without, estimate):
        for own in two.sizes:
            with one.benchmark_of(own.name) as to_measure:
                to_measure(0, 0)
    before = seconds_left(estimate)
    assert before > seconds_left(without), "only the cascade is left"
    with estimate.benchmark_of(CASCADE) as to_measure:
        to_measure(1, 1)
        assert seconds_left(estimate) == pytest.approx(before)
        to_measure(0, 0)
    assert seconds_left(estimate) == pytest.approx(seconds_left(without))


@pytest.mark.parametrize(("measured", "longer"), [(True, True), (False, False)])
def test_other_benchmarks_take_as_much_longer_as_the_measured_ones(
    tmp_path: Path, measured: bool, longer: bool
) -> None:
    """A benchmark that was stored, or had nothing to measure, tells nothing of the other size's."""
    study = recipes.inline()
    (size,) = study.sizes
    plan = recipes.tiny().benchmark
    two = dataclasses.replace(study, sizes=(size, dataclasses.replace(size, name="other")), benchmark=plan)
    clock = Clock()
    estimate = estimate_of(two, tmp_path, clock=clock)
    for name in (size.name, "other"):
        estimate.searched(name)

    both = seconds_left(estimate)
    repeats = len(plan.variants) * plan.repeats
    with estimate.benchmark_of(size.name) as to_measure:
        to_measure(repeats if measured else 0, 0)
        clock.now = 10 * both if measured else 0.1
        to_measure(0, 0)
    assert (seconds_left(estimate) > 5 * both) is longer
    assert seconds_left(estimate) > 0.4 * both, "the other size's benchmark is still to come"


def test_what_is_left_of_a_benchmark_follows_the_repeats_that_are_stored(tmp_path: Path) -> None:
    """The first repeats score and take long; those that follow do not, and are not thought to."""
    plan = dataclasses.replace(recipes.tiny().benchmark, variants=("int8", "compiled"), repeats=3)
    study = dataclasses.replace(recipes.inline(), benchmark=plan)
    (size,) = study.sizes
    store_trial(study, size, study.space.defaults()[0], tmp_path, seconds=100.0)
    clock = Clock()
    estimate = estimate_of(study, tmp_path, clock=clock)
    estimate.resume(size.name, study.space.defaults(), ())
    estimate.searched(size.name)

    whole, scoring_s = seconds_left(estimate), 2 * 100.0 * len(study.targets)
    with estimate.benchmark_of(size.name) as to_measure:
        to_measure(6, 2)
        assert seconds_left(estimate) == pytest.approx(whole)
        clock.now = 3 * scoring_s  # longer than all
        to_measure(4, 0)
        repeats_left = seconds_left(estimate)
        assert repeats_left == pytest.approx(whole - 2 * scoring_s, rel=0.35)
        to_measure(2, 0)
        assert seconds_left(estimate) < repeats_left < scoring_s


def test_a_benchmark_that_fails_is_over(tmp_path: Path) -> None:
    study = dataclasses.replace(recipes.inline(), benchmark=recipes.tiny().benchmark)
    (size,) = study.sizes
    clock = Clock()
    estimate = estimate_of(study, tmp_path, clock=clock)
    estimate.searched(size.name)
    before = seconds_left(estimate)
    with pytest.raises(RuntimeError, match="no node"), estimate.benchmark_of(size.name):
        raise RuntimeError("no node")
    clock.now = 1000.0
    assert seconds_left(estimate) < before


def test_a_benchmark_that_measured_nothing_new_tells_nothing_of_the_others() -> None:
    """Stored repeats of another machine are dropped while it runs, so that more is left than at the start."""
    study, clock = recipes.tiny(), Clock()
    first, second = (size.name for size in study.sizes)
    benchmarks = BenchmarksLeft(study, clock)

    def expected(name: str, to_measure: tuple[int, int] | None) -> float:
        return 5.0 if to_measure is None else float(to_measure[0])

    benchmarks.start(first)
    clock.now = 10.0
    benchmarks.say(2, 0)
    benchmarks.say(2, 2)
    benchmarks.end(expected)
    assert benchmarks.seconds(expected) == {second: 5.0}
