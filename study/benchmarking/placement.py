"""Where sizes are timed: on one kind of node, which the measurement has to itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from study.cluster.capacity import ACCELERATOR, BENCHMARK, NodeGroup
from study.cluster.connection import CannotRun, known_capacity
from study.spec import BenchmarkPlan


def device_of(plan: BenchmarkPlan) -> str:
    """What the connected cluster measures on, "cpu" or "cuda", with what its autoscaler can start counted.

    Raises:
        CannotRun: as `place_of`.
    """
    if plan.device != "auto":
        return plan.device
    return "cuda" if any(map(_has_gpu, _groups(plan.accelerator_type))) else "cpu"


def place_of(plan: BenchmarkPlan) -> Mapping[str, Any]:
    """What an actor asks for to have a node to itself: all its cores, and what marks the nodes that are meant for it.

    Those with the resource `benchmark` are; with several groups of them, the first in the cluster's description. Where there
    is none it is the group with most cores, one with GPUs where a GPU is measured. A group may have no node yet.

    Raises:
        CannotRun: no node of the cluster can ever be one to measure on, or its groups cannot be read.
    """
    on_gpu = device_of(plan) == "cuda"
    kind = plan.accelerator_type if on_gpu else None
    groups = [group for group in _groups(kind) if _has_gpu(group) or not on_gpu]
    if not groups:
        raise CannotRun("benchmark.device is cuda, and no node of the cluster to measure on can have a GPU")
    group = max(groups, key=lambda group: group.resources["CPU"])
    marks = {BENCHMARK: 1.0} if BENCHMARK in group.resources else {}
    if kind is not None:
        marks[ACCELERATOR + kind] = 0.001  # as Ray asks for it
    return {"num_cpus": int(group.resources["CPU"]), "num_gpus": 1 if on_gpu else 0, "resources": marks}


def _groups(kind: str | None) -> list[NodeGroup]:
    """The groups to measure on that have cores, and the kind of GPU if one is asked for: one that is meant for it, or all."""
    held = known_capacity()
    groups = [group for group in held.groups if group.most and group.resources.get("CPU", 0) >= 1]
    meant = [group for group in groups if BENCHMARK in group.resources]
    found = [group for group in meant or groups if kind is None or ACCELERATOR + kind in group.resources]
    if not found:
        wanted = "a core" if kind is None else f"a {kind}, which benchmark.accelerator_type asks for"
        raise CannotRun(f"no node of the cluster to measure on can have {wanted}: {held}")
    return found[:1] if meant else found


def _has_gpu(group: NodeGroup) -> bool:
    return group.resources.get("GPU", 0) >= 1
