"""The servers that a study uses: one of MLflow, and one of a store of objects."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from urllib.request import Request, urlopen

from study.cluster.ports import free_port
from tests.support.chaos.processes import descendants, end_all, processes, start
from tests.support.gcs_server import SECRET, environment
from tests.support.object_http import BUCKET

PATIENCE_S = 240.0  # for a server or a node to come up on a busy machine


class Server(ABC):
    """A server that a study uses, on loopback."""

    name: str

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.process: subprocess.Popen[bytes] | None = None
        folder.mkdir()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @abstractmethod
    def command(self) -> list[str]:
        """What starts it."""

    @property
    @abstractmethod
    def health(self) -> str | Request:
        """What it answers once it is up."""

    @property
    def environment(self) -> dict[str, str]:
        """The variables by which a study's processes reach it."""
        return {}

    def arguments(self) -> list[str]:
        """What the study's command needs to use it."""
        return []

    def start(self) -> None:
        self.process = start(self.command(), self.folder / "server.log", os.environ)

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def wait(self) -> None:
        """Raises TimeoutError: it does not answer."""
        until(self._answers, f"{self.name} does not answer, see {self.folder}")

    def end(self) -> None:
        """Kill it with all its processes."""
        if self.process is not None:
            end_tree(self.process)

    def _answers(self) -> bool:
        with suppress(OSError), urlopen(self.health, timeout=5) as answer:
            return int(answer.status) == 200
        return False


class MlflowServer(Server):
    """MLflow's own server over a SQLite file."""

    name = "mlflow"

    def command(self) -> list[str]:
        where = [f"--backend-store-uri=sqlite:///{self.folder}/mlflow.db"]
        where += [f"--artifacts-destination={self.folder}/artifacts"]
        listen = ["--host=127.0.0.1", f"--port={self.port}", "--workers=1"]
        return [sys.executable, "-m", "mlflow", "server", *listen, *where]

    @property
    def health(self) -> str:
        return f"{self.url}/health"

    def arguments(self) -> list[str]:
        return ["--tracking-uri", self.url]


class StorageServer(Server):
    """A Google Cloud Storage over a folder, so that what it has answered for is there when it starts again."""

    name = "storage"

    @property
    def objects(self) -> Path:
        """The objects of the bucket as files, by their names."""
        return self.folder / "objects"

    def command(self) -> list[str]:
        return [sys.executable, "-m", "tests.support.gcs_on_disk", str(self.port), str(self.folder)]

    @property
    def health(self) -> Request:
        return Request(f"{self.url}/{BUCKET}?max-keys=1", headers={"Authorization": f"Bearer {SECRET}"})

    @property
    def environment(self) -> dict[str, str]:
        return environment(self.port)


def end_tree(root: subprocess.Popen[bytes]) -> None:
    """Kill a process and all its descendants."""
    end_all([*descendants(root.pid), *processes([root.pid])])
    root.wait()


def until(ready: Callable[[], bool], otherwise: str, *, patience_s: float = PATIENCE_S) -> None:
    """Raises TimeoutError: it is not ready in time."""
    deadline = time.monotonic() + patience_s
    while not ready():
        if time.monotonic() > deadline:
            raise TimeoutError(otherwise)
        time.sleep(0.2)
