"""Work that sizes do side by side, how likely a trial gets to a target, and durations in words."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from study.planning.estimate.time_left import SizeWork, about, chance_of_target, side_by_side_s
from study.planning.estimate.trials import predicted_search
from tests.study.planning.estimate.helpers import estimate_of, seconds_left
from tests.support import recipes


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


def test_trials_that_fill_the_memory_run_one_after_the_other(tmp_path: Path) -> None:
    """Two sizes whose trials fit the four cores side by side, and take all of the memory each."""
    (size,) = recipes.inline().sizes
    study = dataclasses.replace(recipes.inline(), sizes=(size, dataclasses.replace(size, name="other")))
    estimate = estimate_of(study, tmp_path, cores=4.0)
    amounts = {"CPU": 4.0, "memory": 4e9}

    def left(memory_gb: float) -> float:
        sized = [
            dataclasses.replace(one, resources=dataclasses.replace(one.resources, memory_gb=memory_gb))
            for one in study.sizes
        ]
        estimate.on_cluster(sized, amounts)
        return seconds_left(estimate)

    before = seconds_left(estimate)
    assert before == left(1.0), "memory for four trials"
    assert left(2.0) > 1.2 * left(1.0)
    assert left(4.0) > 1.2 * left(2.0)


def test_before_the_cluster_is_known_only_cores_count(tmp_path: Path) -> None:
    study = recipes.inline()
    (size,) = study.sizes
    named = dataclasses.replace(size, resources=dataclasses.replace(size.resources, memory_gb=1.0))
    with_memory = estimate_of(dataclasses.replace(study, sizes=(named,)), tmp_path, cores=4.0)
    assert with_memory.snapshot() == estimate_of(study, tmp_path, cores=4.0).snapshot()


def test_asha_makes_late_targets_of_sampled_trials_unlikely() -> None:
    study = recipes.inline()
    (size,) = study.sizes
    default, sampled = study.space.defaults()[0], predicted_search(study, size)[-1]
    assert not study.space.is_default(sampled)
    assert [chance_of_target(study, size, default, index) for index in range(3)] == [1, 1, 1]
    # Rungs after 2 and 6 targets, where one in three continues.
    assert [chance_of_target(study, size, sampled, index) for index in range(3)] == pytest.approx([1, 1, 1 / 3])
    assert chance_of_target(study, size, dataclasses.replace(sampled, seed=1), 2) == 1, "a repeat"


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
