"""Which kind of a cluster's GPUs a size trains on, where it asks for memory and capability instead of a type."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Sequence

from study.cluster.accelerators import ACCELERATORS, device_words, suitable
from study.cluster.capacity import Capacity, NodeGroup, cluster_capacity
from study.errors import CannotRun, joined
from study.spec import Size
from trainables.resources import ACCELERATOR


def with_accelerators(
    sizes: Sequence[Size], *, capacity: Capacity | None = None, say: Callable[[str], object] = lambda line: None
) -> tuple[Size, ...]:
    """The sizes with a type of GPU where the cluster has several, or not all of them meet what a size asks for.

    It is the suitable type with the least memory and the lowest peak of which the cluster can hold a trial: larger cards stay
    free for larger sizes, and no large node is started for a small one. All trials of a size run on one type. By default
    `capacity` is that of the connected cluster.

    Raises:
        CannotRun: no GPU of the cluster is known to meet a size's request. The message names every such size.
    """
    if not any(map(_is_open, sizes)):
        return tuple(sizes)
    capacity = capacity or cluster_capacity()
    problems: list[str] = []
    chosen = tuple(_with_accelerator(size, capacity, problems, say) if _is_open(size) else size for size in sizes)
    if problems:
        raise CannotRun(joined(problems))
    return chosen


def types_of(group: NodeGroup) -> list[str]:
    """The accelerator types that a group's nodes are marked with."""
    return [name.removeprefix(ACCELERATOR) for name in group.resources if name.startswith(ACCELERATOR)]


def _is_open(size: Size) -> bool:
    """Whether the size leaves the type to the cluster, but not every type will do."""
    return size.resources.accelerator_type is None and size.resources.asks_for_capability


def _with_accelerator(size: Size, capacity: Capacity, problems: list[str], say: Callable[[str], object]) -> Size:
    resources = size.resources
    groups = [set(types_of(group)) for group in capacity.groups if group.max_nodes and group.resources.get("GPU", 0)]
    present = set().union(*groups)
    candidates = [name for name in suitable(resources) if name in present]
    if not candidates:
        problems.append(_lacking(size, present, capacity))
        return size
    of_types = [dataclasses.replace(resources, accelerator_type=name) for name in candidates]
    chosen = next((option for option in of_types if capacity.max_trials(option)), of_types[0])
    if all(chosen.accelerator_type in types for types in groups):
        return size
    say(f"{size.name} asks for {device_words(resources)}: it trains on {chosen.accelerator_type}")
    return dataclasses.replace(size, resources=chosen)


def _lacking(size: Size, present: Collection[str], capacity: Capacity) -> str:
    """Why no GPU of the cluster is suitable, and what to do."""
    unknown = sorted(name for name in present if name not in ACCELERATORS)
    hints = []
    if unknown:
        hints.append(f"nothing is known about {', '.join(unknown)}: insist on it by accelerator_type in the recipe")
    if not present:
        hints.append(
            "its GPUs have no type that Ray knows: leave gpu_memory_gb and bf16_gpu out of the recipe to use any of them"
        )
    if "A100" in present:
        hints.append(
            f"an A100 counts as one of {ACCELERATORS['A100'].memory_gb:g} GB; if these have 80, insist on them by "
            f"accelerator_type in the recipe, or give their nodes the resource {ACCELERATOR}A100-80G"
        )
    what = device_words(size.resources)
    return "; ".join(
        [f"size {size.name} asks for {what}, and no GPU of the cluster is known to have that: {capacity}", *hints]
    )
