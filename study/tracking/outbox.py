"""What MLflow is to hold, in order, on disk before any of it is sent: nothing that happens to a server loses a result.

The journal is an append-only file of JSON lines and holds everything that a study ever wrote, so that it can be sent to
another store as well. A writer that is killed leaves at most one torn last line, which is cut off when the file is opened
again. Beside it lies a receipt for each store: how far it has come.
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

Entry = dict[str, Any]
FORMAT = 1


class JournalUnusable(RuntimeError):
    """The journal is damaged, in use, or of another study; says which, and the way out."""


@dataclass(frozen=True)
class Placed:
    """An entry and the byte offset after it, which is what a receipt notes once the entry is delivered."""

    entry: Entry
    after: int


class Journal:
    """The one writer's and reader's hold on a journal; safe to use from several threads."""

    def __init__(self, folder: Path, experiment: str | None = None) -> None:
        """Open the folder's journal or begin one for the experiment; without `experiment` there must be one.

        Raises:
            JournalUnusable: a line is no entry, another process has it open, or there is none to open.
            OSError: the folder cannot be written.
        """
        self.folder, self._path = folder, folder / "journal.jsonl"
        if experiment is None and not self._path.exists():
            raise JournalUnusable(f"{self._path}: no such file; give the output folder of a run")
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._unwritten: list[bytes] = []
        self._end = 0
        self._error: OSError | None = None
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            self._claim()
            self._recovered = self._recover()
            if not self._recovered:
                self._begin(experiment)
            self._read_header(experiment)
        except BaseException:
            os.close(self._file)
            raise

    def take_recovered(self) -> list[Entry]:
        """The entries that were there when the journal was opened; once, since they may be many."""
        entries, self._recovered = self._recovered, []
        return entries

    def append(self, entry: Entry) -> None:
        """Put the entry on disk, whole or not at all.

        Where the disk does not take it (`error` says why) it waits in memory, in order, for the next call.
        """
        line = json.dumps(entry, allow_nan=False, separators=(",", ":")).encode() + b"\n"
        with self._lock:
            self._unwritten.append(line)
            self._write()

    @property
    def end(self) -> int:
        """Offset after the last entry on disk."""
        return self._end

    @property
    def error(self) -> OSError | None:
        """Why entries wait in memory, or may not be on disk after all, if some do."""
        return self._error

    def read(self, offset: int, limit: int | None = None) -> list[Placed]:
        """Entries on disk from the offset on."""
        found: list[Placed] = []
        with open(self._path, "rb") as file:
            file.seek(offset)
            while offset < self._end and (limit is None or len(found) < limit):
                line = file.readline()
                offset += len(line)
                found.append(Placed(json.loads(line), offset))
        return found

    def count(self, offset: int) -> int:
        """How many entries there are from the offset on, those that wait in memory included."""
        with open(self._path, "rb") as file:
            file.seek(offset)
            return sum(1 for _ in file) + len(self._unwritten)

    def close(self) -> None:
        """Flush to the disk and let go; where the disk does not take it, `error` says why."""
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
        data, done = b"".join(self._unwritten), 0
        try:
            while done < len(data):
                done += os.pwrite(self._file, data[done:], self._end + done)
        except OSError as error:
            self._error = error
            with suppress(OSError):  # else the next call writes over half a line, or `_recover` cuts it off
                os.ftruncate(self._file, self._end)
        else:
            self._end += len(data)
            self._error = None
            self._unwritten.clear()

    def _claim(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise JournalUnusable(f"{self._path}: another process is writing or sending it; wait for it") from error

    def _recover(self) -> list[Entry]:
        content = self._path.read_bytes()
        self._end = content.rfind(b"\n") + 1
        os.ftruncate(self._file, self._end)
        entries = []
        for number, line in enumerate(content[: self._end].splitlines(), 1):
            try:
                entry = json.loads(line)
            except (json.JSONDecodeError, UnicodeDecodeError) as error:
                raise self._damaged(number) from error
            if not isinstance(entry, dict) or "do" not in entry:
                raise self._damaged(number)
            entries.append(entry)
        return entries

    def _damaged(self, number: int) -> JournalUnusable:
        return JournalUnusable(
            f"{self._path}, line {number}: damaged. Scores and models are not in it and are safe: move the file away, and the "
            "same command writes anew what MLflow lacks, all but the trials' intermediate results"
        )

    def _begin(self, experiment: str | None) -> None:
        if experiment is None:
            raise JournalUnusable(f"{self._path}: empty; give the output folder of a run")
        header = {"do": "journal", "format": FORMAT, "id": uuid.uuid4().hex, "experiment": experiment}
        self.append(header)
        if self._error is not None:
            raise self._error
        self._recovered = [header]

    def _read_header(self, experiment: str | None) -> None:
        header = self._recovered[0]
        if header["do"] != "journal" or header.get("format") != FORMAT:
            raise JournalUnusable(f"{self._path}: not a journal of this version; choose another output folder")
        if experiment not in (None, header["experiment"]):
            raise JournalUnusable(
                f"{self._path}: holds the study {header['experiment']!r}; choose another output folder"
            )
        self.id, self.experiment = str(header["id"]), str(header["experiment"])


def folder_id(output: Path) -> str:
    """The id of an output folder, made up once: it moves with the folder, and stays when the journal is taken away.

    Raises:
        OSError: it has none yet and cannot be written.
    """
    path = output / "study.id"
    with suppress(FileNotFoundError):
        if held := path.read_text(encoding="utf-8").strip():
            return held
    made, temporary = uuid.uuid4().hex, path.with_suffix(".tmp")
    temporary.write_text(made, encoding="utf-8")
    os.replace(temporary, path)
    return made


class Receipt:
    """How far one store has taken the journal: a byte offset, and what it refused to take."""

    def __init__(self, folder: Path, destination: str) -> None:
        self.destination = destination
        self._path = folder / f"receipt-{hashlib.sha256(destination.encode()).hexdigest()[:12]}.json"
        held = self._read()
        self.offset: int = held.get("offset", 0)
        self.refused: list[str] = held.get("refused", [])

    def note(self, offset: int, refusals: list[str] | None = None) -> None:
        """Everything before the offset is delivered, or refused for the reasons given."""
        self.offset = offset
        self.refused += refusals or []
        self._save()

    def reset(self) -> None:
        """The store has nothing, or is to get everything again."""
        self.offset, self.refused = 0, []
        self._save()

    @staticmethod
    def destinations(folder: Path) -> list[str]:
        """Every store that the journal was ever meant for."""
        found = (json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("receipt-*.json")))
        return [str(held["destination"]) for held in found]

    def _read(self) -> dict[str, Any]:
        try:
            held: dict[str, Any] = json.loads(self._path.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return {}  # everything is sent again, which doubles nothing
        return held

    def _save(self) -> None:
        content = {"destination": self.destination, "offset": self.offset, "refused": self.refused}
        temporary = self._path.with_suffix(".tmp")
        temporary.write_text(json.dumps(content), encoding="utf-8")
        os.replace(temporary, self._path)


Say = Callable[[str], None]
