"""A Ray cluster on this machine whose autoscaler starts and stops nodes, with GPUs that are only declared.

Ray's `AutoscalingCluster` does the same, but its wheel lacks a file, and it runs `ray stop --force`, which stops every Ray on
the machine. This one ends its head, and everything that the head started, by process id.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from ray._private import ray_constants
from ray.autoscaler._private.fake_multi_node.node_provider import (
    FAKE_HEAD_NODE_ID,
    FAKE_HEAD_NODE_TYPE,
    FakeMultiNodeProvider,
)

from study.cluster.ports import free_port
from tests.support.commands import ROOT

RAY = [sys.executable, "-m", "ray.scripts.scripts"]
OBJECT_STORE_BYTES = 80 * 2**20


class FakeMachines(FakeMultiNodeProvider):  # type: ignore[misc]
    """Ray's fake provider, but each node unpacks a job's package into its own folder, as real machines do.

    In a shared folder each new node would unpack it over the others', and remove the driver's working directory under it.
    """

    def _create_node_with_resources_and_labels(self, *arguments: Any) -> None:
        usual = ray_constants.DEFAULT_RUNTIME_ENV_DIR_NAME
        ray_constants.DEFAULT_RUNTIME_ENV_DIR_NAME = f"{usual}-{self._next_node_id}"
        try:
            super()._create_node_with_resources_and_labels(*arguments)
        finally:
            ray_constants.DEFAULT_RUNTIME_ENV_DIR_NAME = usual


@dataclass(frozen=True)
class ScaledCluster:
    """A running cluster: the addresses of its job server and control store, and the environment for its clients."""

    server: str
    gcs: str
    environment: Mapping[str, str]
    pid: int
    counts_file: Path = field(repr=False)

    def counts(self) -> list[tuple[float, dict[str, int]]]:
        """How many nodes each group had, by seconds since the cluster came up; sampled three times a second."""
        text = self.counts_file.read_text(encoding="utf-8") if self.counts_file.exists() else ""
        samples = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
        return [(sample["seconds"], sample["nodes"]) for sample in samples]

    def now(self) -> dict[str, int]:
        """How many nodes each group has, by the latest sample."""
        samples = self.counts()
        return samples[-1][1] if samples else {}

    def wait_for(self, nodes: Mapping[str, int], timeout_s: float) -> None:
        """Wait until each of these groups has that many nodes.

        Raises:
            TimeoutError: they did not in time.
        """
        deadline = time.monotonic() + timeout_s
        while any(self.now().get(group, 0) != count for group, count in nodes.items()):
            if time.monotonic() > deadline:
                raise TimeoutError(f"nodes after {timeout_s:.0f} s: {self.now()}, expected {dict(nodes)}")
            time.sleep(0.2)

    def preempt(self, group: str) -> None:
        """Kill a node of the group without warning, as a cloud reclaims a spot machine.

        Raises:
            LookupError: the group has no node.
        """
        for process in psutil.Process(self.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                if Path(process.exe()).name == "raylet" and process.environ().get("RAY_NODE_TYPE_NAME") == group:
                    victims = [*process.children(recursive=True), process]
                    for victim in reversed(victims):
                        with suppress(psutil.NoSuchProcess):
                            victim.kill()
                    return
        raise LookupError(f"no node of group {group} runs")


@contextmanager
def scaled_cluster(
    folder: Path, groups: Mapping[str, Mapping[str, Any]], *, head_cpus: int = 0, idle_s: float = 6.0
) -> Iterator[ScaledCluster]:
    """A head whose autoscaler can start nodes of the groups, each `{"resources": ..., "max_workers": ...}`."""
    address, gcs, dashboard = _own_address(), free_port(), free_port()
    config = folder / "autoscaling.json"
    nodes = {name: {"node_config": {}, "min_workers": 0, **group} for name, group in groups.items()}
    nodes[FAKE_HEAD_NODE_TYPE] = {"resources": {"CPU": head_cpus}, "node_config": {}, "max_workers": 0}
    config.write_text(json.dumps(_description(nodes, f"{address}:{gcs}", idle_s)), encoding="utf-8")
    environment = {
        **os.environ,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",  # otherwise the head takes half a minute to end
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    command = [*RAY, "start", "--head", "--block", f"--num-cpus={head_cpus}", f"--port={gcs}"]
    command += [f"--dashboard-port={dashboard}", "--dashboard-host=127.0.0.1", f"--autoscaling-config={config}"]
    head = subprocess.Popen(
        [*command, f"--object-store-memory={OBJECT_STORE_BYTES}"],
        env={
            **environment,
            "RAY_FAKE_CLUSTER": "1",
            "PYTHONPATH": str(ROOT),  # the autoscaler imports the provider
            "RAY_enable_autoscaler_v2": "1",
            "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
            "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
            "RAY_NODE_TYPE_NAME": FAKE_HEAD_NODE_TYPE,
            "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        },
        stdout=open(folder / "head.log", "w"),  # noqa: SIM115 - the head's, until it ends
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    watch = None
    try:
        _wait_for(dashboard, head)
        counts = folder / "counts.jsonl"
        watch = _started_with(environment, f"{address}:{gcs}", counts)
        cluster = ScaledCluster(f"http://127.0.0.1:{dashboard}", f"{address}:{gcs}", environment, head.pid, counts)
        cluster.wait_for({FAKE_HEAD_NODE_TYPE: 1}, timeout_s=300)
        yield cluster
    finally:
        if watch is not None:
            watch.kill()
            watch.join()
        _end(head)


def _description(nodes: Mapping[str, Any], gcs: str, idle_s: float) -> dict[str, Any]:
    """The configuration that `ray up` would write for Ray's fake provider."""
    return {
        "cluster_name": "scaled",
        "max_workers": sum(group["max_workers"] for group in nodes.values()),
        "upscaling_speed": 100.0,
        "idle_timeout_minutes": idle_s / 60,
        "provider": {
            "type": "external",  # for `fake_multinode` Ray reads a file of defaults that its wheel lacks
            "module": f"{__name__}.FakeMachines",
            "gcs_address": gcs,
            "head_node_id": FAKE_HEAD_NODE_ID,
            "launch_multiple": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
        },
        "auth": {},
        "available_node_types": dict(nodes),
        "head_node_type": FAKE_HEAD_NODE_TYPE,
        "file_mounts": {},
        "cluster_synced_files": [],
        "file_mounts_sync_continuously": False,
        "rsync_exclude": [],
        "rsync_filter": [],
        "initialization_commands": [],
        "setup_commands": [],
        "head_setup_commands": [],
        "worker_setup_commands": [],
        "head_start_ray_commands": [],
        "worker_start_ray_commands": [],
    }


