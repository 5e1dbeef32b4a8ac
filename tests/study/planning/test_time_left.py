"""How long the rest of a study takes: from what is missing, what was measured, and what runs side by side."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from study.planning.stage_times import Pace, PlannedStage, StageTimes, fast, planned, slow
from study.planning.study_estimate import StudyEstimate, predicted_search
from study.planning.time_left import SizeWork, about, chance_of_target, side_by_side_s
from study.spec import Choice, LadderEncoder, Repeats, Shape, Size, Study
from tests.support import recipes
from trainables.stages.base import Stage
from trainables.store.stage_store import StageStore

# A second for every step and stage, so that seconds can be counted.
PACE = Pace(1e30, step_s=1.0, stage_s=1.0, launch_s=10.0, start_s=5.0, windows=1.0, benchmark_s=7.0, report_s=3.0)


class Clock:
    """A clock that the test sets, in seconds."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def _estimate(
    study: Study, output: Path, *, gflops: float | None = 100.0, cores: float = 1.0, clock: Clock | None = None
) -> StudyEstimate:
    return StudyEstimate(study, output, capacity={"CPU": cores}, gflops=gflops, clock=clock or Clock())


def _store(output: Path, stage: Stage, seconds: float) -> None:
    """As if the stage had taken so many seconds."""
    store = StageStore(output)
    store.commit(stage, store.workspace(stage), {}, {"seconds": seconds})


def _store_trial(study: Study, size: Size, choice: Choice, output: Path, seconds: float) -> None:
    """The stages of a trial, and the encoder."""
    for evaluate in study.chain(size, choice):
        for stage in (*evaluate.parents, evaluate):
            if StageStore(output).find(stage) is None:
                _store(output, stage, seconds)
    _store(output, study.base(size, choice), seconds)
    for parent in study.encoder_stage(size).parents:
        _store(output, parent, seconds)


def test_a_stage_takes_as_long_as_those_like_it() -> None:
    """In this order: stages of the same label, of the same kind, any; and what the pace says where none is measured."""
    names = ("target-a-small", "target-a-large", "evaluate-a-small")
    a, large, scored = (PlannedStage(f"{label}@1", label, flops=1.0, steps=9) for label in names)
    again = dataclasses.replace(a, name="target-a-small@2", steps=19)
    stages = (a, again, large, scored)
    assert [StageTimes(PACE, stages, {}).seconds(stage) for stage in stages] == [10.0, 20.0, 10.0, 10.0]
    times = StageTimes(PACE, stages, {a.name: 30.0, scored.name: 5.0})
    assert times.seconds(again) == 60.0, "twice the expected time, three times as slow"
    assert times.seconds(large) == 30.0, "of the same kind"
    pretraining = PlannedStage("pretrain-x@1", "pretrain-x", flops=1.0, steps=9)
    assert times.seconds(pretraining) == pytest.approx(17.5), "the median of all that compute"
    assert times.seconds(PlannedStage("import-x@1", "import-x")) == 1.0, "trainings tell nothing of an import"
    assert times.knows("target")
    assert not times.knows("import")


def test_the_median_forgives_a_first_stage_that_imported_libraries() -> None:
    stages = [PlannedStage(f"target-a-small@{number}", "target-a-small", steps=9) for number in range(4)]
    times = StageTimes(PACE, stages, {stages[0].name: 500.0, stages[1].name: 10.0, stages[2].name: 12.0})
    assert times.seconds(stages[3]) == 12.0


def test_a_larger_size_is_expected_to_take_longer() -> None:
    study = recipes.inline()
    (small,) = study.sizes
    assert isinstance(small.encoder, LadderEncoder)
    large = dataclasses.replace(small, encoder=dataclasses.replace(small.encoder, shape=Shape(4, 512)))
    choice = study.space.defaults()[0]
    seconds = [
        planned(study, size, study.chain(size, choice)[0].model).expected_s(slow(100.0)) for size in (small, large)
    ]
    assert seconds[1] > 2 * seconds[0]


