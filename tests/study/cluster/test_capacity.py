"""What a cluster can hold, and which sizes are refused because they never fit."""

from __future__ import annotations

import dataclasses

import pytest

from study.cluster import fit
from study.cluster.capacity import Capacity, capacity_of_config, capacity_of_nodes
from study.cluster.fit import check_capacity, slot_amounts, with_memory, with_placement
from study.errors import CannotRun
from study.spec import Size
from tests.support import recipes
from trainables.resources import WAITING_BYTES, Resources, worker_request

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
        # Three on each large node: what two nodes have left is not a node.
        (Resources(workers=3, cpus=1, gpus=1), 2 + 2),
        (Resources(workers=9, cpus=1, gpus=1), 2),  # no node holds all, so a trial spans nodes
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


def _requested(
    monkeypatch: pytest.MonkeyPatch, resources: Resources, needed_gb: float | None, *nodes: dict[str, float]
) -> tuple[Resources, Capacity, list[str]]:
    """What a size requests on these nodes, their capacity, and what is said about it."""
    capacity, lines = capacity_of_nodes([{"Alive": True, "Resources": node} for node in nodes]), list[str]()
    monkeypatch.setattr(fit, "cluster_capacity", lambda: capacity)
    size = Size("a", recipes.tiny().sizes[0].encoder, resources)
    (requesting,) = with_memory([size], {"a": needed_gb}, say=lines.append)
    return requesting.resources, capacity, lines


def test_nodes_of_about_the_same_memory_are_of_one_kind_with_the_least_of_it() -> None:
    """Each node reports what was free when it joined; twice as much is another kind."""
    nodes = [{"Alive": True, "Resources": {"CPU": 4.0, "memory": memory}} for memory in (20.9e9, 40e9, 21.4e9, 20.8e9)]
    groups = capacity_of_nodes(nodes).groups
    assert [(group.max_nodes, group.resources["memory"]) for group in groups] == [(3, 20.8e9), (1, 40e9)]
    assert capacity_of_nodes([{"Alive": True, "Resources": {"CPU": 1.0}}]).groups[0].resources == {"CPU": 1.0}


def test_as_many_trials_run_as_fit_into_memory_and_a_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    node = {"CPU": 4.0, "memory": 10.04e9, "object_store_memory": 1e9}
    resources, capacity, lines = _requested(monkeypatch, Resources(), 2.0, node)
    assert worker_request(resources) == {"CPU": 1, "memory": 2_000_000_000}
    assert (capacity.max_trials(resources), lines) == (4, [])
    resources, capacity, lines = _requested(monkeypatch, Resources(), 4.0, node, node)
    assert capacity.totals() == {"CPU": 8, "GPU": 0, "memory": 2 * 10.04e9}
    assert capacity.max_trials(resources) == 4, "two on each node, not five over both"
    assert lines == ["a: trials at once: 4, not 8, as a worker takes up to 4.0 GB of memory"]
    of_recipe, _, _ = _requested(monkeypatch, Resources(memory_gb=1.0), 4.0, node)
    assert of_recipe.memory_gb == 1.0


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_a_trial_that_needs_more_than_there_is_runs_alone(workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray would wait for ever for what no node has: the workers share what there is besides the process that waits."""
    resources, capacity, lines = _requested(monkeypatch, Resources(workers=workers), 9.0, {"CPU": 4.0, "memory": 6e9})
    assert resources.memory_gb is not None
    taken = resources.memory_gb * workers * 1e9 + (0 if workers == 1 else WAITING_BYTES)
    assert 5.9e9 < taken <= 6e9
    assert capacity.max_trials(resources) == 1
    assert [line.split(":")[0] for line in lines] == ["a"]
    assert "a worker is estimated to take 9.0 GB of memory" in lines[0]
    assert "one trial runs at a time" in lines[0]
    assert lines[0].endswith("use a smaller micro_batch, or set memory_gb if the estimate is too high")


def test_workers_of_a_trial_too_large_for_one_node_use_several(monkeypatch: pytest.MonkeyPatch) -> None:
    node = {"CPU": 4.0, "memory": 6e9}
    resources, capacity, lines = _requested(monkeypatch, Resources(workers=2), 4.0, node, node)
    assert (resources.memory_gb, capacity.max_trials(resources)) == (4.0, 1)
    assert lines == ["a: trials at once: 1, not 4, as a worker takes up to 4.0 GB of memory"]


def test_workers_share_a_node_wherever_one_can_hold_them_and_a_line_names_those_that_cannot() -> None:
    def placed(resources: Resources) -> tuple[bool, list[str]]:
        lines: list[str] = []
        size = Size("a", recipes.tiny().sizes[0].encoder, resources)
        (size,) = with_placement([size], capacity=capacity_of_config(GROUPS), say=lines.append)
        return size.resources.one_node, lines

    assert placed(Resources(workers=8, gpus=1, zero_stage=3)) == (True, [])
    assert placed(Resources(workers=4, gpus=1, accelerator_type="A100")) == (True, [])
    assert placed(Resources(workers=4, gpus=1, accelerator_type="T4")) == (
        False,
        [
            "a: no node can hold its 4 workers, 4 x (1 CPU, 1 GPU, T4): a trial spans nodes, and its collectives go through "
            "the network"
        ],
    )
    assert placed(Resources()) == (False, []), "a single process has no group"


def test_nothing_is_requested_where_the_need_is_unknown_or_a_node_group_says_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An autoscaler starts no node for a resource that its description lacks."""
    assert (
        _requested(monkeypatch, Resources(gpus=1), None, {"CPU": 4.0, "GPU": 1.0, "memory": 6e9})[0].memory_gb is None
    )
    monkeypatch.setattr(fit, "cluster_capacity", lambda: capacity_of_config(GROUPS))
    (size,) = with_memory([recipes.tiny().sizes[0]], {"1x32": 2.0}, say=print)
    assert size.resources.memory_gb is None
