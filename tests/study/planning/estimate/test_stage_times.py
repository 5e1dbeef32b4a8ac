"""How long a stage takes: as those like it took, else what its operations and an assumed pace suggest."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from study.planning.estimate.stage_times import Pace, PlannedStage, StageTimes, planned, slow
from study.spec import LadderEncoder, Shape
from tests.study.planning.estimate.helpers import estimate_of, seconds_left, store_trial
from tests.support import recipes

# A second for every step and stage, so that seconds can be counted.
PACE = Pace(1e30, step_s=1.0, stage_s=1.0, launch_s=10.0, start_s=5.0, windows=1.0, benchmark_s=7.0, report_s=3.0)


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


def test_a_running_stage_counts_by_what_is_left_of_it(tmp_path: Path) -> None:
    study = recipes.inline()
    (size,) = study.sizes
    estimate = estimate_of(study, tmp_path)
    label = study.encoder_stage(size).label
    whole, half = (seconds_left(estimate, {label: share}) for share in (0.0, 0.5))
    pretraining = planned(study, size, study.encoder_stage(size))
    assert 0 < whole - half < pretraining.expected_s(slow(100.0))


def test_an_unreadable_manifest_is_no_measurement(tmp_path: Path) -> None:
    study = recipes.inline()
    (size,) = study.sizes
    estimate = estimate_of(study, tmp_path, gflops=None)
    store_trial(study, size, study.space.defaults()[0], tmp_path, seconds=60.0)
    for manifest in tmp_path.glob("stages/target-*/manifest.json"):
        manifest.write_text(json.dumps({"files": []}))
    assert estimate.snapshot().seconds_left is None
