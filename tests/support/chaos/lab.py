"""What studies run on: servers, a cluster of two Ray nodes, and a small disk; started again when killed."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from study.cluster.ports import free_port
from tests.support.chaos.places import work_variables
from tests.support.chaos.processes import descendants, own_mounts, role_of, start
from tests.support.chaos.servers import MlflowServer, Server, end_tree, until

DISK_BYTES = 256 * 2**20  # a tiny study writes a tenth of it
LOOK_S = 2.0  # between two looks for the node's raylet
HEAD_TRIES = 3
RAY = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--object-store-memory=83886080"]


class Cluster:
    """A head that takes no tasks, and a node with the cores; each a `ray start --block`, which ends when a part of it does."""

    def __init__(self, folder: Path, environment: Mapping[str, str], cpus: int) -> None:
        self._folder, self._environment, self._cpus = folder, environment, cpus
        self._head: subprocess.Popen[bytes] | None = None
        self._node: subprocess.Popen[bytes] | None = None
        self._lost_head = False
        self._were_up: set[int] = set()  # process ids of parts that had a raylet
        self._next_look = 0.0
        self._note = folder / "ray" / "ray" / "ray_current_cluster"  # Ray writes it last, when the head is up
        self.address = ""

    def mend(self) -> None:
        """Start what does not run. Where the head was lost, the whole cluster is a new one at another port."""
        if self._lost_head or self._is_lost(self._head):
            self.end()
            self._start_head()
        if self._is_lost(self._node):
            self._start_node()

    def tend(self) -> None:
        """Start the node again once it is lost, as an autoscaler would. A lost head is left to `mend`."""
        if time.monotonic() < self._next_look or self._lost_head or self._head_ended:
            return
        self._next_look = time.monotonic() + LOOK_S
        if self._is_lost(self._node):
            self._start_node()

    def _is_lost(self, part: subprocess.Popen[bytes] | None) -> bool:
        """Whether its `ray start` has ended, or its raylet: that ends by itself after its agents, and `ray start` stays."""
        if part is None or part.poll() is not None:
            return True
        if any(role_of(process) == "raylet" for process in descendants(part.pid)):
            self._were_up.add(part.pid)
        elif part.pid in self._were_up:
            end_tree(part)
            return True
        return False

    def note_loss(self, victim: psutil.Process) -> None:
        """A part of a node is about to be killed; the rest of it follows within a second or two."""
        if self._head is not None and victim.pid in {process.pid for process in descendants(self._head.pid)}:
            self._lost_head = True

    def pids(self) -> list[int]:
        return [part.pid for part in (self._head, self._node) if part is not None]

    def end(self) -> None:
        """Kill all its processes, those of its workers included."""
        for part in (self._head, self._node):
            if part is not None:
                end_tree(part)
        self._head = self._node = None
        self._lost_head = False

    def _start_head(self) -> None:
        """On a machine that is busy a head can end while it starts: its own parts wait for each other for a limited time."""
        for _ in range(HEAD_TRIES):
            self._note.unlink(missing_ok=True)
            listen = [f"--port={free_port()}", f"--dashboard-port={free_port()}", "--dashboard-host=127.0.0.1"]
            self._head = self._start(
                "head", ["--head", "--num-cpus=0", "--min-worker-port=0", "--max-worker-port=0", *listen]
            )
            until(lambda: self._note.exists() or self._head_ended, f"the head does not start, see {self._folder}")
            if self._note.exists():
                self.address = self._note.read_text(encoding="utf-8").strip()
                self._were_up.add(self._head.pid)
                return
            end_tree(self._head)
        raise RuntimeError(f"the head ended {HEAD_TRIES} times while it started, see {self._folder / 'head.log'}")

    @property
    def _head_ended(self) -> bool:
        return self._head is None or self._head.poll() is not None

    def _start_node(self) -> None:
        self._node = self._start("node", [f"--address={self.address}", f"--num-cpus={self._cpus}"])

    def _start(self, name: str, options: list[str]) -> subprocess.Popen[bytes]:
        return start(
            [*RAY, "--dashboard-agent-listen-port=0", *options], self._folder / f"{name}.log", self._environment
        )


class Lab:
    """Servers and a cluster that outlive rounds, and a disk."""

    def __init__(self, folder: Path, *, cpus: int = 2, servers: Sequence[type[Server]] = (MlflowServer,)) -> None:
        """Make the folders; `prepare` starts the rest. The first of the servers is the one that keeps runs."""
        self.folder = folder
        self.disk_can_fill = self._mount(folder / "disk")
        (folder / "ray").mkdir()
        self.environment = {
            **os.environ,
            "COLUMNS": "160",
            "RAY_TMPDIR": str(folder / "ray"),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            # A process that lost the head gives up after this long, a minute by default.
            "RAY_gcs_rpc_server_reconnect_timeout_s": "20",
            "RAY_USAGE_STATS_ENABLED": "0",
            "MLFLOW_DISABLE_TELEMETRY": "true",
        }
        self.environment.pop("RAY_ADDRESS", None)
        self.servers = tuple(server(folder / server.name) for server in servers)
        own = work_variables(self.disk)
        for server in self.servers:
            own |= server.environment
        self.environment |= own
        os.environ.update(own)  # this process reads buckets too
        self.cluster = Cluster(folder, self.environment, cpus)
        self._filler = folder / "disk" / "filler"

    @property
    def disk(self) -> Path:
        return self.folder / "disk"

    def prepare(self, *, on_cluster: bool) -> None:
        """Mend everything, and wait until it works."""
        self.free_disk()
        for server in self.servers:
            if not server.running:
                server.start()
        if on_cluster:
            self.cluster.mend()
        for server in self.servers:
            server.wait()

    def fill_disk(self) -> None:
        """Leave no byte free."""
        with open(self._filler, "ab") as file, suppress(OSError):
            size = file.tell()
            for step in (2**20, 2**12, 1):
                with suppress(OSError):
                    while True:
                        os.posix_fallocate(file.fileno(), size, step)
                        size += step

    def free_disk(self) -> None:
        self._filler.unlink(missing_ok=True)

    def end(self) -> None:
        """Kill what it started, and take the disk away: its folder could not be removed."""
        self.cluster.end()
        for server in self.servers:
            server.end()
        if self.disk_can_fill:
            subprocess.run(["umount", "--lazy", str(self.disk)], check=True)

    @staticmethod
    def _mount(disk: Path) -> bool:
        """Make the folder a file system of its own, if this user may."""
        disk.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "none", str(disk)]
        return own_mounts() and subprocess.run(command, capture_output=True).returncode == 0
