"""Which trials ASHA stops."""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Sequence
from types import SimpleNamespace

import pytest
from ray.tune.schedulers import ASHAScheduler, TrialScheduler

from study.search.asha import Rungs, rungs
from study.search.records import DEV_SCORE, TARGETS_FINISHED, TrialOutcome, TrialRecord
from study.spec import Study
from study.spec.space import Choice
from tests.study.search.conftest import STUDY

DEFAULT = STUDY.space.defaults()[0]
SAMPLED = dataclasses.replace(DEFAULT, lr_target=STUDY.space.lr_target[1])  # type: ignore[index]


def _record(name: str, choice: Choice, partial_scores: dict[int, float]) -> TrialRecord:
    return TrialRecord(name, choice, TrialOutcome.COMPLETE, {}, partial_scores=partial_scores)


def _rungs(study: Study, records: Sequence[TrialRecord] = ()) -> Rungs:
    return Rungs(study, exempt=study.space.is_default, records=records)


@pytest.mark.parametrize(("choice", "stopped"), [(SAMPLED, True), (DEFAULT, False)])
def test_a_bad_trial_is_stopped_at_the_first_rung_unless_it_is_a_default_cell(choice: Choice, stopped: bool) -> None:
    """A tenth trial, far below nine others after two targets, which is the first rung."""
    rungs_ = _rungs(STUDY, [_record(f"t{n}", DEFAULT, {1: 1.0, 2: 80.0 + n}) for n in range(9)])
    assert not rungs_.stops("last", choice, targets_finished=1, score=1.0), "one target is no rung"
    assert rungs_.stops("last", choice, targets_finished=2, score=1.0) is stopped


def test_the_first_trial_at_a_rung_is_never_stopped() -> None:
    assert not _rungs(STUDY).stops("first", SAMPLED, targets_finished=2, score=1.0)


def test_a_study_may_move_the_first_rung() -> None:
    early = _rungs(dataclasses.replace(STUDY, first_rung=1), [_record("t0", SAMPLED, {1: 80.0})])
    assert early.stops("next", SAMPLED, targets_finished=1, score=1.0)


def test_rungs_are_multiples_of_the_first_up_to_the_number_of_targets() -> None:
    """With 9 targets, `first_rung` 2 and `reduction_factor` 2, trials are compared after 2, 4 and 8 of them."""
    study = dataclasses.replace(STUDY, first_rung=2, reduction_factor=2)
    object.__setattr__(
        study, "targets", 3 * STUDY.targets
    )  # past the check of the study: only their number counts here
    earlier = _record("earlier", SAMPLED, dict.fromkeys(range(1, 10), 80.0))

    def stopped_at(bad: int) -> bool:
        rungs_ = _rungs(study, [earlier])
        scores = [*[90.0] * (bad - 1), 1.0]
        stops = [rungs_.stops("t", SAMPLED, targets_finished=n, score=score) for n, score in enumerate(scores, 1)]
        return stops[-1]

    assert [bad for bad in range(1, 10) if stopped_at(bad)] == [2, 4, 8]


def _random_reports(rng: random.Random, targets: int) -> list[tuple[str, int, float]]:
    """Reports of trials that run side by side: trial, finished targets and score, with ties, NaN and restarted trials."""
    running: dict[str, int] = {}
    reports: list[tuple[str, int, float]] = []
    started = 0
    while len(reports) < 150:
        if len(running) < 3:
            running[f"t{started}"] = 0
            started += 1
        name = rng.choice(list(running))
        running[name] = 1 if rng.random() < 0.05 else running[name] + 1  # a restarted trial reports from the start
        score = math.nan if rng.random() < 0.05 else round(rng.gauss(50, 5), rng.choice((0, 3)))
        reports.append((name, running[name], score))
        if running[name] == targets:
            del running[name]
    return reports


@pytest.mark.parametrize("seed", range(20))
def test_trials_stop_where_rays_scheduler_stops_them(seed: int) -> None:
    rng = random.Random(seed)
    targets, first, factor = rng.randint(1, 12), rng.randint(1, 4), rng.randint(2, 4)
    study = SimpleNamespace(targets=range(targets), first_rung=first, reduction_factor=factor)
    own = Rungs(study, exempt=lambda choice: False)  # type: ignore[arg-type]
    rays = ASHAScheduler(
        time_attr=TARGETS_FINISHED,
        metric=DEV_SCORE,
        mode="max",
        grace_period=min(first, targets),
        reduction_factor=factor,
        max_t=targets + 1,
    )
    added = set[str]()
    for name, finished, score in _random_reports(rng, targets):
        trial = SimpleNamespace(trial_id=name)
        if name not in added:
            added.add(name)
            rays.on_trial_add(None, trial)
        action = rays.on_trial_result(None, trial, {TARGETS_FINISHED: finished, DEV_SCORE: score})
        assert own.stops(name, SAMPLED, targets_finished=finished, score=score) is (action == TrialScheduler.STOP)


def test_rungs_end_with_the_targets() -> None:
    assert rungs(2, factor=3, targets=5) == (2,)
    assert rungs(2, factor=3, targets=6) == (2, 6)
    assert rungs(4, factor=2, targets=3) == (3,)
