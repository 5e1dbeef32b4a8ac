"""Which nodes of a cluster the benchmark runs on."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from study.benchmarking import placement as bench_place
from study.benchmarking.placement import device_of, placement_of
from study.cluster.capacity import Capacity, NodeGroup
from study.errors import CannotRun
from study.spec import BenchmarkPlan

A_CPU, A_GPU = {"CPU": 8.0}, {"CPU": 4.0, "GPU": 1.0}


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Replaces the node groups of the connected cluster."""

    def replace(*groups: NodeGroup) -> None:
        monkeypatch.setattr(bench_place, "cluster_capacity", lambda: Capacity(groups, autoscales=True))

    return replace


def test_auto_measures_on_a_gpu_that_the_autoscaler_has_yet_to_start(cluster: Callable[..., None]) -> None:
    auto, cuda = BenchmarkPlan(), BenchmarkPlan(device="cuda")
    head, gpus = NodeGroup("head", A_CPU, 1), NodeGroup("gpus", A_GPU, 2)
    cluster(head, gpus)
    assert device_of(auto) == "cuda"
    assert placement_of(cuda) == {"num_cpus": 4, "num_gpus": 1, "resources": {}}
    cluster(head, NodeGroup("gpus", A_GPU, 0))
    assert device_of(auto) == "cpu"
    cluster(head, gpus, NodeGroup("dedicated", A_CPU | {"benchmark": 1.0}, 1))
    assert device_of(auto) == "cpu"
    assert device_of(cuda) == "cuda"
    with pytest.raises(CannotRun, match="can have a GPU"):
        placement_of(cuda)


def test_a_cpu_is_measured_on_the_largest_nodes_even_before_they_start(
    cluster: Callable[..., None],
) -> None:
    head = NodeGroup("head", {"CPU": 0.0}, 1)
    cluster(head, NodeGroup("small", {"CPU": 4.0}, 2), NodeGroup("large", {"CPU": 8.0}, 2))
    assert placement_of(BenchmarkPlan(device="cpu")) == {"num_cpus": 8, "num_gpus": 0, "resources": {}}
    cluster(head)
    with pytest.raises(CannotRun, match="no node for the benchmark can have a core: head"):
        placement_of(BenchmarkPlan(device="cpu"))


def test_a_plan_says_which_of_several_groups_times_its_sizes(cluster: Callable[..., None]) -> None:
    def dedicated(name: str) -> NodeGroup:
        return NodeGroup(f"benchmark-{name}", A_GPU | {"benchmark": 1.0, f"accelerator_type:{name}": 1.0}, 1)

    cluster(NodeGroup("gpus", A_GPU | {"accelerator_type:T4": 1.0}, 2), dedicated("A10G"), dedicated("H100"))
    whole_node = {"num_cpus": 4, "num_gpus": 1}
    assert placement_of(BenchmarkPlan()) == {**whole_node, "resources": {"benchmark": 1.0}}
    requested = {"benchmark": 1.0, "accelerator_type:H100": 0.001}
    assert placement_of(BenchmarkPlan(accelerator_type="H100")) == {**whole_node, "resources": requested}
    on_cpu = BenchmarkPlan(device="cpu", accelerator_type="H100")
    assert placement_of(on_cpu) == {"num_cpus": 4, "num_gpus": 0, "resources": {"benchmark": 1.0}}
    with pytest.raises(CannotRun, match=r"can have a T4, which benchmark\.accelerator_type requires"):
        placement_of(BenchmarkPlan(accelerator_type="T4"))


def test_a_plan_may_ask_for_memory_instead_of_one_card(cluster: Callable[..., None]) -> None:
    """Sizes are timed on the kind that holds the largest, whatever it is called."""

    def dedicated(name: str) -> NodeGroup:
        return NodeGroup(f"benchmark-{name}", A_GPU | {"benchmark": 1.0, f"accelerator_type:{name}": 1.0}, 1)

    plan = BenchmarkPlan(gpu_memory_gb=80)
    cluster(dedicated("A10G"), dedicated("H200"))
    requested = {"benchmark": 1.0, "accelerator_type:H200": 0.001}
    assert placement_of(plan) == {"num_cpus": 4, "num_gpus": 1, "resources": requested}
    cluster(dedicated("A10G"), NodeGroup("cpus", A_CPU, 1))
    with pytest.raises(CannotRun, match=r"can have a GPU known to have 80 GB, which benchmark\.gpu_memory_gb requires"):
        device_of(plan)
    assert BenchmarkPlan(gpu_memory_gb=0).errors() == [
        "benchmark.gpu_memory_gb 0: must be positive, or None for any GPU"
    ]
