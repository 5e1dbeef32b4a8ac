"""Submitting, following and stopping jobs, against a job server that misbehaves."""

from __future__ import annotations

import asyncio
import hashlib
import json
import socket
import struct
import threading
import time
from base64 import b64encode
from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Self

import pytest
import ray
from typer.testing import CliRunner

from study.cli.app import app
from study.cluster import jobs
from study.cluster.jobs import PATIENCE_S, CannotSubmit, ConnectionLost, JobServer


@pytest.fixture
def other_server() -> Iterator[tuple[str, dict[str, str]]]:
    """A server that gives the same answer to every request, and that answer."""
    answer: dict[str, str] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", answer
    finally:
        server.shutdown()


def test_another_version_of_ray_is_refused(
    other_server: tuple[str, dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))  # without a token
    address, answer = other_server
    answer["ray_version"] = "2.9.3"
    with pytest.raises(CannotSubmit, match=rf"runs Ray 2\.9\.3 and this environment has {ray.__version__}"):
        JobServer(address)
    del answer["ray_version"]
    with pytest.raises(CannotSubmit, match="not a Ray job server"):
        JobServer(address)


class Breaking:
    """A faulty job server.

    Its log streams break off, and the call named in `broken` before its answer. The statuses in `errors` answer the next
    requests for a job's status; the last status answers all later requests.
    """

    def __init__(self) -> None:
        self.log = ["first\n", "second\n", "third\n"]
        self.streams = 0
        self.broken: tuple[str, str] | None = None
        self.errors: list[int] = []
        self.asked = 0
        self._server = HTTPServer(("127.0.0.1", 0), self._handler())
        self.address = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, format: str, *arguments: object) -> None:
                pass

            def do_GET(self) -> None:
                if (self.command, self.path) == server.broken:
                    self._break()
                elif self.path.endswith("/logs/tail"):
                    self._stream()
                elif self.path == "/api/version":
                    self._answer({"ray_version": ray.__version__, "version": "4"})
                elif (self.command, self.path) == ("POST", "/api/jobs/"):
                    self._answer({"job_id": "1", "submission_id": "1"})
                elif server.errors and self.path.startswith("/api/jobs/"):
                    server.asked += 1
                    self.send_response(server.errors[0])
                    if len(server.errors) > 1 or server.errors[0] == 200:
                        server.errors.pop(0)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                else:
                    status = "SUCCEEDED" if server.streams >= len(server.log) else "RUNNING"
                    self._answer({"type": "SUBMISSION", "status": status, "entrypoint": "study"})

            do_POST = do_GET  # noqa: N815

            def _answer(self, content: dict[str, str]) -> None:
                body = json.dumps(content).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def _stream(self) -> None:
                """A web socket that sends one line more each time, and is cut off."""
                server.streams += 1
                key = self.headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, 4.2.2
                self.protocol_version = "HTTP/1.1"
                self.send_response(101)
                self.send_header("Upgrade", "websocket")
                self.send_header("Connection", "Upgrade")
                self.send_header("Sec-WebSocket-Accept", b64encode(hashlib.sha1(key.encode()).digest()).decode())
                self.end_headers()
                for line in server.log[: server.streams]:
                    self.wfile.write(bytes((0x81, len(line))) + line.encode())
                time.sleep(0.2)  # so that the client reads the lines before the reset arrives
                self._break()

            def _break(self) -> None:
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()

        return Handler


@pytest.fixture
def breaking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Breaking]:
    monkeypatch.setenv("HOME", str(tmp_path))  # without a token
    with Breaking() as server:
        yield server


def test_a_job_is_followed_after_its_log_stream_broke(
    breaking: Breaking, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "POLL_S", 0.01)
    assert JobServer(breaking.address).follow("job").status == "SUCCEEDED"
    assert breaking.streams > len(breaking.log)
    assert capsys.readouterr().err == "".join(breaking.log), "each line once"


