"""What a cluster can hold, and which sizes are refused because they never fit."""

from __future__ import annotations

import dataclasses

import pytest

from study.cluster import fit
from study.cluster.capacity import capacity_of_config, capacity_of_nodes
from study.cluster.fit import check_capacity, slot_amounts
from study.errors import CannotRun
from study.spec import Size
from tests.support import recipes
from trainables.resources import Resources

GROUPS = {
    "head_node_type": "head",
    "max_workers": 3,
    "available_node_types": {
        "head": {"resources": {"CPU": 4}, "node_config": {}},
        "small": {"resources": {"CPU": 8, "GPU": 2, "accelerator_type:T4": 1}, "node_config": {}, "max_workers": 2},
        "large": {"resources": {"CPU": 64, "GPU": 8, "accelerator_type:A100": 1}, "node_config": {}, "max_workers": 2},
    },
}


@pytest.mark.parametrize(
    ("resources", "trials"),
    [
        # The head and three nodes besides it: both large ones and one small one.
        (Resources(workers=1, cpus=4), 1 + 16 + 16 + 2),
        (Resources(workers=2, cpus=3, gpus=1), (8 + 8 + 2) // 2),
        (Resources(workers=1, cpus=40, gpus=1), 2),  # one worker fits on a node, and none spans two
        (Resources(workers=4, cpus=1, gpus=1, accelerator_type="T4"), 1),
        (Resources(workers=5, cpus=1, gpus=1, accelerator_type="T4"), 0),
        (Resources(workers=1, cpus=1, gpus=1, accelerator_type="H100"), 0),
        (Resources(workers=1, cpus=65), 0),
    ],
)
def test_capacity_counts_whole_workers_including_nodes_to_be_started(resources: Resources, trials: int) -> None:
    assert capacity_of_config(GROUPS).max_trials(resources) == trials


def test_without_an_autoscaler_the_present_nodes_are_the_capacity() -> None:
    nodes = [
        {"Alive": True, "Resources": {"CPU": 2.0, "node:1": 1.0, "node:__internal_head__": 1.0}},
        {"Alive": True, "Resources": {"CPU": 4.0, "node:2": 1.0}},
        {"Alive": False, "Resources": {"CPU": 64.0}},
    ]
    capacity = capacity_of_nodes(nodes)
    assert capacity.max_trials(Resources(cpus=2)) == 3
    assert capacity.max_trials(Resources(cpus=5)) == 0
    assert not capacity.autoscales


def test_a_request_that_never_fits_is_refused_with_size_request_and_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("study.cluster.fit.cluster_capacity", lambda: capacity_of_config(GROUPS))
    encoder = recipes.tiny().sizes[0].encoder
    sizes = [
        Size("fits", encoder, Resources(workers=2, gpus=1)),
        Size("too-many", encoder, Resources(workers=17, cpus=8, gpus=1, accelerator_type="A100", zero_stage=2)),
        Size("unknown", encoder, Resources(gpus=1, accelerator_type="B200")),
    ]
    # CPU and GPU: the head, both large nodes and one small one. Of each accelerator type: the most of its own nodes.
    assert check_capacity(sizes[:1]) == {"CPU": 4 + 64 + 64 + 8, "GPU": 18, "GPU:T4": 4, "GPU:A100": 16}
    with pytest.raises(CannotRun) as refused:
        check_capacity(sizes)
    first, second = str(refused.value).split("\nerror: ")
    assert "size too-many needs 17 x (8 CPU, 1 GPU, A100) for one trial, and no node group can ever hold it" in first
    assert "size unknown needs 1 x (1 CPU, 1 GPU, B200)" in second
    for group in ("head, 1 of 4 CPU", "small, 2 of 8 CPU, 2 GPU", "large, 2 of 64 CPU, 8 GPU", "at most 3 nodes"):
        assert group in first


def test_a_ray_of_this_machine_offers_no_more_cores_than_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such a Ray starts with as many as the largest size requests; a cluster has those of its nodes."""
    small = recipes.tiny().sizes[0]
    sizes = [small, dataclasses.replace(small, name="large", resources=Resources(workers=2, cpus=8))]
    monkeypatch.setattr(fit, "check_capacity", lambda sizes: {"CPU": 16.0, "GPU": 0.0})
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1})
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    lines: list[str] = []
    assert slot_amounts(sizes, None, say=lines.append) == {"CPU": 2.0, "GPU": 0.0}
    assert lines == ["large requests 16 cores and this machine has 2: its workers share them"]
    assert slot_amounts(sizes, "ray://there", say=lines.append) == {"CPU": 16.0, "GPU": 0.0}
