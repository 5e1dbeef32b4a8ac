"""The outbox: everything that MLflow is to receive, in order and on disk before any of it is sent. No server loses a result.

The outbox is an append-only file of JSON lines. It keeps every write of a study, so another store can be sent everything too. A
killed writer leaves at most one partial last line, which is removed when the file is opened next. For each store, a file next
to it holds the delivery offset: how far that store has received the outbox. It counts only while the outbox holds the
line that it vouches for; otherwise everything is sent again, which duplicates nothing.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import threading
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainables.store.atomic import write_text
from trainables.store.kept import KeptFileUnusable, parse_object, read_object, sealed

Entry = dict[str, Any]
Say = Callable[[str], None]
FOLDER = "outbox"  # in the output folder
FORMAT = 1
READ_BACK = 4096  # bytes


_NEEDED = {  # keys of an entry, by what it does
    "journal": {"id", "experiment"},
    "describe": {"tags"},
    "run": {"run", "name", "parent", "tags", "params", "at"},
    "write": {"run", "at"},
    "file": {"run", "path", "sha256"},
    "end": {"run", "status", "at"},
}
_TYPES: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("id", "experiment", "run", "name", "path", "sha256", "status"), str),
    **dict.fromkeys(("tags", "params", "metrics"), dict),
    **dict.fromkeys(("at", "step"), int),
    "parent": (str, type(None)),
}


class OutboxUnusable(RuntimeError):
    """The outbox is damaged, in use, or another study's; the message says which, and what to do."""


@dataclass(frozen=True)
class StoredEntry:
    """An entry on disk. `end` is the byte offset after it, which is the delivery offset once it is delivered."""

    entry: Entry
    end: int


