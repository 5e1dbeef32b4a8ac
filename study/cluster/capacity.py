"""What a cluster can hold at most: its node groups, those counted that an autoscaler has not started yet.

Ray itself places workers and starts nodes. What it does with a request that no node can ever hold is to wait, so that is
told beforehand, from the same description of node groups that the autoscaler works from.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import ray
import yaml

from trainables.resources import Resources

BENCHMARK = "benchmark"  # a node with this resource is one that sizes are timed on
ACCELERATOR = "accelerator_type:"
_INTERNAL = ("node:", "object_store_memory", "memory")  # no size asks for them


class GroupsUnknown(RuntimeError):
    """There is an autoscaler and its node groups cannot be read."""


@dataclass(frozen=True)
class NodeGroup:
    """Nodes of one kind: what one of them has, and how many there can be at once."""

    name: str
    resources: Mapping[str, float]
    most: int

    def __str__(self) -> str:
        had = ", ".join(_named(name, amount) for name, amount in self.resources.items() if _said(name))
        return f"{self.name}, {self.most} of {had or 'no CPU'}"

    def holds(self, need: Mapping[str, float]) -> int:
        """How many requests fit on one node."""
        return min(int(self.resources.get(name, 0) / amount) for name, amount in need.items() if amount)


@dataclass(frozen=True)
class Capacity:
    """The node groups of a cluster. `most_nodes` is the autoscaler's limit over all groups but the head's."""

    groups: tuple[NodeGroup, ...]
    autoscales: bool = False
    most_nodes: int | None = None
    head: str | None = None

    def holds(self, need: Mapping[str, float]) -> int:
        """How many requests, each of them on one node, the cluster can hold at once."""
        left = sum(group.most for group in self.groups) if self.most_nodes is None else self.most_nodes
        total = 0
        for group in sorted(self.groups, key=lambda group: -group.holds(need)):
            nodes = group.most if group.name == self.head else min(group.most, left)
            left -= 0 if group.name == self.head else nodes
            total += nodes * group.holds(need)
        return total

    def trials(self, resources: Resources) -> int:
        """How many trials of a size the cluster can hold at once; a worker is never cut over two nodes."""
        return self.holds(worker_need(resources)) // resources.workers

    def amounts(self) -> dict[str, float]:
        """The most of CPU, of GPU and of GPU:<type> for every type of accelerator, as `Room` deals them out."""
        return {
            "CPU": self._most("CPU"),
            "GPU": self._most("GPU"),
            **{f"GPU:{kind}": self._most("GPU", ACCELERATOR + kind) for kind in self._kinds()},
        }

    def _most(self, name: str, beside: str | None = None) -> float:
        """Of a resource, on those nodes that have another one beside it; nodes with the most of it come first."""
        left, total = self.most_nodes, 0.0
        fit = [group for group in self.groups if beside is None or beside in group.resources]
        for group in sorted(fit, key=lambda group: -group.resources.get(name, 0)):
            nodes = group.most if left is None or group.name == self.head else min(group.most, left)
            if left is not None and group.name != self.head:
                left -= nodes
            total += nodes * group.resources.get(name, 0)
        return total

    def _kinds(self) -> set[str]:
        names = {name for group in self.groups for name in group.resources if name.startswith(ACCELERATOR)}
        return {name.removeprefix(ACCELERATOR) for name in names}

    def __str__(self) -> str:
        limit = "" if self.most_nodes is None else f"; at most {self.most_nodes} nodes beside the head"
        return "; ".join(map(str, self.groups)) + limit


def worker_need(resources: Resources) -> dict[str, float]:
    """What one worker of a size asks of a node."""
    need: dict[str, float] = {"CPU": resources.cpus, "GPU": resources.gpus}
    if resources.accelerator_type:
        need[ACCELERATOR + resources.accelerator_type] = 0.001  # as Ray asks for it
    return {name: amount for name, amount in need.items() if amount}


def held_at_most() -> Capacity:
    """What the connected cluster can hold at most: the autoscaler's groups where there is one, else the nodes that are there.

    Raises:
        GroupsUnknown: a KubeRay cluster whose groups cannot be read.
    """
    config = _autoscaling_config()
    return capacity_of_nodes(ray.nodes()) if config is None else capacity_of_config(config)


def capacity_of_config(config: Mapping[str, Any]) -> Capacity:
    """From a description of a cluster as `ray up` reads it."""
    head, overall = config["head_node_type"], int(config.get("max_workers", 0))
    groups = tuple(
        NodeGroup(name, dict(one.get("resources", {})), 1 if name == head else min(overall, _most(one, overall)))
        for name, one in config["available_node_types"].items()
    )
    return Capacity(groups, autoscales=True, most_nodes=overall, head=head)


def capacity_of_nodes(nodes: Sequence[Mapping[str, Any]]) -> Capacity:
    """From what `ray.nodes()` says: equal nodes are a group."""
    kinds = Counter(
        tuple(sorted((name, amount) for name, amount in node["Resources"].items() if not name.startswith(_INTERNAL)))
        for node in nodes
        if node["Alive"]
    )
    return Capacity(tuple(NodeGroup(f"nodes {n}", dict(kind), most) for n, (kind, most) in enumerate(kinds.items(), 1)))


def _most(group: Mapping[str, Any], overall: int) -> int:
    return int(group.get("max_workers", overall))


def _named(name: str, amount: float) -> str:
    return name.removeprefix(ACCELERATOR) if name.startswith(ACCELERATOR) else f"{amount:g} {name}"


def _said(name: str) -> bool:
    return not name.startswith(_INTERNAL)


def _autoscaling_config() -> Mapping[str, Any] | None:
    """The autoscaler's description of the connected cluster, or None if none scales it.

    Ray hands it to no client: the head's monitor has it as a file, or asks Kubernetes for it. The driver of a submitted job
    runs on the head too.
    """
    if path := _monitors_file(ray.get_runtime_context().gcs_address):
        document: Mapping[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
        return document
    cluster, namespace = os.environ.get("RAY_CLUSTER_NAME"), os.environ.get("RAY_CLUSTER_NAMESPACE")
    return _kuberay_config(cluster, namespace) if cluster and namespace else None  # KubeRay sets them in its pods


def _monitors_file(gcs_address: str) -> Path | None:
    """The file that the monitor of the cluster was started with, if it runs on this machine."""
    given, asked = "--autoscaling-config=", f"--gcs-address={gcs_address}"
    for process in psutil.process_iter(["cmdline"]):
        command = process.info["cmdline"] or []
        if asked in command:
            for argument in command:
                if argument.startswith(given):
                    return Path(argument.removeprefix(given)).expanduser()
    return None


def _kuberay_config(cluster: str, namespace: str) -> Mapping[str, Any] | None:
    """As KubeRay's autoscaler makes it from the RayCluster, read with the head pod's own rights."""
    from ray.autoscaler._private.kuberay import autoscaling_config, node_provider

    try:
        client = node_provider.KubernetesHttpApiClient(namespace=namespace)
        manifest = client.get(f"rayclusters/{cluster}")
    except Exception as error:  # whatever stands between a pod and its API server
        raise GroupsUnknown(
            f"the node groups of the RayCluster {cluster} cannot be read ({type(error).__name__}: {error}); a head pod has the "
            "right to read them where `enableInTreeAutoscaling` is true"
        ) from error
    if not manifest["spec"].get("enableInTreeAutoscaling"):
        return None
    config: Mapping[str, Any] = autoscaling_config._derive_autoscaling_config_from_ray_cr(manifest)
    return config
