"""The most a cluster can hold: its node groups, including nodes that its autoscaler has not started yet.

Ray places workers and starts nodes itself, but waits forever on a request that no node can hold. Such a request is refused
beforehand, by the description of node groups that the autoscaler itself reads.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import ray
import yaml

from study.errors import CannotRun
from trainables.resources import ACCELERATOR, GB, Resources, worker_request

BENCHMARK = "benchmark"  # resource of the nodes that sizes are timed on
ALIKE = 1.1  # nodes of one kind report slightly different memory
MEMORY = "memory"
_INTERNAL = ("node:", "object_store_memory")  # resources that no size requests


@dataclass(frozen=True)
class NodeGroup:
    """Equal nodes: the resources of one node, and how many nodes there can be at once."""

    name: str
    resources: Mapping[str, float]
    max_nodes: int

    def __str__(self) -> str:
        amounts = [_formatted(name, amount) for name, amount in self.resources.items() if not _internal(name)]
        return f"{self.name}, {self.max_nodes} of {', '.join(amounts) or 'no CPU'}"

    def requests_per_node(self, request: Mapping[str, float]) -> int:
        """How many such requests fit on one node."""
        return min(int(self.resources.get(name, 0) / amount) for name, amount in request.items() if amount)


@dataclass(frozen=True)
class Capacity:
    """The node groups of a cluster. `max_nodes` is the autoscaler's limit over all groups but the head's."""

    groups: tuple[NodeGroup, ...]
    autoscales: bool = False
    max_nodes: int | None = None
    head: str | None = None

    def max_requests(self, request: Mapping[str, float]) -> int:
        """How many requests the cluster can hold at once, each on a single node."""
        return int(self._sum(self.groups, lambda group: group.requests_per_node(request)))

    def max_trials(self, resources: Resources) -> int:
        """How many trials of a size the cluster can hold at once; no worker spans two nodes.

        Where one node can hold all workers of a trial, none of its trials spans two either: the GPUs that two nodes have left
        are not counted together.
        """
        request = worker_request(resources)
        if self.holds_on_one_node(resources):
            return int(self._sum(self.groups, lambda group: group.requests_per_node(request) // resources.workers))
        return self.max_requests(request) // resources.workers

    def holds_on_one_node(self, resources: Resources) -> bool:
        """Whether a single node of some group can hold all workers of a trial."""
        request = worker_request(resources)
        return any(group.max_nodes and group.requests_per_node(request) >= resources.workers for group in self.groups)

    def totals(self) -> dict[str, float]:
        """The most that the cluster can have at once of CPU, GPU, GPU:<type> of every accelerator type, and bytes of memory.

        Without memory where the nodes of some group do not say how much they have.
        """
        types = {
            name.removeprefix(ACCELERATOR)
            for group in self.groups
            for name in group.resources
            if name.startswith(ACCELERATOR)
        }
        return {
            "CPU": self._total("CPU"),
            "GPU": self._total("GPU"),
            **{f"GPU:{name}": self._total("GPU", having=ACCELERATOR + name) for name in types},
            **({MEMORY: self._total(MEMORY)} if all(MEMORY in group.resources for group in self.groups) else {}),
        }

    def _total(self, name: str, *, having: str | None = None) -> float:
        """The most of a resource, on nodes that also have the resource `having`."""
        groups = [group for group in self.groups if having is None or having in group.resources]
        return self._sum(groups, lambda group: group.resources.get(name, 0))

    def _sum(self, groups: Sequence[NodeGroup], per_node: Callable[[NodeGroup], float]) -> float:
        """The largest sum of `per_node` over nodes that can exist at once: groups with the most per node come first."""
        left = sum(group.max_nodes for group in groups) if self.max_nodes is None else self.max_nodes
        total = 0.0
        for group in sorted(groups, key=per_node, reverse=True):
            is_head = group.name == self.head
            nodes = group.max_nodes if is_head else min(group.max_nodes, left)
            left -= 0 if is_head else nodes
            total += nodes * per_node(group)
        return total

    def __str__(self) -> str:
        limit = "" if self.max_nodes is None else f"; at most {self.max_nodes} nodes besides the head"
        return "; ".join(map(str, self.groups)) + limit


def cluster_capacity() -> Capacity:
    """The capacity of the connected cluster: its autoscaler's groups, or its present nodes if nothing scales it.

    Raises:
        CannotRun: the groups of a KubeRay cluster cannot be read.
    """
    config = _autoscaling_config()
    return capacity_of_nodes(ray.nodes()) if config is None else capacity_of_config(config)


def capacity_of_config(config: Mapping[str, Any]) -> Capacity:
    """From a cluster description as `ray up` reads it."""
    head, overall = config["head_node_type"], int(config.get("max_workers", 0))

    def max_nodes(name: str, group: Mapping[str, Any]) -> int:
        return 1 if name == head else min(overall, int(group.get("max_workers", overall)))

    groups = tuple(
        NodeGroup(name, dict(group.get("resources", {})), max_nodes(name, group))
        for name, group in config["available_node_types"].items()
    )
    return Capacity(groups, autoscales=True, max_nodes=overall, head=head)


def capacity_of_nodes(nodes: Sequence[Mapping[str, Any]]) -> Capacity:
    """From the output of `ray.nodes()`: nodes with the same resources form a group, where their memory is about the same."""
    memories: dict[tuple[tuple[str, float], ...], list[float]] = {}
    for node in nodes:
        if node["Alive"]:
            resources = {name: amount for name, amount in node["Resources"].items() if not _internal(name)}
            memory = resources.pop(MEMORY, 0.0)
            memories.setdefault(tuple(sorted(resources.items())), []).append(memory)
    groups = [(dict(resources), alike) for resources, all_ in memories.items() for alike in _alike(all_)]
    return Capacity(
        tuple(
            NodeGroup(f"nodes {number}", resources | ({MEMORY: alike[0]} if alike[0] else {}), len(alike))
            for number, (resources, alike) in enumerate(groups, 1)
        )
    )


def _alike(amounts: Sequence[float]) -> Iterator[list[float]]:
    """The amounts in ascending order, cut where one exceeds the least before it by more than a tenth."""
    group: list[float] = []
    for amount in sorted(amounts):
        if group and amount > ALIKE * group[0]:
            yield group
            group = []
        group.append(amount)
    yield group


def _formatted(name: str, amount: float) -> str:
    if name == MEMORY:
        return f"{amount / GB:.1f} GB of memory"
    return name.removeprefix(ACCELERATOR) if name.startswith(ACCELERATOR) else f"{amount:g} {name}"


def _internal(name: str) -> bool:
    return name.startswith(_INTERNAL)


def _autoscaling_config() -> Mapping[str, Any] | None:
    """The autoscaler's description of the connected cluster, or None if nothing scales it.

    Ray gives clients no access to it. On the head, the monitor has it as a file, or KubeRay's API server as a resource; the
    driver of a submitted job runs on the head too.
    """
    if path := _monitor_config(ray.get_runtime_context().gcs_address):
        document: Mapping[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
        return document
    cluster, namespace = os.environ.get("RAY_CLUSTER_NAME"), os.environ.get("RAY_CLUSTER_NAMESPACE")
    return _kuberay_config(cluster, namespace) if cluster and namespace else None  # KubeRay sets both in its pods


def _monitor_config(gcs_address: str) -> Path | None:
    """The file that the cluster's monitor was started with, if the monitor runs on this machine."""
    option = "--autoscaling-config="
    for process in psutil.process_iter(["cmdline"]):
        command = process.info["cmdline"] or []
        if f"--gcs-address={gcs_address}" in command:
            for argument in command:
                if argument.startswith(option):
                    return Path(argument.removeprefix(option)).expanduser()
    return None


def _kuberay_config(cluster: str, namespace: str) -> Mapping[str, Any] | None:
    """What KubeRay's autoscaler derives from the RayCluster, read with the head pod's own permissions."""
    from ray.autoscaler._private.kuberay import autoscaling_config, node_provider

    try:
        client = node_provider.KubernetesHttpApiClient(namespace=namespace)
        manifest = client.get(f"rayclusters/{cluster}")
    except Exception as error:  # any failure between the pod and its API server
        raise CannotRun(
            f"the node groups of the RayCluster {cluster} cannot be read ({type(error).__name__}: {error}); a head pod may "
            "read them only where `enableInTreeAutoscaling` is true: set it in the RayCluster"
        ) from error
    if not manifest["spec"].get("enableInTreeAutoscaling"):
        return None
    config: Mapping[str, Any] = autoscaling_config._derive_autoscaling_config_from_ray_cr(manifest)
    return config