class Outbox:
    """The only writer and reader of an outbox; safe to use from several threads."""

    def __init__(self, folder: Path, experiment: str | None = None) -> None:
        """Open the folder's outbox, or create it for the experiment; without `experiment` it must exist.

        Raises:
            OutboxUnusable: it is damaged, another process has it open, it is another experiment's, or it does not exist.
            OSError: the folder cannot be written.
        """
        self.folder, self._path = folder, folder / "journal.jsonl"
        if experiment is None and not self._path.exists():
            raise OutboxUnusable(f"{self._path}: no such file; give the output folder of a run")
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._unwritten: list[bytes] = []
        self._end = 0
        self._error: OSError | None = None
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            self._lock_file()
            self._recovered = self._recover()
            if not self._recovered:
                self._write_header(experiment)
            self._read_header(experiment)
        except BaseException:
            os.close(self._file)
            raise

    def take_recovered(self) -> list[Entry]:
        """The entries that the outbox had when it was opened. Frees them: a second call returns none."""
        entries, self._recovered = self._recovered, []
        return entries

    def append(self, entry: Entry) -> None:
        """Write the entry to disk, completely or not at all.

        If the disk refuses it, which `error` then shows, it waits in memory, in order, for the next call.
        """
        line = json.dumps(sealed(entry), allow_nan=False, separators=(",", ":")).encode() + b"\n"
        with self._lock:
            self._unwritten.append(line)
            self._write()

    @property
    def end(self) -> int:
        """The offset after the last entry on disk."""
        return self._end

    @property
    def error(self) -> OSError | None:
        """Why entries wait in memory, or may not have reached the disk; None if all have."""
        return self._error

    def read(self, offset: int, limit: int | None = None) -> list[StoredEntry]:
        """Entries on disk from the offset on."""
        entries: list[StoredEntry] = []
        with open(self._path, "rb") as file:
            file.seek(offset)
            while offset < self._end and (limit is None or len(entries) < limit):
                line = file.readline()
                offset += len(line)
                entries.append(StoredEntry(parse_object(line), offset))
        return entries

    def sync(self) -> None:
        """Flush what is written to the disk: a delivery offset must not survive a power cut that its entries do not.

        Raises:
            OSError: the disk refuses it.
        """
        os.fsync(self._file)

    def last_line(self, offset: int) -> str | None:
        """A digest of the line that ends at the offset; None where no line does. The offset 0 has that of nothing."""
        if not 0 <= offset <= self._end:
            return None
        line, start = b"", offset
        with open(self._path, "rb") as file:
            while start > 0 and b"\n" not in line[:-1]:
                start, end = max(0, start - READ_BACK), start
                file.seek(start)
                line = file.read(end - start) + line
        if line and not line.endswith(b"\n"):
            return None
        return hashlib.sha256(line[line.rfind(b"\n", 0, -1) + 1 :]).hexdigest()[:16]

    def count(self, offset: int) -> int:
        """The number of entries from the offset on, including those that wait in memory."""
        with open(self._path, "rb") as file:
            file.seek(offset)
            return sum(1 for _ in file) + len(self._unwritten)

    def close(self) -> None:
        """Flush to disk and close; if the disk refuses, `error` says why."""
        with self._lock:
            if self._unwritten:
                self._write()
            try:
                os.fsync(self._file)
            except OSError as error:
                self._error = error
            with suppress(OSError):
                os.close(self._file)

    def _write(self) -> None:
        data, written = b"".join(self._unwritten), 0
        try:
            while written < len(data):
                written += os.pwrite(self._file, data[written:], self._end + written)
        except OSError as error:
            self._error = error
            # If this fails as well, the next write overwrites the partial line, or `_recover` removes it.
            with suppress(OSError):
                os.ftruncate(self._file, self._end)
        else:
            self._end += len(data)
            self._error = None
            self._unwritten.clear()

    def _lock_file(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise OutboxUnusable(f"{self._path}: another process is writing or sending it; wait for it") from error

    def _recover(self) -> list[Entry]:
        content = self._path.read_bytes()
        self._end = content.rfind(b"\n") + 1
        os.ftruncate(self._file, self._end)
        entries = []
        for number, line in enumerate(content[: self._end].split(b"\n")[:-1], 1):
            try:
                entry = parse_object(line)
            except ValueError as error:
                raise self._damaged(number) from error
            if not _is_entry(entry):
                raise self._damaged(number)
            entries.append(entry)
        return entries

    def _damaged(self, number: int) -> OutboxUnusable:
        return OutboxUnusable(
            f"{self._path}, line {number}: damaged. Models and final scores are stored elsewhere and are safe: move the file "
            "away and run the same command again. It writes what MLflow lacks, except the trials' intermediate results"
        )

    def _write_header(self, experiment: str | None) -> None:
        if experiment is None:
            raise OutboxUnusable(f"{self._path}: empty; give the output folder of a run")
        header = {"do": "journal", "format": FORMAT, "id": uuid.uuid4().hex, "experiment": experiment}
        self.append(header)
        if self._error is not None:
            raise self._error
        self._recovered = [header]

    def _read_header(self, experiment: str | None) -> None:
        header = self._recovered[0]
        if header["do"] != "journal" or header.get("format") != FORMAT:
            raise OutboxUnusable(f"{self._path}: not an outbox of this version; choose another output folder")
        if experiment not in (None, header["experiment"]):
            raise OutboxUnusable(
                f"{self._path}: belongs to the study {header['experiment']!r}; choose another output folder"
            )
        self.id, self.experiment = str(header["id"]), str(header["experiment"])


class DeliveryOffset:
    """How far one store has received an outbox: a byte offset, and the writes that it refused."""

    def __init__(self, outbox: Outbox, destination: str) -> None:
        self.destination, self._outbox = destination, outbox
        self._path = outbox.folder / self.file_name(destination)
        self.offset, self.refused = self._read()

    def advance(self, offset: int, refusals: list[str] | None = None) -> None:
        """Everything before the offset is delivered, or refused for these reasons.

        Raises:
            OSError: the outbox cannot be flushed to the disk, or the offset not be written.
        """
        self._outbox.sync()
        self.offset = offset
        self.refused += refusals or []
        self._save()

    def reset(self) -> None:
        """Nothing is delivered: the store is empty, or is to receive everything again."""
        self.offset, self.refused = 0, []
        self._save()

    @staticmethod
    def file_name(destination: str) -> str:
        """Of its file in the outbox's folder."""
        return f"receipt-{hashlib.sha256(destination.encode()).hexdigest()[:12]}.json"

    @staticmethod
    def destinations(folder: Path) -> list[str]:
        """Every store that the outbox was ever meant for, but those whose files are damaged."""
        stored = (_usable(path) for path in sorted(folder.glob("receipt-*.json")))
        return [str(content["destination"]) for content in stored if content is not None]

    def _read(self) -> tuple[int, list[str]]:
        """The stored offset and refusals; nothing is delivered where the outbox does not hold what the offset vouches for."""
        stored = _usable(self._path)
        if stored is None:
            return 0, []
        # Files of earlier versions have no digest: their offset counts where a line ends.
        line = self._outbox.last_line(stored["offset"])
        if line is None or stored.get("line", line) != line:
            return 0, []
        return stored["offset"], stored["refused"]

    def _save(self) -> None:
        content = {"destination": self.destination, "offset": self.offset, "refused": self.refused}
        write_text(self._path, json.dumps({**content, "line": self._outbox.last_line(self.offset)}))


def _is_entry(entry: Entry) -> bool:
    """Whether an entry of an earlier version, which is not sealed, has what its readers need."""
    needed = _NEEDED.get(str(entry.get("do")))
    known = all(isinstance(entry[key], kind) for key, kind in _TYPES.items() if key in entry)
    return needed is not None and needed <= entry.keys() and known


def _usable(path: Path) -> dict[str, Any] | None:
    """The content of a file with a delivery offset; None where there is none, or it is damaged."""
    try:
        content = read_object(path, ("destination", "offset", "refused"))
    except KeptFileUnusable:
        return None
    if content is None or type(content["offset"]) is not int or not isinstance(content["refused"], list):
        return None
    return content


def read_entries(folder: Path) -> list[Entry]:
    """The entries in the outbox of the folder, which another process may be writing; none without an outbox.

    Takes no lock. Lines that cannot be read, as the last one of a writer at work, are left out.
    """
    path, entries = folder / "journal.jsonl", []
    for line in path.read_bytes().splitlines() if path.is_file() else ():
        with suppress(ValueError):
            entry = parse_object(line)
            if _is_entry(entry):
                entries.append(entry)
    return entries


def read_tags(folder: Path) -> list[dict[str, str]]:
    """The latest tags of every run in the outbox of the folder, read as `read_entries` does."""
    runs: dict[str, dict[str, str]] = {}
    for entry in read_entries(folder):
        if entry["do"] in ("run", "write"):
            runs.setdefault(entry["run"], {}).update(entry.get("tags", {}))
    return list(runs.values())
