"""Placement of the benchmark: the kind of node that sizes are timed on, which a measurement has to itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from study.cluster.accelerators import ACCELERATORS
from study.cluster.capacity import BENCHMARK, NodeGroup, cluster_capacity
from study.cluster.gpus import types_of
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
    return "cuda" if any(map(_has_gpu, _candidate_groups(plan))) else "cpu"


def placement_of(plan: BenchmarkPlan) -> Mapping[str, Any]:
    """The request of an actor that has a node to itself: all its cores, a whole GPU, and the resources that mark its group.

    The group is the first in the cluster's description with the resource `benchmark`. If there is none, it is the group with
    most cores per node; to measure a GPU, the one with GPUs. The group may have no node yet.

    Raises:
        CannotRun: no node of the cluster can ever satisfy the plan, or the node groups are unknown.
    """
    on_gpu = device_of(plan) == "cuda"
    groups = [group for group in _candidate_groups(plan if on_gpu else None) if _has_gpu(group) or not on_gpu]
    if not groups:
        raise CannotRun(
            "benchmark.device is cuda, but no node for the benchmark can have a GPU; add one to the cluster or choose cpu"
        )
    group = max(groups, key=lambda group: group.resources["CPU"])
    resources = {BENCHMARK: 1.0} if BENCHMARK in group.resources else {}
    if on_gpu and (accelerators := _suitable_types(group, plan)):
        resources[ACCELERATOR + accelerators[0]] = 0.001  # Ray's own way to request an accelerator type
    return {"num_cpus": int(group.resources["CPU"]), "num_gpus": 1 if on_gpu else 0, "resources": resources}


def _candidate_groups(plan: BenchmarkPlan | None) -> list[NodeGroup]:
    """Groups with cores, and with the GPU that a plan requires: the first dedicated to benchmarks, or else all."""
    capacity = cluster_capacity()
    groups = [group for group in capacity.groups if group.max_nodes and group.resources.get("CPU", 0) >= 1]
    dedicated = [group for group in groups if BENCHMARK in group.resources]
    requires = plan is not None and (plan.accelerator_type is not None or plan.gpu_memory_gb is not None)
    suitable = [
        group
        for group in dedicated or groups
        if plan is None or not requires or (_has_gpu(group) and _suitable_types(group, plan))
    ]
    if not suitable:
        raise CannotRun(f"no node for the benchmark can have {_required(plan if requires else None)}: {capacity}")
    return suitable[:1] if dedicated else suitable


def _suitable_types(group: NodeGroup, plan: BenchmarkPlan) -> list[str]:
    """The accelerator types of the group that meet what the plan requires; none if it requires nothing."""
    if plan.accelerator_type is not None:
        return [name for name in types_of(group) if name == plan.accelerator_type]
    if plan.gpu_memory_gb is None:
        return []
    known = ((name, ACCELERATORS.get(name)) for name in types_of(group))
    return [name for name, card in known if card is not None and card.memory_gb >= plan.gpu_memory_gb]


def _required(plan: BenchmarkPlan | None) -> str:
    """What no node has, in words."""
    if plan is None:
        return "a core"
    if plan.accelerator_type is not None:
        return f"a {plan.accelerator_type}, which benchmark.accelerator_type requires"
    return f"a GPU known to have {plan.gpu_memory_gb:g} GB, which benchmark.gpu_memory_gb requires"


def _has_gpu(group: NodeGroup) -> bool:
    return group.resources.get("GPU", 0) >= 1
