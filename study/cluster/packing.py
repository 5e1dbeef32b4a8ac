"""Whether trials of several sizes fit the nodes of a cluster together: free amounts on two nodes do not make one node.

On two nodes of four GPUs, two trials whose three workers share a node leave one GPU on either. A count of GPUs has room for a
trial of two workers there; if they must share a node, there is none. The same holds for the cards of a node: once trials with
half a card each have ended, two halves may be free that are no whole card.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from study.cluster.capacity import Capacity, NodeGroup
from trainables.resources import Resources, worker_request

TOLERANCE = 1e-9  # of sums of fractional resources
GPU = "GPU"


@dataclass(eq=False)
class _Node:
    """A node that holds something: what it has left of each resource, and of each of its cards."""

    group: NodeGroup
    free: dict[str, float]
    cards: list[float]
    parts: int = 0

    @classmethod
    def of(cls, group: NodeGroup) -> _Node:
        return cls(group, dict(group.resources), [1.0] * int(group.resources.get(GPU, 0)))

    def cards_for(self, request: Mapping[str, float]) -> list[int] | None:
        """The cards that a request gets; None where the node does not hold it.

        Whole cards are unused ones. A share is of the card that has least left, as Ray chooses it.
        """
        if any(self.free.get(resource, 0.0) + TOLERANCE < amount for resource, amount in request.items()):
            return None
        gpus = request.get(GPU, 0.0)
        least = min(1.0, gpus) - TOLERANCE
        fitting = sorted((left, card) for card, left in enumerate(self.cards) if left >= least)
        count = math.ceil(gpus)
        return [card for _, card in fitting[:count]] if len(fitting) >= count else None


@dataclass(frozen=True)
class _Part:
    """What of a trial is on one node."""

    node: _Node
    request: Mapping[str, float]
    cards: Sequence[int]

    def add(self, sign: int) -> None:
        """Take the part from its node (-1), or give it back (1)."""
        self.node.parts -= sign
        for resource, amount in self.request.items():
            self.node.free[resource] += sign * amount
        for card in self.cards:
            self.node.cards[card] += sign * min(1.0, self.request[GPU])


@dataclass(frozen=True)
class Placement:
    """Where a trial was placed."""

    parts: list[_Part] = field(default_factory=list)


class Packing:
    """Places trials on nodes one after another, each where least remains free: Ray places a group by the same rule.

    `sizes` holds the resources of each size's trials by its name. Nodes that an autoscaler can start count from the beginning.
    """

    def __init__(self, capacity: Capacity, sizes: Mapping[str, Resources]) -> None:
        self._capacity, self._sizes = capacity, sizes
        self._nodes: list[_Node] = []
        self._unused = {group.name: group.max_nodes for group in capacity.groups}
        self._left = math.inf if capacity.max_nodes is None else capacity.max_nodes  # nodes besides the head

    def place(self, name: str) -> Placement | None:
        """Place one more trial of the size; None, with nothing placed, where the nodes cannot hold it."""
        resources = self._sizes[name]
        together = resources.workers if resources.one_node else 1
        request = {resource: together * amount for resource, amount in worker_request(resources).items()}
        placement, count = Placement(), resources.workers // together
        for _ in range(count):
            part = self._part(request, spans=count > 1)
            if part is None:
                self.remove(placement)
                return None
            part.add(-1)
            placement.parts.append(part)
        return placement

    def remove(self, placement: Placement) -> None:
        """Remove a trial that was placed. A node that then holds nothing can be stopped, and one of another kind started."""
        for part in placement.parts:
            part.add(1)
            if not part.node.parts:
                self._nodes.remove(part.node)
                self._count(part.node.group, 1)

    def _part(self, request: Mapping[str, float], *, spans: bool) -> _Part | None:
        """Where what must share a node goes, all of a trial or, where it spans nodes, a part."""
        fitting = [node for node in self._nodes if node.cards_for(request) is not None]
        if not fitting:
            group = self._next_group(request, largest=spans)
            if group is None:
                return None
            self._count(group, -1)
            fitting = [_Node.of(group)]
            self._nodes += fitting
        node = min(fitting, key=lambda node: (node.free.get(GPU, 0.0), node.free.get("CPU", 0.0)))
        return _Part(node, request, node.cards_for(request) or ())

    def _count(self, group: NodeGroup, nodes: int) -> None:
        """Count one more, or one less, node of the group that there can be."""
        self._unused[group.name] += nodes
        self._left += nodes if group.name != self._capacity.head else 0

    def _next_group(self, request: Mapping[str, float], *, largest: bool) -> NodeGroup | None:
        """The smallest, or largest, kind of node that holds the request and of which there can be one more.

        A trial that spans nodes takes the largest: on small ones it might use up the number of nodes.
        """
        groups = [
            group
            for group in self._capacity.groups
            if self._unused[group.name] > 0
            and (self._left > 0 or group.name == self._capacity.head)
            and _Node.of(group).cards_for(request) is not None
        ]
        choose = max if largest else min
        return choose(
            groups, key=lambda group: (group.resources.get(GPU, 0), group.resources.get("CPU", 0)), default=None
        )
