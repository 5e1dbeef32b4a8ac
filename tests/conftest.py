"""Settings of every test, and the study that several of them look at."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import ray

from tests.support.mlflow_stub import Stub, stub_server
from tests.support.pair import Pair

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """On a busy machine the threads of a small model wait for each other, tens of times as long as they work."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """Two workers of a gloo group."""
    with Pair(tmp_path_factory.mktemp("pair")) as started:
        yield started


@dataclass(frozen=True)
class Ran:
    """A finished command."""

    code: int
    out: str
    err: str
    pid: int = 0

    @property
    def document(self) -> dict[str, Any]:
        """The JSON document on the last line of standard output."""
        document: dict[str, Any] = json.loads(self.out.strip().splitlines()[-1])
        return document


# Secrets as a user's environment holds them. They may appear nowhere in what a study leaves.
CANARIES = {
    name: f"canary-{name.lower()}"
    for name in (
        "MLFLOW_TRACKING_TOKEN",
        "MLFLOW_TRACKING_PASSWORD",
        "HF_TOKEN",
        "AWS_SECRET_ACCESS_KEY",
        "WANDB_API_KEY",
    )
}


def study_command(*arguments: str, timeout_s: float = 420, environment: Mapping[str, str] | None = None) -> Ran:
    """`python -m study ...` as a user runs it."""
    command = subprocess.Popen(
        [sys.executable, "-m", "study", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "COLUMNS": "160", **(environment or {})},
    )
    try:
        out, err = command.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        command.kill()
        command.communicate()
        raise
    return Ran(command.returncode, out, err, command.pid)


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ran]:
    """The cut-down study with both launchers, run once: its output folder and what the command printed."""
    output = tmp_path_factory.mktemp("tiny") / "out"
    ran = study_command("run", "tests/support/recipes.py:tiny", "--output", str(output), environment=CANARIES)
    assert ran.code == 0, ran.err
    return output, ran


def cores_after(seconds: float) -> float:
    """Free cores once all are free, or when the time is up."""
    until = time.monotonic() + seconds
    total = ray.cluster_resources()["CPU"]
    while (free := ray.available_resources().get("CPU", 0.0)) < total and time.monotonic() < until:
        time.sleep(0.5)
    return free


URI_SECRET = "canary-in-the-uri"


@dataclass(frozen=True)
class FaultyRun:
    """A study with faults: its output folder, what the command printed, and the server as the command left it."""

    output: Path
    ran: Ran
    stub: Stub


@pytest.fixture(scope="session")
def faulty_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultyRun]:
    """One of two trials diverges, and the MLflow server, given by a URI with a password, goes away after the first result."""
    output = tmp_path_factory.mktemp("faulty") / "out"
    with stub_server() as stub:

        def go_away(call: str) -> None:
            held = [run for run in stub.active() if run["tags"]["kind"] == "trial" and run["metrics"]]
            if held and stub.status is None:
                stub.status = 503

        stub.on_request = go_away
        uri = stub.uri.replace("//", f"//user:{URI_SECRET}@")
        arguments = ("tests/support/recipes.py:diverging", "--output", str(output), "--tracking-uri", uri)
        ran = study_command("run", *arguments, environment=CANARIES)
        stub.on_request = lambda call: None
        yield FaultyRun(output, ran, stub)


@pytest.fixture(scope="session")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a synthetic study whose truth is known (`tests.support.studies.Planted`), in MLflow."""
    from tests.support.studies import Planted, plant

    folder = tmp_path_factory.mktemp("planted")
    plant(folder, Planted())
    return folder