def end_on_termination() -> None:
    """Make SIGTERM raise SystemExit, so that a benchmark ends the processes it started."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(1))


def _started_with(environment: Mapping[str, str], gcs: str, counts: Path) -> Any:
    """Start the sampler in a process of its own: its Ray reads the token when it is imported."""
    before = dict(os.environ)
    os.environ.update(environment)
    try:
        process = multiprocessing.get_context("spawn").Process(target=_sample, args=(gcs, str(counts)), daemon=True)
        process.start()
    finally:
        os.environ.clear()
        os.environ.update(before)
    return process


def _sample(gcs: str, counts: str) -> None:
    from ray.autoscaler.v2.sdk import get_cluster_status

    started = time.monotonic()
    with open(counts, "w", encoding="utf-8") as file:
        while True:
            status = get_cluster_status(gcs)
            nodes = Counter(node.ray_node_type_name for node in [*status.active_nodes, *status.idle_nodes])
            file.write(json.dumps({"seconds": round(time.monotonic() - started, 2), "nodes": nodes}) + "\n")
            file.flush()
            time.sleep(0.3)


def _own_address() -> str:
    """The address by which Ray's fake provider starts its nodes."""
    import ray

    return str(ray.util.get_node_ip_address())


def _wait_for(port: int, head: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 300
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError as error:
            if head.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("the head did not come up") from error
            time.sleep(0.3)


def _end(head: subprocess.Popen[bytes]) -> None:
    """End the head and everything it started: the fake provider's nodes are children of its autoscaler."""
    with suppress(psutil.NoSuchProcess):
        started = psutil.Process(head.pid).children(recursive=True)
        head.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            head.wait(60)
        for process in started:
            with suppress(psutil.NoSuchProcess):
                process.kill()
    with suppress(ProcessLookupError):
        os.killpg(head.pid, signal.SIGKILL)
    head.wait(60)
