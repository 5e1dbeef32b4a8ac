"""A Google Cloud Storage on loopback that keeps what it has answered for: `python -m tests.support.gcs_on_disk PORT FOLDER`.

`FOLDER/objects/NAME` is an object, and `FOLDER/parts/UPLOAD/NUMBER` a part of an unfinished upload. A file appears whole, and
before the request is answered, so a killed server loses nothing that a client was told of.
"""

from __future__ import annotations

import itertools
import os
import shutil
import sys
import time
from collections import UserDict
from collections.abc import MutableMapping
from email.utils import formatdate
from pathlib import Path

from tests.support.gcs_server import SECRET, Google
from tests.support.object_http import Contents, ObjectHttpServer, ObjectServer, Stored


class _Objects(UserDict[str, Stored]):
    """Objects as files, whose time of change in nanoseconds is the object's number."""

    def __init__(self, folder: Path, incoming: Path) -> None:
        super().__init__()
        self._folder, self._incoming = folder, incoming
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.rglob("*"):
            if path.is_file():
                changed = path.stat().st_mtime_ns
                modified = formatdate(changed / 1e9, usegmt=True)
                self.data[path.relative_to(folder).as_posix()] = Stored(path.read_bytes(), changed, modified)

    def __setitem__(self, name: str, stored: Stored) -> None:
        _appear(self._folder / name, stored.content, self._incoming, stored.number)
        self.data[name] = stored

    def __delitem__(self, name: str) -> None:
        del self.data[name]
        (self._folder / name).unlink()


class _Parts(UserDict[str, bytes]):
    """The parts of an upload as files."""

    def __init__(self, folder: Path, incoming: Path) -> None:
        super().__init__()
        self._folder, self._incoming = folder, incoming
        folder.mkdir(parents=True, exist_ok=True)
        self.data = {path.name: path.read_bytes() for path in folder.iterdir()}

    def __setitem__(self, number: str, content: bytes) -> None:
        if number not in self.data or self.data[number] != content:
            _appear(self._folder / number, content, self._incoming)
        self.data[number] = content


class _Uploads(UserDict[str, MutableMapping[str, bytes]]):
    """Unfinished uploads as folders."""

    def __init__(self, folder: Path, incoming: Path) -> None:
        super().__init__()
        self._folder, self._incoming = folder, incoming
        self.data = {path.name: _Parts(path, incoming) for path in folder.glob("*")}

    def __setitem__(self, upload: str, parts: MutableMapping[str, bytes]) -> None:
        self.data[upload] = _Parts(self._folder / upload, self._incoming)
        self.data[upload].update(parts)

    def __delitem__(self, upload: str) -> None:
        del self.data[upload]
        shutil.rmtree(self._folder / upload)


class ContentsOnDisk(Contents):
    """The objects of a bucket in a folder. One process at a time uses it."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        incoming = folder / "incoming"  # written while the lock is held, so by one request at a time
        self.objects = _Objects(folder / "objects", incoming)
        self.parts = _Uploads(folder / "parts", incoming)
        last = max((stored.number for stored in self.objects.values()), default=0)
        self._numbers = itertools.count(max(last + 1, time.time_ns()))


def _appear(path: Path, content: bytes, incoming: Path, changed_ns: int | None = None) -> None:
    """Write a file that is there whole or not at all."""
    incoming.write_bytes(content)
    if changed_ns is not None:
        os.utime(incoming, ns=(changed_ns, changed_ns))
    path.parent.mkdir(parents=True, exist_ok=True)
    os.replace(incoming, path)


def serve(port: int, folder: Path) -> None:
    """Serve until the process ends."""
    http = ObjectHttpServer(("127.0.0.1", port), Google)
    for name, value in {"objects": ObjectServer("gs", port, {}, SECRET), "contents": ContentsOnDisk(folder)}.items():
        setattr(http, name, value)
    http.serve_forever()


if __name__ == "__main__":
    serve(int(sys.argv[1]), Path(sys.argv[2]))
