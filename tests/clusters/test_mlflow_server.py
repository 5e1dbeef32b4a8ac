"""A cluster's MLflow server answers requests with credentials for an allowed host, such as those of the study's tracking."""

from __future__ import annotations

import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from study.cluster.ports import free_port
from tests.support.commands import ROOT

pytestmark = pytest.mark.slow

START = ROOT / "clusters" / "mlflow_server.sh"


@dataclass(frozen=True)
class Server:
    """A running server, its home (with its secrets), its folder, and the password that the folder's first start created."""

    port: int
    home: Path
    folder: Path
    password: str

    def status(self, *, user: str = "admin", password: str | None = None, host: str | None = None) -> int:
        """The status of a request for the experiments."""
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
    deadline = time.monotonic() + 240
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
            return
        except OSError:
            assert process.poll() is None, "the server ended"
            assert time.monotonic() < deadline, "the server did not come up"
            time.sleep(0.3)


@contextmanager
def _started(home: Path, folder: Path) -> Iterator[int]:
    """The port of a server, which is killed in the end, as if its machine were lost."""
    port = free_port()
    process = _start(home, folder, port)
    try:
        _wait(process, port)
        yield port
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(120)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The server of a second head over a shared folder, after the first head's machine and home are gone."""
    first, home = tmp_path_factory.mktemp("first"), tmp_path_factory.mktemp("home")
    folder = tmp_path_factory.mktemp("shared") / "mlflow"
    with _started(first, folder):
        written = (first / ".mlflow" / "credentials").read_text(encoding="utf-8")
    (password,) = re.findall(r"mlflow_tracking_password = (\S{40,})", written)
    with _started(home, folder) as port:
        yield Server(port, home, folder, password)


def test_only_valid_credentials_are_accepted(server: Server) -> None:
    assert server.status() == 401
    assert server.status(password="password1234") == 401, "MLflow's own default"
    assert server.status(user="somebody", password=server.password) == 401
    assert server.status(password=server.password) == 200


def test_only_allowed_hosts_are_answered(server: Server) -> None:
    assert server.status(password=server.password, host="mlflow:5000") == 200
    assert server.status(password=server.password, host="evil.example:5000") == 403


def test_only_the_owner_can_read_secrets(server: Server) -> None:
    assert server.password in (server.home / ".mlflow" / "credentials").read_text(encoding="utf-8")
    files = [path for folder in (server.home, server.folder) for path in folder.rglob("*") if path.is_file()]
    assert {path.name for path in files} >= {"credentials", "basic_auth.ini", "users.db", "mlflow.db"}
    assert not [path for path in files if stat.S_IMODE(path.stat().st_mode) & 0o077]


def test_a_study_writes_to_it_with_the_credentials_from_the_start(server: Server, tmp_path: Path) -> None:
    """Like the driver on the head: no password on a command line or in the environment. Artifacts go through the server."""
    program = f"""
from pathlib import Path
from study.tracking.tracker import Tracker
tracking = Tracker("http://127.0.0.1:{server.port}", "study", output=Path.cwd())
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
    assert list((server.folder / "artifacts").rglob(START.name))
    stranger = run(tmp_path / "nobody", "strange")
    assert "TrackingUnavailable: no MLflow store" in stranger.stderr
    assert "401" in stranger.stderr


# Which credentials the start uses; no server runs here.

MADE_UP = "[mlflow]\nmlflow_tracking_username = admin\nmlflow_tracking_password = somebody-elses-password\n"


@dataclass(frozen=True)
class Machine:
    """A home and a server folder. Its Python exits instead of starting the server."""

    home: Path
    folder: Path

    @property
    def own(self) -> Path:
        return self.home / ".mlflow" / "credentials"

    @property
    def kept(self) -> Path:
        return self.folder / "credentials"

    def start(self, **environment: str) -> subprocess.CompletedProcess[str]:
        python = self.home / "python"
        python.write_text(f'#!/bin/sh\n[ "$1" = -m ] && exit 0\nexec {sys.executable} "$@"\n', encoding="utf-8")
        python.chmod(0o700)
        return subprocess.run(
            ["bash", START, "--folder", self.folder],
            env={**os.environ, "HOME": str(self.home), "PYTHON": str(python), **environment},
            capture_output=True,
            text=True,
        )


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    (tmp_path / "home" / ".mlflow").mkdir(parents=True)
    (tmp_path / "mlflow").mkdir()
    return Machine(tmp_path / "home", tmp_path / "mlflow")


@pytest.mark.parametrize("own", [None, MADE_UP], ids=["a new machine", "a machine of another server"])
def test_a_folder_with_users_but_no_credentials_is_refused_with_the_remedy(
    server: Server, machine: Machine, own: str | None
) -> None:
    shutil.copy(server.folder / "users.db", machine.folder)
    if own is not None:
        machine.own.write_text(own, encoding="utf-8")
    refused = machine.start()
    assert refused.returncode == 2
    assert refused.stderr.startswith(f"error: {machine.folder} has users, but their credentials are missing")
    for remedy in (f"{machine.kept}, as the lines", "MLFLOW_TRACKING_PASSWORD", f"{machine.folder}/users.db away"):
        assert remedy in refused.stderr.replace("\n", " ")
    assert not machine.kept.exists()


@pytest.mark.parametrize("users", [False, True])
def test_valid_credentials_of_the_home_are_stored_in_the_folder(server: Server, machine: Machine, users: bool) -> None:
    """For folders older than their credentials file: without users, and with users created with these credentials."""
    own = (server.folder / "credentials").read_text(encoding="utf-8") if users else MADE_UP
    if users:
        shutil.copy(server.folder / "users.db", machine.folder)
    machine.own.write_text(own, encoding="utf-8")
    assert machine.start().returncode == 0
    assert machine.kept.read_text(encoding="utf-8") == machine.own.read_text(encoding="utf-8") == own
    assert stat.S_IMODE(machine.kept.stat().st_mode) == 0o600


def test_the_folder_s_credentials_replace_another_server_s_which_are_backed_up(machine: Machine) -> None:
    machine.kept.write_text(MADE_UP, encoding="utf-8")
    machine.own.write_text("[mlflow]\n", encoding="utf-8")
    started = machine.start()
    assert started.returncode == 0
    assert f"{machine.own}.before" in started.stderr
    assert machine.own.read_text(encoding="utf-8") == MADE_UP
    assert machine.own.with_name("credentials.before").read_text(encoding="utf-8") == "[mlflow]\n"
    assert stat.S_IMODE(machine.own.stat().st_mode) == 0o600


def test_a_secret_in_the_environment_is_written_to_no_credentials_file(server: Server, machine: Machine) -> None:
    shutil.copy(server.folder / "users.db", machine.folder)
    started = machine.start(MLFLOW_TRACKING_USERNAME="admin", MLFLOW_TRACKING_PASSWORD="of-a-secret-of-kubernetes")
    assert started.returncode == 0, started.stderr
    assert not machine.kept.exists()
    assert not machine.own.exists()
    settings = (machine.home / ".mlflow" / "basic_auth.ini").read_text(encoding="utf-8")
    assert "admin_password = of-a-secret-of-kubernetes" in settings