@pytest.mark.parametrize(
    ("work", "cores", "expected"),
    [
        ({"a": SizeWork(4, 40.0)}, 1, 40.0),
        ({"a": SizeWork(4, 40.0)}, 2, 20.0),
        ({"a": SizeWork(1, 40.0)}, 4, 40.0),  # a single trial does not get faster
        ({"a": SizeWork(4, 40.0), "b": SizeWork(4, 10.0)}, 2, 25.0),  # b's core is a's once b is over
        ({"a": SizeWork(4, 40.0), "wide": SizeWork(2, 30.0)}, 2, 50.0),  # waits, or is waited for
        ({"huge": SizeWork(2, 30.0)}, 2, 30.0),  # asks for more than there is, as on a laptop
        ({"a": SizeWork(0, 0.0)}, 1, 0.0),
    ],
)
def test_sizes_share_the_cores(work: dict[str, SizeWork], cores: int, expected: float) -> None:
    requests = {"a": {"CPU": 1.0}, "b": {"CPU": 1.0}, "wide": {"CPU": 2.0}, "huge": {"CPU": 8.0}}
    assert side_by_side_s(work, requests, capacity={"CPU": float(cores)}) == pytest.approx(expected)


def test_asha_makes_late_targets_of_sampled_trials_unlikely() -> None:
    study = recipes.inline()
    (size,) = study.sizes
    default, sampled = study.space.defaults()[0], predicted_search(study, size)[-1]
    assert not study.space.is_default(sampled)
    assert [chance_of_target(study, size, default, index) for index in range(3)] == [1, 1, 1]
    # Rungs after 2 and 6 targets, where one in three continues.
    assert [chance_of_target(study, size, sampled, index) for index in range(3)] == pytest.approx([1, 1, 1 / 3])
    assert chance_of_target(study, size, dataclasses.replace(sampled, seed=1), 2) == 1, "a repeat"


def test_stages_in_the_store_cost_nothing(tmp_path: Path) -> None:
    """Trials whose stages were in the store took no time; those to come must not be thought to take none either."""
    study = recipes.inline()
    (size,) = study.sizes
    clock = Clock()
    estimate = _estimate(study, tmp_path, clock=clock)
    first, *others = study.space.defaults()
    _store_trial(study, size, first, tmp_path, seconds=60.0)
    estimate.trial_started(size.name, first)
    clock.now = 1.0
    estimate.trial_ended(size.name, first)
    left = estimate.snapshot().seconds_left
    assert left is not None
    assert left > 60.0 * len(others), "at least a target training of a minute for each default cell"
    for choice in others:
        _store_trial(study, size, choice, tmp_path, seconds=60.0)
    snapshot = estimate.snapshot()
    assert snapshot.seconds_left is not None
    assert snapshot.seconds_left < left - 60.0
    assert snapshot.trials == {size.name: (1, study.trials)}
    assert snapshot.stages_done == len(list(tmp_path.glob("stages/*@*")))


def test_the_estimate_is_of_the_whole_study(tmp_path: Path) -> None:
    """Encoder, search, repeats, benchmark and report; each counts until it is over."""
    study = recipes.inline()
    (size,) = study.sizes
    whole = dataclasses.replace(study, repeats=Repeats(seeds=2, top=1), benchmark=recipes.tiny().benchmark)

    def left(estimate: StudyEstimate) -> float:
        seconds = estimate.snapshot().seconds_left
        assert seconds is not None
        return seconds

    search, everything = left(_estimate(study, tmp_path)), left(_estimate(whole, tmp_path))
    assert everything > search
    clock = Clock()
    estimate = _estimate(whole, tmp_path, clock=clock)
    estimate.searched(size.name)
    benchmark = left(estimate)
    assert benchmark < everything
    with estimate.benchmark_of(size.name):
        clock.now = 3.0
        assert left(estimate) == pytest.approx(benchmark - 3.0)
    assert left(estimate) < benchmark - 3.0


