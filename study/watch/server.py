"""Serves the page of a running study to browsers on this machine, and nothing else of its folder."""

from __future__ import annotations

import errno
import json
import time
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import TCPServer
from threading import Thread
from urllib.parse import urlsplit

from study.watch.live import LivePage
from study.watch.status_file import RunState

HOST, PORT = "127.0.0.1", 8765
ASSETS = Path(__file__).parent / "assets"
TICK_S = 0.5
LISTENS_S = 5.0  # a page that polled within this time is still open; it polls every two seconds
LINGER_S = 8.0  # for open pages to learn how the run ended
_FILES = {  # the only paths besides those of the study itself
    "/": ("watch.html", "text/html; charset=utf-8"),
    "/watch.js": ("watch.js", "text/javascript; charset=utf-8"),
    "/watch.css": ("watch.css", "text/css; charset=utf-8"),
}
# A page of another site that names this machine in its own domain sends that domain as the host. Ports differ behind a tunnel.
_HOSTS = ("127.0.0.1", "localhost")
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; frame-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class PortTaken(OSError):
    """Another program listens on the port."""


class Server(ThreadingHTTPServer):
    """Listens on one port of this machine alone."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, live: LivePage, port: int | None = None) -> None:
        """Listen on the port; without one on `PORT`, or on any that is free.

        Raises:
            PortTaken: something else listens on the given port.
        """
        self.live = live
        self.polled_s = float("-inf")  # when a page last asked, and whether it knows the end
        self.told_end = False
        self._listen(PORT if port is None else port, or_any=port is None)

    def _listen(self, port: int, *, or_any: bool) -> None:
        try:
            super().__init__((HOST, port), _Handler)
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise
            if not or_any:
                raise PortTaken(error.errno, error.strerror) from error
            super().__init__((HOST, 0), _Handler)

    def server_bind(self) -> None:
        """Bind without HTTPServer's search for a name of this machine, which waits where no name server answers."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = HOST, self.server_address[1]

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.server_address[1]}/"


class _Handler(BaseHTTPRequestHandler):
    server: Server
    server_version, sys_version = "study-watch", ""
    timeout = 30

    def do_GET(self) -> None:
        if self._host() not in _HOSTS:
            self._answer(HTTPStatus.FORBIDDEN, b"only for this machine", "text/plain")
            return
        path = urlsplit(self.path).path
        if path in _FILES:
            name, kind = _FILES[path]
            self._answer(HTTPStatus.OK, (ASSETS / name).read_bytes(), kind, policy=_POLICY)
        elif path == "/status.json":
            self._status()
        elif path == "/report.html" and (page := self.server.live.page) is not None:
            self._answer(HTTPStatus.OK, page.html, "text/html; charset=utf-8", policy="frame-ancestors 'self'")
            self.server.told_end = page.version.startswith("final-")
        else:
            self._answer(HTTPStatus.NOT_FOUND, b"not found", "text/plain")

    def _status(self) -> None:
        document = self.server.live.document()
        self._answer(HTTPStatus.OK, json.dumps(document).encode(), "application/json")
        self.server.polled_s = time.monotonic()
        if document["state"] != RunState.ENDED:  # an end is known with the page that the run wrote last
            self.server.told_end = document["state"] in (RunState.INTERRUPTED, RunState.FAILED)

    def _host(self) -> str:
        """The name of the host that the reader asked, without the port."""
        return self.headers.get("Host", "").rpartition(":")[0] or self.headers.get("Host", "")

    def _answer(self, status: HTTPStatus, body: bytes, kind: str, *, policy: str = "default-src 'none'") -> None:
        try:
            self.send_response(status)
            headers = {"Content-Type": kind, "Content-Length": str(len(body)), "Content-Security-Policy": policy}
            for name, value in (headers | _HEADERS).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)
        except OSError:
            self.close_connection = True  # the reader has gone

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing: standard error is the run's."""


def serve(server: Server, *, ended: Callable[[], bool], linger_s: float = LINGER_S) -> None:
    """Serve until `ended`, and then for up to `linger_s` where an open page does not know yet how the run ended."""
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        while not ended():
            server.live.tick()
            time.sleep(TICK_S)
        until_s = time.monotonic() + linger_s
        while time.monotonic() < until_s and not server.told_end:
            server.live.tick()
            if time.monotonic() - server.polled_s > LISTENS_S:
                break
            time.sleep(TICK_S)
    finally:
        server.live.close()
        server.shutdown()
        server.server_close()
