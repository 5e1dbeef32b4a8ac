"""Whether trials of several sizes fit the nodes of a cluster together: free amounts on two nodes do not make one node.

On two nodes of four GPUs, two trials whose three workers share a node leave one GPU on either. A count of GPUs has room for a
trial of two workers there; if they must share a node, there is none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from study.cluster.capacity import Capacity, NodeGroup
from trainables.resources import Resources, worker_request

TOLERANCE = 1e-9  # of sums of fractional resources


class Packing:
    """Places trials on nodes one after another, each where least remains free: Ray places a group by the same rule.

    `sizes` holds the resources of each size's trials by its name. Nodes that an autoscaler can start count from the beginning.
    """

    def __init__(self, capacity: Capacity, sizes: Mapping[str, Resources]) -> None:
        self._capacity, self._sizes = capacity, sizes
        self._free: list[dict[str, float]] = []  # of the nodes that hold something
        self._unused = {group.name: group.max_nodes for group in capacity.groups}
        self._left = math.inf if capacity.max_nodes is None else capacity.max_nodes  # nodes besides the head

    def place(self, name: str) -> bool:
        """Place one more trial of the size; False, with nothing placed, where the nodes cannot hold it."""
        resources = self._sizes[name]
        together = resources.workers if resources.one_node else 1
        request = {resource: together * amount for resource, amount in worker_request(resources).items()}
        before = [dict(node) for node in self._free], dict(self._unused), self._left
        count = resources.workers // together
        if all(self._place(request, spans=count > 1) for _ in range(count)):
            return True
        self._free, self._unused, self._left = before
        return False

    def _place(self, request: Mapping[str, float], *, spans: bool) -> bool:
        """Place what must share a node, all of a trial or, where it spans nodes, a part."""
        fitting = [node for node in self._free if _fits(request, node)]
        if not fitting:
            group = self._next_group(request, largest=spans)
            if group is None:
                return False
            self._unused[group.name] -= 1
            self._left -= group.name != self._capacity.head
            fitting = [dict(group.resources)]
            self._free += fitting
        node = min(fitting, key=lambda node: (node.get("GPU", 0.0), node.get("CPU", 0.0)))
        for resource, amount in request.items():
            node[resource] -= amount
        return True

    def _next_group(self, request: Mapping[str, float], *, largest: bool) -> NodeGroup | None:
        """The smallest, or largest, kind of node that holds the request and of which there can be one more.

        A trial that spans nodes takes the largest: on small ones it might use up the number of nodes.
        """
        groups = [
            group
            for group in self._capacity.groups
            if self._unused[group.name] > 0
            and (self._left > 0 or group.name == self._capacity.head)
            and _fits(request, group.resources)
        ]
        choose = max if largest else min
        return choose(
            groups, key=lambda group: (group.resources.get("GPU", 0), group.resources.get("CPU", 0)), default=None
        )


def _fits(request: Mapping[str, float], free: Mapping[str, float]) -> bool:
    return all(free.get(resource, 0.0) + TOLERANCE >= amount for resource, amount in request.items())
