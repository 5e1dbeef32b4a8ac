"""Whether the sizes of a study fit the connected cluster, and how many of their trials can run at once."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, Mapping, Sequence

from study.cluster.capacity import MEMORY, Capacity, NodeGroup, cluster_capacity
from study.cluster.connection import cluster_address
from study.cluster.packing import Packing
from study.errors import CannotRun, joined
from study.spec import Size
from trainables.resources import ACCELERATOR, GB, WAITING_BYTES, Resources, worker_request

MB = 1e6
LESS_MEMORY = "use a smaller micro_batch, or set memory_gb if the estimate is too high"


def cores_per_trial(resources: Resources) -> int:
    """CPUs that one trial of a size uses."""
    return resources.workers * resources.cpus


def check_capacity(sizes: Sequence[Size]) -> dict[str, float]:
    """The most CPU, GPU, GPU:<accelerator type> and memory that the cluster can have, with nodes that it can still start.

    Raises:
        CannotRun: the cluster can never hold one trial of some size. The message names every such size, its request and the
            node groups.
    """
    capacity = cluster_capacity()
    problems = []
    for size in sizes:
        if capacity.max_requests(worker_request(size.resources)) < size.resources.workers:
            rule = "no node group can ever hold it" if capacity.autoscales else "the present nodes cannot hold it"
            problems.append(
                f"size {size.name} needs {_formatted(size.resources)} for one trial, and {rule}: {capacity}"
            )
    if problems:
        hint = "" if capacity.autoscales else "; an autoscaler is visible only from the head: submit the study as a job"
        raise CannotRun(joined(problems) + hint)
    return capacity.totals()


def slot_amounts(sizes: Sequence[Size], address: str | None, *, say: Callable[[str], object]) -> dict[str, float]:
    """The amounts that searches share: those of `check_capacity`, but no more cores than this machine has if Ray runs here.

    Such a Ray starts with as many cores as the largest size requests, so that two workers can share a core. Other sizes must
    not count on those cores.

    Raises:
        CannotRun: as `check_capacity`.
    """
    amounts = check_capacity(sizes)
    if cluster_address(address) is not None:
        return amounts
    cores = len(os.sched_getaffinity(0))
    for size in sizes:
        if (wanted := cores_per_trial(size.resources)) > cores:
            say(f"{size.name} requests {wanted} cores and this machine has {cores}: its workers share them")
    return {**amounts, "CPU": min(amounts["CPU"], float(cores))}


def with_memory(
    sizes: Sequence[Size],
    needed_gb: Mapping[str, float | None],
    *,
    capacity: Capacity | None = None,
    say: Callable[[str], object] = lambda line: None,
) -> tuple[Size, ...]:
    """The sizes with the memory that each worker requests: what it is estimated to need, or what its recipe names.

    Where not even one trial fits, it requests what there is, so that trials run one by one: Ray would wait for ever for more. A
    size whose nodes do not say how much memory they have requests none. `say` is told where memory and not cores limits how
    many trials run. By default `capacity` is that of the connected cluster.
    """
    capacity = capacity or cluster_capacity()
    return tuple(_with_memory(size, needed_gb.get(size.name), capacity, say) for size in sizes)


def _with_memory(size: Size, estimate: float | None, capacity: Capacity, say: Callable[[str], object]) -> Size:
    without = dataclasses.replace(size.resources, memory_gb=None)
    needed = size.resources.memory_gb or estimate
    if needed is None:
        return size
    granted = _largest_request(without, needed, capacity)
    resources = dataclasses.replace(without, memory_gb=granted)
    if granted is not None and granted < needed:
        say(
            f"{size.name}: a worker is estimated to take {needed:.1f} GB of memory and can get {granted:.1f}: one trial runs "
            f"at a time, and may run out: {LESS_MEMORY}"
        )
    elif (trials := capacity.max_trials(resources)) < (by_cores := capacity.max_trials(without)):
        say(f"{size.name}: trials at once: {trials}, not {by_cores}, as a worker takes up to {needed:.1f} GB of memory")
    return dataclasses.replace(size, resources=resources)


def _largest_request(resources: Resources, needed: float, capacity: Capacity) -> float | None:
    """The most GB up to `needed` that each worker of one trial can request; None where no node says what it has.

    Less than `needed` is an equal part of some node's memory for each of the workers that run there.
    """
    request = worker_request(resources)
    groups = [group for group in capacity.groups if group.max_nodes and group.requests_per_node(request)]
    if not groups or any(not group.resources.get(MEMORY) for group in groups):
        return None
    if not resources.inline:
        capacity = _after_waiting(capacity)
    parts = {
        math.floor(group.resources[MEMORY] / share / MB - 1) * MB / GB
        for group in capacity.groups
        if group.resources.get(MEMORY)
        for share in range(1, resources.workers + 1)
    }
    for part in sorted({needed, *parts}, reverse=True):
        if 0 < part <= needed and capacity.max_trials(dataclasses.replace(resources, memory_gb=part)):
            return part
    return None


def with_placement(
    sizes: Sequence[Size], *, capacity: Capacity | None = None, say: Callable[[str], object] = lambda line: None
) -> tuple[Size, ...]:
    """The sizes, whose trials keep their workers on one node wherever a node of the cluster can hold them all.

    Between nodes, collectives go through the network instead of NVLink, an order of magnitude slower. Ray by itself spans
    nodes as soon as no single one is free. `say` is told which sizes have to. By default `capacity` is that of the connected
    cluster.
    """
    capacity = capacity or cluster_capacity()
    return tuple(_with_placement(size, capacity, say) for size in sizes)


def _with_placement(size: Size, capacity: Capacity, say: Callable[[str], object]) -> Size:
    resources = size.resources
    if resources.inline:
        return size
    one_node = _after_waiting(capacity).holds_on_one_node(resources)
    if not one_node:
        say(
            f"{size.name}: no node can hold its {resources.workers} workers, {_formatted(resources)}: a trial spans nodes, and "
            "its collectives go through the network"
        )
    return dataclasses.replace(size, resources=dataclasses.replace(resources, one_node=one_node))


def _after_waiting(capacity: Capacity) -> Capacity:
    """The capacity with the process of a trial that waits for its workers on each node: any of them may have it."""

    def left(group: NodeGroup) -> NodeGroup:
        memory = max(0.0, group.resources.get(MEMORY, 0.0) - WAITING_BYTES)
        return dataclasses.replace(group, resources={**group.resources, MEMORY: memory})

    return dataclasses.replace(capacity, groups=tuple(map(left, capacity.groups)))


def max_concurrent_trials(sizes: Sequence[Size]) -> dict[str, int]:
    """How many trials of each size the cluster can hold if only that size runs."""
    capacity = cluster_capacity()
    return {size.name: capacity.max_trials(size.resources) for size in sizes}


def empty_nodes(sizes: Sequence[Size]) -> Callable[[], Packing]:
    """A function that returns the nodes of the connected cluster without any trials, to place trials of the sizes on."""
    capacity = cluster_capacity()
    resources = {size.name: size.resources for size in sizes}
    return lambda: Packing(capacity, resources)


def _formatted(resources: Resources) -> str:
    request = ", ".join(
        name.removeprefix(ACCELERATOR) if name.startswith(ACCELERATOR) else f"{amount:g} {name}"
        for name, amount in worker_request(dataclasses.replace(resources, memory_gb=None)).items()
    )
    return f"{resources.workers} x ({request})"
