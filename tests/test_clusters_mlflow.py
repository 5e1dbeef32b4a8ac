"""The MLflow server of a cluster: it answers who has credentials and calls an allowed host, among them the study's tracking."""

from __future__ import annotations

import os
import re
import signal
import socket
import stat
import subprocess
import sys
import time
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import ROOT

START = ROOT / "clusters" / "mlflow_server.sh"


@dataclass(frozen=True)
class Server:
    """A running server, its home (where its secrets are), and what its first start made up as a password."""

    port: int
    home: Path
    password: str

    def status(self, *, user: str = "admin", password: str | None = None, host: str | None = None) -> int:
        """The answer to a request for the experiments."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/api/2.0/mlflow/experiments/search",
            data=b'{"max_results": 1}',
            headers={"Content-Type": "application/json"},
        )
        if password is not None:
            request.add_header("Authorization", "Basic " + b64encode(f"{user}:{password}".encode()).decode())
        if host is not None:
            request.add_header("Host", host)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code


def _start(home: Path, folder: Path, port: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        ["bash", START, "--folder", folder, "--port", str(port), "--allowed-hosts", f"127.0.0.1:{port},mlflow:5000"],
        env={**os.environ, "HOME": str(home), "PYTHON": sys.executable},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _wait(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + 90
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
            return
        except OSError:
            assert process.poll() is None, "the server ended"
            assert time.monotonic() < deadline, "the server did not come up"
            time.sleep(0.3)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    home = tmp_path_factory.mktemp("home")
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = int(sock.getsockname()[1])
    process = _start(home, home / "server", port)
    try:
        _wait(process, port)
        written = (home / ".mlflow" / "credentials").read_text(encoding="utf-8")
        (password,) = re.findall(r"mlflow_tracking_password = (\S{40,})", written)
        yield Server(port, home, password)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(30)


def test_only_credentials_open_it(server: Server) -> None:
    assert server.status() == 401
    assert server.status(password="password1234") == 401, "MLflow's own default"
    assert server.status(user="somebody", password=server.password) == 401
    assert server.status(password=server.password) == 200


def test_only_allowed_hosts_are_answered(server: Server) -> None:
    assert server.status(password=server.password, host="mlflow:5000") == 200
    assert server.status(password=server.password, host="evil.example:5000") == 403


def test_secrets_are_for_their_owner_alone(server: Server) -> None:
    files = [path for path in server.home.rglob("*") if path.is_file()]
    assert {path.name for path in files} >= {"credentials", "basic_auth.ini", "users.db", "mlflow.db"}
    assert not [path for path in files if stat.S_IMODE(path.stat().st_mode) & 0o077]


def test_a_study_writes_to_it_with_the_credentials_that_the_start_left(server: Server, tmp_path: Path) -> None:
    """As the driver on the head does: no password on a command line or in the environment. Artefacts go through the server."""
    program = f"""
from pathlib import Path
from study.tracking import Tracking
tracking = Tracking("http://127.0.0.1:{server.port}", "study", Path.cwd())
run = tracking.size("1x32")
tracking.metrics(run, {{"params_m": 1.5}})
tracking.artifact(run, Path({str(START)!r}))
assert tracking.flush()
print("written")
"""
    environment = {**os.environ, "MLFLOW_HTTP_REQUEST_TIMEOUT": "60"}

    def run(home: Path, folder: str) -> subprocess.CompletedProcess[str]:
        (tmp_path / folder).mkdir()
        own = {**environment, "HOME": str(home), "PYTHONPATH": str(ROOT)}
        return subprocess.run(
            [sys.executable, "-c", program], cwd=tmp_path / folder, env=own, capture_output=True, text=True
        )

    wrote = run(server.home, "own")
    assert wrote.stdout == "written\n", wrote.stderr
    assert list((server.home / "server" / "artifacts").rglob(START.name))
    stranger = run(tmp_path / "nobody", "strange")
    assert "TrackingUnavailable: no MLflow store" in stranger.stderr
    assert "401" in stranger.stderr
