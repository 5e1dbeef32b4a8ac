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
    return [packing.place(str(resources)) for resources in trials]


def test_gpus_that_two_nodes_have_left_are_not_counted_together() -> None:
    assert _placed(TWO_OF_FOUR, *[ONE] * 4, FOUR_TOGETHER) == [True] * 5, "the small ones share a node"
    three, two = (Resources(workers=count, gpus=1, one_node=True) for count in (3, 2))
    assert _placed(TWO_OF_FOUR, three, three, two) == [True, True, False]
    assert _placed(TWO_OF_FOUR, three, three, Resources(workers=2, gpus=1)) == [True] * 3
    assert _placed(TWO_OF_FOUR, three, three, ONE, ONE, ONE) == [True] * 4 + [False]


def test_a_trial_that_does_not_fit_leaves_what_others_need() -> None:
    six = Resources(workers=6, gpus=1)
    assert _placed(TWO_OF_FOUR, ONE, ONE, ONE, six, FOUR_TOGETHER) == [True, True, True, False, True]


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
