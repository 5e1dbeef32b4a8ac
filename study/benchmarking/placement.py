"""Placement of the benchmark: the kind of node that sizes are timed on, which a measurement has to itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from study.cluster.capacity import BENCHMARK, NodeGroup, cluster_capacity
from study.errors import CannotRun
from study.spec import BenchmarkPlan
from trainables.resources import ACCELERATOR


def device_of(plan: BenchmarkPlan) -> str:
    """The device that the connected cluster measures on, "cpu" or "cuda"; nodes that its autoscaler can start count.

    Raises:
        CannotRun: as for `placement_of`.
    """
    if plan.device != "auto":
        return plan.device
    return "cuda" if any(map(_has_gpu, _candidate_groups(plan.accelerator_type))) else "cpu"


def placement_of(plan: BenchmarkPlan) -> Mapping[str, Any]:
    """The request of an actor that has a node to itself: all its cores, and the resources that mark its group.

    The group is the first in the cluster's description with the resource `benchmark`. If there is none, it is the group with
    most cores per node; to measure a GPU, the one with GPUs. The group may have no node yet.

    Raises:
        CannotRun: no node of the cluster can ever satisfy the plan, or the node groups are unknown.
    """
    on_gpu = device_of(plan) == "cuda"
    accelerator = plan.accelerator_type if on_gpu else None
    groups = [group for group in _candidate_groups(accelerator) if _has_gpu(group) or not on_gpu]
    if not groups:
        raise CannotRun(
            "benchmark.device is cuda, but no node for the benchmark can have a GPU; add one to the cluster or choose cpu"
        )
    group = max(groups, key=lambda group: group.resources["CPU"])
    resources = {BENCHMARK: 1.0} if BENCHMARK in group.resources else {}
    if accelerator is not None:
        resources[ACCELERATOR + accelerator] = 0.001  # Ray's own way to request an accelerator type
    return {"num_cpus": int(group.resources["CPU"]), "num_gpus": 1 if on_gpu else 0, "resources": resources}


def _candidate_groups(accelerator: str | None) -> list[NodeGroup]:
    """Groups with cores, and with the accelerator if one is requested: the first dedicated to benchmarks, or else all."""
    capacity = cluster_capacity()
    groups = [group for group in capacity.groups if group.max_nodes and group.resources.get("CPU", 0) >= 1]
    dedicated = [group for group in groups if BENCHMARK in group.resources]
    suitable = [
        group for group in dedicated or groups if accelerator is None or ACCELERATOR + accelerator in group.resources
    ]
    if not suitable:
        lacking = "a core" if accelerator is None else f"a {accelerator}, which benchmark.accelerator_type requires"
        raise CannotRun(f"no node for the benchmark can have {lacking}: {capacity}")
    return suitable[:1] if dedicated else suitable


def _has_gpu(group: NodeGroup) -> bool:
    return group.resources.get("GPU", 0) >= 1