def test_a_log_whose_stream_fell_silent_is_opened_again(
    breaking: Breaking, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As through a tunnel that is dead at the other end: nothing comes, and nothing closes."""
    monkeypatch.setattr(jobs, "STREAM_S", 0.2)
    monkeypatch.setattr(jobs, "POLL_S", 0.01)
    server = JobServer(breaking.address)
    tail, silent = server._client.tail_job_logs, iter([True, True])

    async def falls_silent(job: str) -> AsyncIterator[str]:
        async for text in tail(job):
            yield text
            if next(silent, False):
                await asyncio.sleep(3600)

    monkeypatch.setattr(server._client, "tail_job_logs", falls_silent)
    assert server.follow("job").status == "SUCCEEDED"
    assert next(silent, None) is None, "both silent streams were left"
    assert capsys.readouterr().err == "".join(breaking.log), "each line once"


def test_a_lost_server_is_reported_with_the_command_that_asks_again(breaking: Breaking, tmp_path: Path) -> None:
    server = JobServer(breaking.address)
    (tmp_path / "folder").mkdir()
    breaking.broken = ("POST", "/api/jobs/")
    with pytest.raises(ConnectionLost, match=rf"submit --status mine-\w+ --address {breaking.address}"):
        server.submit(["true"], "mine", tmp_path / "folder")
    breaking.broken = ("POST", "/api/jobs/job/stop")
    with pytest.raises(ConnectionLost, match="stopped answering"):
        server.stop("job")


class Clock:
    """A clock that only sleep advances."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def read(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


def test_a_server_that_recovers_is_asked_again(breaking: Breaking, capsys: pytest.CaptureFixture[str]) -> None:
    """Ray's dashboard answers 500 while it cannot reach its own services; a proxy answers 502, or with a page."""
    clock = Clock()
    server = JobServer(breaking.address, clock=clock.read, sleep=clock.sleep)
    breaking.errors = [500, 502, 503, 200]
    assert server.follow("job").code == 0
    assert breaking.asked == 4
    assert capsys.readouterr().err == "".join(breaking.log)


@pytest.mark.parametrize("broken", [("GET", "/api/jobs/job"), None])
def test_a_server_that_does_not_recover_is_given_up(breaking: Breaking, broken: tuple[str, str] | None) -> None:
    clock = Clock()
    server = JobServer(breaking.address, clock=clock.read, sleep=clock.sleep)
    breaking.errors, breaking.broken = [503], broken
    says = r"does not report the job's status \(503\)" if broken is None else "stopped answering"
    with pytest.raises(ConnectionLost, match=rf"{says}.*submit --status job"):
        server.follow("job")
    assert clock.now_s == PATIENCE_S


def test_a_missing_job_and_a_refused_token_raise_different_errors(breaking: Breaking) -> None:
    server = JobServer(breaking.address)
    breaking.errors = [404]
    with pytest.raises(CannotSubmit, match="no job 'job'"):
        server.describe("job")
    with pytest.raises(ConnectionLost, match="no longer has job: its head was restarted"):
        server.follow("job")
    for status in (401, 403):
        breaking.errors, breaking.asked = [status], 0
        with pytest.raises(ConnectionLost, match=rf"the cluster .* token.* \({status}\)"):
            server.describe("job")
        assert breaking.asked == 1, "another request would get the same answer"


@pytest.mark.parametrize("status", [500, 503, 401, 403, 404])
def test_no_answer_of_the_server_makes_a_submitted_job_look_refused(
    breaking: Breaking, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 2 means that nothing was submitted; this job may run."""

    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path / "folder")  # the folder that is uploaded
    monkeypatch.setattr(jobs, "PATIENCE_S", 0.0)
    breaking.errors = [status]
    ran = CliRunner().invoke(app, ["submit", "quickstart", "--output", "/shared/x", "--address", breaking.address])
    assert ran.exit_code == 1, ran.stderr
    assert "submitted quickstart-" in ran.stderr
    assert "submit --status quickstart-" in ran.stderr or status == 404
    assert "Traceback" not in ran.stderr
