"""What the object servers of the tests share: faults, the contents of a bucket, and the part of HTTP that all protocols use.

`object_server.py` has S3 (`moto` behind a proxy), `gcs_server.py` Google Cloud Storage, `azure_server.py` Azure Blob Storage.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import re
import threading
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from unittest import mock
from urllib.parse import parse_qsl, unquote, urlsplit

import pytest

BUCKET = "studies"  # there is this one alone; Azure calls it a container


@dataclass
class Fault:
    """What happens to the next requests that match: an answer of this status, or a cut connection without one.

    `lose`: "request" cuts before the store sees it, "answer" after the store has done it, "half" in the middle of the answer.
    """

    method: str
    path: str = ""
    status: int = 0
    lose: str = ""
    times: int = 1


@dataclass
class ObjectServer:
    """A running object store with one bucket, and how `trainables.store.bucket` reaches it."""

    scheme: str
    port: int
    environment: dict[str, str]
    secret: str  # in the environment; no message may show it
    page: int = 1000  # names in one answer to a listing
    faults: list[Fault] = field(default_factory=list)
    requests: list[tuple[str, str]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def new_url(self) -> str:
        """A prefix that nothing has used."""
        return f"{self.scheme}://{BUCKET}/{uuid.uuid4().hex}"

    def reset(self) -> None:
        self.faults.clear()
        self.requests.clear()
        self.page = 1000

    def fault_of(self, method: str, path: str) -> Fault | None:
        path = unquote(path)  # requests to Google encode all of a name
        with self.lock:
            self.requests.append((method, path))
            for fault in self.faults:
                if fault.times > 0 and fault.method == method and re.search(fault.path, path):
                    fault.times -= 1
                    return fault
        return None


@dataclass(frozen=True)
class Answer:
    """A response; `headers` need no length and no date."""

    status: int
    content: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Stored:
    """One version of an object. No two have a number in common."""

    content: bytes
    number: int
    modified: str = field(default_factory=lambda: formatdate(usegmt=True))

    @property
    def md5(self) -> str:
        return hashlib.md5(self.content).hexdigest()


class Contents:
    """The objects of a bucket by name. Its lock is held while a request is answered, so conditions and changes are one."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.objects: MutableMapping[str, Stored] = {}
        self.parts: MutableMapping[str, MutableMapping[str, bytes]] = {}
        """Of unfinished uploads, by what the protocol calls these."""
        self._numbers = itertools.count(1_700_000_000_000_001)

    def write(self, name: str, content: bytes) -> Stored:
        self.objects[name] = Stored(content, next(self._numbers))
        return self.objects[name]

    def page(
        self, prefix: str, delimiter: str, after: str, most: int
    ) -> tuple[list[tuple[str, Stored]], list[str], str]:
        """Objects, common prefixes, and after which name the next page starts; empty where this one is the last."""
        objects: list[tuple[str, Stored]] = []
        folders: list[str] = []
        for name in sorted(name for name in self.objects if name.startswith(prefix)):
            head, found, _ = name.removeprefix(prefix).partition(delimiter) if delimiter else (name, "", "")
            entry = f"{prefix}{head}{found}" if found else name
            if entry <= after or (found and entry in folders):
                continue
            if len(objects) + len(folders) == most:
                return objects, folders, max([name for name, _ in objects] + folders)
            if found:
                folders.append(entry)
            else:
                objects.append((name, self.objects[name]))
        return objects, folders, ""


class ObjectHandler(BaseHTTPRequestHandler, ABC):
    """Answers requests by `answer`, except where the server has a fault for them."""

    protocol_version = "HTTP/1.1"
    server: Any

    @abstractmethod
    def answer(self, body: bytes) -> Answer:
        """What the store answers to this request."""

    @abstractmethod
    def failure(self, status: int) -> Answer:
        """What the store answers where a fault has this status."""

    @property
    def objects(self) -> ObjectServer:
        return self.server.objects

    @property
    def contents(self) -> Contents:
        return self.server.contents

    @property
    def query(self) -> dict[str, str]:
        return dict(parse_qsl(urlsplit(self.path).query, keep_blank_values=True))

    @property
    def bucket_and_name(self) -> tuple[str, str]:
        bucket, _, name = unquote(urlsplit(self.path).path).lstrip("/").partition("/")
        return bucket, name

    def read(self, stored: Stored, headers: dict[str, str]) -> Answer:
        """The object, or the part of it that the request's range names (RFC 9110, section 14)."""
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        headers = {"Last-Modified": stored.modified, "Accept-Ranges": "bytes", **headers}
        if asked is None:
            return Answer(200, stored.content, headers)
        size, first = len(stored.content), int(asked[1])
        last = min(int(asked[2] or size), size - 1)
        headers["Content-Range"] = f"bytes {first}-{last}/{size}"
        return Answer(206, stored.content[first : last + 1], headers)

    def log_message(self, format: str, *args: object) -> None:
        return

    def _handle(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = self.objects.fault_of(self.command, self.path)
        if fault is not None and fault.lose == "request":
            return self._cut()
        if fault is not None and fault.status:
            return self._send(self.failure(fault.status))
        answer = self.answer(body)
        if fault is not None and fault.lose == "answer":
            return self._cut()
        self._send(answer, half=fault is not None and fault.lose == "half")

    def _send(self, answer: Answer, *, half: bool = False) -> None:
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            if name not in ("Content-Length", "Date", "Server"):
                self.send_header(name, value)
        length = str(len(answer.content))
        self.send_header("Content-Length", answer.headers.get("Content-Length", length) if self._is_head else length)
        self.end_headers()
        if not self._is_head:
            self.wfile.write(answer.content[: len(answer.content) // 2] if half else answer.content)
        if half:
            self._cut()

    @property
    def _is_head(self) -> bool:
        return self.command == "HEAD"

    def _cut(self) -> None:
        self.wfile.flush()
        self.close_connection = True

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _handle  # noqa: N815 - names of the base class


class ObjectHttpServer(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a client that an earlier test left would print a traceback into another test's output."""


@contextmanager
def served(
    handler: type[ObjectHandler], scheme: str, secret: str, environment: dict[str, str], **attributes: object
) -> Iterator[ObjectServer]:
    """Serve until the end of the block, with the environment of this process set to it; `{port}` in its values is the port.

    Args:
        attributes: what the handler finds in its `server`, besides `objects` and `contents`.
    """
    pytest.importorskip("obstore", reason="obstore is not installed: pip install obstore")
    http = ObjectHttpServer(("127.0.0.1", 0), handler)
    port = http.server_address[1]
    own = {name: value.format(port=port) for name, value in environment.items()}
    server = ObjectServer(scheme, port, own, secret)
    for name, value in {**attributes, "objects": server, "contents": Contents()}.items():
        setattr(http, name, value)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    try:
        with mock.patch.dict(os.environ, own):
            yield server
    finally:
        http.shutdown()
        http.server_close()
