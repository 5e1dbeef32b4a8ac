"""Which trials of several sizes fit the nodes of a cluster together."""

from __future__ import annotations

import pytest

from study.cluster.capacity import Capacity, capacity_of_config, capacity_of_nodes
from study.cluster.packing import Packing
from trainables.resources import Resources

ONE = Resources(gpus=1)
FOUR_TOGETHER = Resources(workers=4, gpus=1, one_node=True)
TWO_OF_FOUR = capacity_of_nodes([{"Alive": True, "Resources": {"CPU": 16.0, "GPU": 4.0}}] * 2)


def _placed(capacity: Capacity, *trials: Resources) -> list[bool]:
    packing = Packing(capacity, {str(resources): resources for resources in trials})
    return [packing.place(str(resources)) is not None for resources in trials]


def test_gpus_that_two_nodes_have_left_are_not_counted_together() -> None:
    assert _placed(TWO_OF_FOUR, *[ONE] * 4, FOUR_TOGETHER) == [True] * 5, "the small ones share a node"
    three, two = (Resources(workers=count, gpus=1, one_node=True) for count in (3, 2))
    assert _placed(TWO_OF_FOUR, three, three, two) == [True, True, False]
    assert _placed(TWO_OF_FOUR, three, three, Resources(workers=2, gpus=1)) == [True] * 3
    assert _placed(TWO_OF_FOUR, three, three, ONE, ONE, ONE) == [True] * 4 + [False]


def test_a_trial_that_does_not_fit_leaves_what_others_need() -> None:
    six = Resources(workers=6, gpus=1)
    assert _placed(TWO_OF_FOUR, ONE, ONE, ONE, six, FOUR_TOGETHER) == [True, True, True, False, True]


def test_a_whole_gpu_is_one_card() -> None:
    """Two halves of different cards are free after trials have ended: a half fits, and no whole GPU."""
    quarter, half = Resources(gpus=0.25), Resources(gpus=0.5)
    packing = Packing(
        capacity_of_nodes([{"Alive": True, "Resources": {"CPU": 16.0, "GPU": 2.0}}]),
        {"quarter": quarter, "half": half, "whole": ONE, "two": Resources(workers=2, gpus=1, one_node=True)},
    )
    first, _, third, last = (packing.place("half") for _ in range(4))
    assert first is not None
    assert third is not None
    assert last is not None
    assert packing.place("quarter") is None
    packing.remove(first)
    packing.remove(third)
    assert packing.place("whole") is None
    assert packing.place("two") is None
    packing.remove(last)
    shared = packing.place("quarter")
    assert shared is not None
    assert packing.place("whole") is not None, "the quarter is on the card that is in use"
    assert packing.place("half") is None


def test_a_node_without_trials_may_become_one_of_another_kind() -> None:
    groups = {
        "head": {"resources": {"CPU": 4}},
        "small": {"resources": {"CPU": 8, "GPU": 1}},
        "large": {"resources": {"CPU": 64, "GPU": 8}},
    }
    capacity = capacity_of_config({"head_node_type": "head", "max_workers": 1, "available_node_types": groups})
    packing = Packing(capacity, {"one": ONE, "four": FOUR_TOGETHER})
    one = packing.place("one")
    assert one is not None
    assert packing.place("four") is None
    packing.remove(one)
    assert packing.place("four") is not None


@pytest.mark.parametrize(
    ("trials", "placed"),
    [
        ([Resources(workers=9, gpus=1)], [True]),  # both small nodes would leave no node for the other seven
        ([Resources(workers=17, gpus=1)], [False]),
        ([Resources(), Resources(gpus=1), Resources(workers=8, gpus=1, one_node=True)], [True] * 3),
        ([Resources(cpus=4), *[Resources(cpus=60)] * 3], [True, True, True, False]),
        ([Resources(gpus=1, accelerator_type="T4"), Resources(gpus=1, accelerator_type="B200")], [True, False]),
    ],
)
def test_nodes_that_can_be_started_count_as_far_as_the_autoscaler_allows(
    trials: list[Resources], placed: list[bool]
) -> None:
    groups = {
        "head": {"resources": {"CPU": 4}},
        "small": {"resources": {"CPU": 8, "GPU": 1, "accelerator_type:T4": 1}},
        "large": {"resources": {"CPU": 64, "GPU": 8}},
    }
    capacity = capacity_of_config({"head_node_type": "head", "max_workers": 2, "available_node_types": groups})
    assert _placed(capacity, *trials) == placed
