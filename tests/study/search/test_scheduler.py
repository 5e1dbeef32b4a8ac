"""Which trials ASHA stops."""

from __future__ import annotations

import dataclasses

import pytest

from study.search.records import TrialOutcome, TrialRecord
from study.search.scheduler import asha
from study.spec.space import Choice
from tests.study.search.conftest import STUDY

DEFAULT = STUDY.space.defaults()[0]
SAMPLED = dataclasses.replace(DEFAULT, lr_target=STUDY.space.lr_target[1])  # type: ignore[index]


def _record(name: str, choice: Choice, partial_scores: dict[int, float]) -> TrialRecord:
    return TrialRecord(name, choice, TrialOutcome.COMPLETE, {}, partial_scores=partial_scores)


@pytest.mark.parametrize(("choice", "stopped"), [(SAMPLED, True), (DEFAULT, False)])
def test_a_bad_trial_is_stopped_at_the_first_rung_unless_it_is_a_default_cell(choice: Choice, stopped: bool) -> None:
    """A tenth trial, far below nine others after two targets, which is the first rung."""
    scheduler = asha(STUDY, STUDY.sizes[0], [_record(f"t{n}", DEFAULT, {1: 1.0, 2: 80.0 + n}) for n in range(9)])
    assert not scheduler.stops("last", choice, targets_finished=1, score=1.0), "one target is no rung"
    assert scheduler.stops("last", choice, targets_finished=2, score=1.0) is stopped


def test_the_first_trial_at_a_rung_is_never_stopped() -> None:
    assert not asha(STUDY, STUDY.sizes[0]).stops("first", SAMPLED, targets_finished=2, score=1.0)


def test_a_study_may_move_the_first_rung() -> None:
    early = asha(dataclasses.replace(STUDY, first_rung=1), STUDY.sizes[0], [_record("t0", SAMPLED, {1: 80.0})])
    assert early.stops("next", SAMPLED, targets_finished=1, score=1.0)


def test_rungs_are_multiples_of_the_first_up_to_the_number_of_targets() -> None:
    """With 9 targets, `first_rung` 2 and `reduction_factor` 2, trials are compared after 2, 4 and 8 of them."""
    study = dataclasses.replace(STUDY, first_rung=2, reduction_factor=2)
    object.__setattr__(
        study, "targets", 3 * STUDY.targets
    )  # past the check of the study: only their number counts here
    earlier = _record("earlier", SAMPLED, dict.fromkeys(range(1, 10), 80.0))

    def stopped_at(bad: int) -> bool:
        scheduler = asha(study, study.sizes[0], [earlier])
        scores = [*[90.0] * (bad - 1), 1.0]
        stops = [scheduler.stops("t", SAMPLED, targets_finished=n, score=score) for n, score in enumerate(scores, 1)]
        return stops[-1]

    assert [bad for bad in range(1, 10) if stopped_at(bad)] == [2, 4, 8]