def test_a_benchmark_scores_what_differs_from_the_search_and_an_overdue_one_is_not_nearly_over(tmp_path: Path) -> None:
    variants = ("fp32", "int8", "compiled")  # the search scored fp32
    study = dataclasses.replace(
        recipes.inline(), benchmark=dataclasses.replace(recipes.tiny().benchmark, variants=variants)
    )
    (size,) = study.sizes
    clock = Clock()
    estimate = _estimate(study, tmp_path, clock=clock)
    estimate.resume(size.name, study.space.defaults(), ())
    estimate.searched(size.name)

    def left() -> float:
        seconds = estimate.snapshot().seconds_left
        assert seconds is not None
        return seconds

    scored_fast = left()
    _store_trial(study, size, study.space.defaults()[0], tmp_path, seconds=100.0)
    chains = 2  # the best trial, and the best without an intermediate task
    evaluations = 100.0 * len(study.targets) * 2 * chains
    assert scored_fast + 1.5 * evaluations > left() > scored_fast + 0.9 * evaluations
    after = left() - evaluations
    with estimate.benchmark_of(size.name):
        clock.now = 10_000.0
        assert left() == pytest.approx(0.2 * 10_000.0, rel=0.01), "overdue by far"
    assert left() < after


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
    estimate = _estimate(two, tmp_path, clock=clock)
    for name in (size.name, "other"):
        estimate.searched(name)

    def left() -> float:
        seconds = estimate.snapshot().seconds_left
        assert seconds is not None
        return seconds

    both = left()
    repeats = len(plan.variants) * plan.repeats
    with estimate.benchmark_of(size.name) as to_measure:
        to_measure(repeats if measured else 0, 0)
        clock.now = 10 * both if measured else 0.1
        to_measure(0, 0)
    assert (left() > 5 * both) is longer
    assert left() > 0.4 * both, "the other size's benchmark is still to come"


def test_what_is_left_of_a_benchmark_follows_the_repeats_that_are_stored(tmp_path: Path) -> None:
    """The first repeats score and take long; those that follow do not, and are not thought to."""
    plan = dataclasses.replace(recipes.tiny().benchmark, variants=("int8", "compiled"), repeats=3)
    study = dataclasses.replace(recipes.inline(), benchmark=plan)
    (size,) = study.sizes
    _store_trial(study, size, study.space.defaults()[0], tmp_path, seconds=100.0)
    clock = Clock()
    estimate = _estimate(study, tmp_path, clock=clock)
    estimate.resume(size.name, study.space.defaults(), ())
    estimate.searched(size.name)

    def left() -> float:
        seconds = estimate.snapshot().seconds_left
        assert seconds is not None
        return seconds

    whole, scoring_s = left(), 2 * 100.0 * len(study.targets)
    with estimate.benchmark_of(size.name) as to_measure:
        to_measure(6, 2)
        assert left() == pytest.approx(whole)
        clock.now = 3 * scoring_s  # longer than all
        to_measure(4, 0)
        repeats_left = left()
        assert repeats_left == pytest.approx(whole - 2 * scoring_s, rel=0.35)
        to_measure(2, 0)
        assert left() < repeats_left < scoring_s


def test_a_benchmark_that_fails_is_over(tmp_path: Path) -> None:
    study = dataclasses.replace(recipes.inline(), benchmark=recipes.tiny().benchmark)
    (size,) = study.sizes
    clock = Clock()
    estimate = _estimate(study, tmp_path, clock=clock)
    estimate.searched(size.name)
    before = estimate.snapshot().seconds_left
    with pytest.raises(RuntimeError, match="no node"), estimate.benchmark_of(size.name):
        raise RuntimeError("no node")
    clock.now = 1000.0
    after = estimate.snapshot().seconds_left
    assert before is not None
    assert after is not None
    assert after < before


def test_repeats_replace_their_prediction(tmp_path: Path) -> None:
    study = dataclasses.replace(recipes.inline(), repeats=Repeats(seeds=2, top=1))
    (size,) = study.sizes
    estimate = _estimate(study, tmp_path)
    repeats = study.repeats_of(study.space.defaults()[0])
    estimate.repeating(size.name, repeats)
    before = estimate.snapshot().seconds_left
    estimate.trial_started(size.name, repeats[0])
    estimate.trial_ended(size.name, repeats[0])
    after = estimate.snapshot().seconds_left
    assert before is not None
    assert after is not None
    assert after < before


def test_a_running_stage_counts_by_what_is_left_of_it(tmp_path: Path) -> None:
    study = recipes.inline()
    (size,) = study.sizes
    estimate = _estimate(study, tmp_path)
    label = study.encoder_stage(size).label
    whole, half = (estimate.snapshot({label: share}).seconds_left for share in (0.0, 0.5))
    assert whole is not None
    assert half is not None
    pretraining = planned(study, size, study.encoder_stage(size))
    assert 0 < whole - half < pretraining.expected_s(slow(100.0))


