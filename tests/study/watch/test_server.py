"""What the server gives to whom, and how it ends."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from study.watch.child import WatchFailed, watched
from study.watch.live import LivePage
from study.watch.server import HOST, PortTaken, Server, serve
from tests.study.watch.test_live import Watched
from tests.support.commands import started_command


@contextmanager
def _serving(live: LivePage, *, linger_s: float = 0.0) -> Iterator[tuple[Server, threading.Event]]:
    server, ended = Server(live), threading.Event()
    thread = threading.Thread(target=serve, args=(server,), kwargs={"ended": ended.is_set, "linger_s": linger_s})
    thread.start()
    try:
        yield server, ended
    finally:
        ended.set()
        thread.join()


@dataclass(frozen=True)
class Answer:
    """What the server answered."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def document(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.body)
        return document


def _get(server: Server, path: str, *, host: str | None = None, method: str = "GET") -> Answer:
    connection = http.client.HTTPConnection(HOST, server.server_address[1], timeout=90)
    connection.putrequest(method, path, skip_host=True)
    connection.putheader("Host", host or f"127.0.0.1:{server.server_address[1]}")
    connection.endheaders()
    answer = connection.getresponse()
    return Answer(answer.status, answer.headers, answer.read())


def test_only_the_page_and_its_status_are_served(tmp_path: Path) -> None:
    watched_page = Watched(tmp_path)
    watched_page.store(b"one")
    (tmp_path / "secret.txt").write_text("secret")
    with _serving(watched_page.page) as (server, _):
        assert server.url.startswith("http://127.0.0.1:")
        assert _get(server, "/report.html").status == 404, "there is no page yet"
        while not watched_page.builds:
            time.sleep(0.05)
        watched_page.finish(b"<p>the report</p>", cpu_s=1.0)
        report = _get(server, "/report.html?v=1")
        assert (report.status, report.body) == (200, b"<p>the report</p>")
        assert report.headers.get("Cross-Origin-Resource-Policy") == "same-origin"
        assert _get(server, "/status.json").document["page"]["version"] == "1"
        shell = _get(server, "/")
        assert b"watch.js" in shell.body
        assert "default-src 'none'" in str(shell.headers.get("Content-Security-Policy"))
        assert _get(server, "/watch.js").status == _get(server, "/watch.css").status == 200
        for path in (
            "/mlflow.db",
            "/secret.txt",
            "/assets/",
            "/../secret.txt",
            "/%2e%2e/secret.txt",
            "//etc/passwd",
            "/x",
        ):
            assert _get(server, path).status == 404, path
        assert _get(server, "/status.json", method="POST").status == 501


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:9000", 200),
        ("127.0.0.1", 200),
        ("evil.example:8765", 403),
        ("127.0.0.1.evil.example", 403),
    ],
)
def test_a_name_of_another_site_is_refused(tmp_path: Path, host: str, status: int) -> None:
    """A site can point its own name at this machine; a browser then sends that name."""
    with _serving(LivePage(tmp_path)) as (server, _):
        assert _get(server, "/status.json", host=host).status == status


def test_a_port_that_is_taken_is_refused_only_if_it_was_asked_for(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind((HOST, 0))
        other.listen()
        with pytest.raises(PortTaken):
            Server(LivePage(tmp_path), other.getsockname()[1])
    first, second = Server(LivePage(tmp_path)), Server(LivePage(tmp_path))
    assert first.url != second.url
    first.server_close()
    second.server_close()


def test_an_open_page_learns_how_the_run_ended(tmp_path: Path) -> None:
    page = Watched(tmp_path)
    page.say()
    with _serving(page.page, linger_s=60) as (server, ended):
        while _get(server, "/status.json").document["state"] != "running":
            time.sleep(0.05)
        (tmp_path / "report.html").write_bytes(b"final")
        page.say(state="ended")
        ended.set()  # what follows is asked by an open page
        while not (shown := _get(server, "/status.json").document)["page"]:
            time.sleep(0.05)
        assert shown["state"] == "ended"
        assert _get(server, "/report.html").body == b"final"
    with pytest.raises(OSError, match="refused"):
        _get(server, "/")


@pytest.mark.slow
def test_the_watch_of_a_run_ends_with_it(tmp_path: Path) -> None:
    with watched(tmp_path / "later", port=None) as url:
        port = int(url.rstrip("/").rpartition(":")[2])
        with pytest.raises(WatchFailed, match=f"--port {port}: "), watched(tmp_path, port=port):
            pass
    with pytest.raises(OSError, match="refused"):
        socket.create_connection((HOST, port), timeout=5)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_ends_without_an_error_on_a_signal(tmp_path: Path, number: int) -> None:
    with started_command("watch", str(tmp_path)) as watch:
        assert watch.stdout is not None
        assert watch.stdout.readline().startswith("http://127.0.0.1:")
        os.kill(watch.pid, number)
        out, error = watch.communicate(timeout=240)
    assert (watch.returncode, out, error.strip()) == (0, "", "")
    assert list(tmp_path.iterdir()) == [], "it only reads"
