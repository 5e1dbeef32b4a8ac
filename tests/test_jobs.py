"""A study as a Ray job: submitted to a real head node, with an honest exit status."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

# Token authentication, as on any cluster: whoever reaches a job server without it runs code there.
ENVIRONMENT = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
RAY = [sys.executable, "-m", "ray.scripts.scripts"]


@pytest.fixture(scope="module")
def head() -> Iterator[str]:
    """Address of the job server of a head node of our own."""
    gcs, dashboard = _free_port(), _free_port()
    process = subprocess.Popen(
        [
            *RAY,
            "start",
            "--head",
            "--block",
            "--num-cpus=2",
            f"--port={gcs}",
            f"--dashboard-port={dashboard}",
            "--dashboard-host=127.0.0.1",
            "--object-store-memory=134217728",
        ],
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    address = f"http://127.0.0.1:{dashboard}"
    try:
        _wait_for(f"{address}/api/version", process)
        yield address
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def _wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 90
    while True:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except urllib.error.HTTPError:
            return  # it answers; what it wants of clients is their business
        except OSError:
            assert process.poll() is None, "the head node ended"
            assert time.monotonic() < deadline, "the job server did not come up"
            time.sleep(0.5)


def _submit(address: str, *entrypoint: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            *RAY,
            "job",
            "submit",
            "--address",
            address,
            "--working-dir",
            ".",
            "--runtime-env",
            "clusters/runtime_env.yaml",
            "--",
            sys.executable,
            "-m",
            "study",
            *entrypoint,
        ],
        cwd=ROOT,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_a_study_runs_as_a_job(head: str, tmp_path: Path) -> None:
    done = _submit(head, "run", "tests/recipes.py:inline", "--output", str(tmp_path / "out"))
    assert done.returncode == 0, done.stdout[-3000:]
    assert (tmp_path / "out" / "report.html").is_file()
    assert "succeeded" in done.stdout


def test_a_job_with_bad_input_fails(head: str) -> None:
    done = _submit(head, "run", "nope")
    assert done.returncode != 0
    assert "no recipe 'nope'" in done.stdout + done.stderr