def test_what_a_trial_takes_beside_its_stages_is_learned(tmp_path: Path) -> None:
    """The start of a Ray Train group takes seconds on one machine and minutes on another."""
    study = recipes.tiny()
    size = study.sizes[1]
    clock = Clock()
    estimate = _estimate(study, tmp_path, clock=clock, cores=2.0)
    choice = study.space.defaults()[0]
    estimate.trial_started(size.name, choice)
    _store_trial(study, size, choice, tmp_path, seconds=1.0)
    clock.now = 400.0
    estimate.trial_ended(size.name, choice)
    left = estimate.snapshot().seconds_left
    assert left is not None
    assert left > 350.0, "one more trial"


def test_without_a_measured_rate_the_first_trial_tells(tmp_path: Path) -> None:
    study = recipes.inline()
    (size,) = study.sizes
    estimate = _estimate(study, tmp_path, gflops=None)
    assert estimate.snapshot().seconds_left is None
    assert estimate.time_left() == ""
    assert estimate.range_s(fast(100.0), slow(100.0)) is None
    _store_trial(study, size, study.space.defaults()[0], tmp_path, seconds=3600.0)
    assert "hours left" in estimate.time_left()


def test_the_range_is_narrow_where_stages_were_measured(tmp_path: Path) -> None:
    study = recipes.inline()
    (size,) = study.sizes

    def width(estimate: StudyEstimate) -> float:
        likely = estimate.range_s(fast(100.0), slow(100.0))
        assert likely is not None
        return likely[1] / likely[0]

    assert width(_estimate(study, tmp_path)) > 2
    _store_trial(study, size, study.space.defaults()[0], tmp_path, seconds=3600.0)
    assert width(_estimate(study, tmp_path)) < 1.6


def test_trials_that_fill_the_memory_run_one_after_the_other(tmp_path: Path) -> None:
    """Two sizes whose trials fit the four cores side by side, and take all of the memory each."""
    (size,) = recipes.inline().sizes
    study = dataclasses.replace(recipes.inline(), sizes=(size, dataclasses.replace(size, name="other")))
    estimate = _estimate(study, tmp_path, cores=4.0)
    amounts = {"CPU": 4.0, "memory": 4e9}

    def left(memory_gb: float) -> float:
        sized = [
            dataclasses.replace(one, resources=dataclasses.replace(one.resources, memory_gb=memory_gb))
            for one in study.sizes
        ]
        estimate.on_cluster(sized, amounts)
        seconds = estimate.snapshot().seconds_left
        assert seconds is not None
        return seconds

    before = estimate.snapshot().seconds_left
    assert before == left(1.0), "memory for four trials"
    assert left(2.0) > 1.2 * left(1.0)
    assert left(4.0) > 1.2 * left(2.0)


def test_before_the_cluster_is_known_only_cores_count(tmp_path: Path) -> None:
    study = recipes.inline()
    (size,) = study.sizes
    named = dataclasses.replace(size, resources=dataclasses.replace(size.resources, memory_gb=1.0))
    with_memory = _estimate(dataclasses.replace(study, sizes=(named,)), tmp_path, cores=4.0)
    assert with_memory.snapshot() == _estimate(study, tmp_path, cores=4.0).snapshot()


def test_an_unreadable_manifest_is_no_measurement(tmp_path: Path) -> None:
    study = recipes.inline()
    (size,) = study.sizes
    estimate = _estimate(study, tmp_path, gflops=None)
    _store_trial(study, size, study.space.defaults()[0], tmp_path, seconds=60.0)
    for manifest in tmp_path.glob("stages/target-*/manifest.json"):
        manifest.write_text(json.dumps({"files": []}))
    assert estimate.snapshot().seconds_left is None


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        ((3.0,), "less than half a minute"),
        ((44.0,), "about 40 seconds"),
        ((61.0, 94.0), "about 60 to 90 seconds"),
        ((20.0, 130.0), "about 1 to 2 minutes"),
        ((185.0, 350.0), "about 3 to 6 minutes"),
        ((7000.0, 13000.0), "about 2 to 3.5 hours"),
        ((40 * 86400.0,), "about 960 hours"),
    ],
)
def test_durations_in_words(seconds: tuple[float, ...], words: str) -> None:
    assert about(*seconds) == words
