"""Whether the sizes of a study fit the connected cluster, and how many of their trials can run at once."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from study.cluster.capacity import cluster_capacity
from study.cluster.connection import cluster_address
from study.errors import CannotRun, joined
from study.spec import Size
from trainables.resources import Resources, worker_request


def cores_per_trial(resources: Resources) -> int:
    """CPUs that one trial of a size uses."""
    return resources.workers * resources.cpus


def check_capacity(sizes: Sequence[Size]) -> dict[str, float]:
    """The most CPU, GPU and GPU:<accelerator type> the cluster can have, including nodes its autoscaler can still start.

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


def max_concurrent_trials(sizes: Sequence[Size]) -> dict[str, int]:
    """How many trials of each size the cluster can hold if only that size runs; no worker spans two nodes."""
    capacity = cluster_capacity()
    return {size.name: capacity.max_trials(size.resources) for size in sizes}


def _formatted(resources: Resources) -> str:
    request = ", ".join(
        f"{amount:g} {name}" if amount >= 1 else name.partition(":")[2]
        for name, amount in worker_request(resources).items()
    )
    return f"{resources.workers} x ({request})"
