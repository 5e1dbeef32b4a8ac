"""Leases: the right to produce a stage or to drive a study, held in a bucket by a process that renews it.

A lease is one object. Creating it and every change of it are puts with a condition, so one of several contenders succeeds. Its
holder renews it from a thread; a contender takes over a lease that did not change for `LEASE_S` by the contender's own clock,
so no two clocks are compared. On one machine a contender sees at once that the holder's process is gone. Each new holder counts
the `token` up.

A process that was stopped for longer than its lease does not know that it lost it, until its next renewal fails. What it writes
meanwhile must be harmless by itself: manifests and segments are put create-only.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from trainables.store.bucket.client import ObjectStore, StorageUnavailable
from trainables.store.kept import parse_object

logger = logging.getLogger(__name__)
LEASE_S = 60.0
RENEWALS = 6  # in that time
LONGEST_GAP_S = LEASE_S / 2  # between two looks of a contender; one that waits looks every few seconds


@dataclass(frozen=True)
class Holder:
    """Who holds a lease, and since when."""

    host: str
    pid: int
    since: str
    machine: str = ""

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} since {self.since}"


@dataclass(frozen=True)
class _Seen:
    """A lease of somebody else as a contender found it: when for the first time on its own clock, and when it last looked."""

    tag: str
    at: float
    looked: float


class Lease:
    """A lease that this process holds until `release`, or until another took it over while this one could not renew it."""

    def __init__(self, store: ObjectStore, name: str, document: dict[str, Any], tag: str, every_s: float) -> None:
        self.token = int(document["token"])
        self._store, self._name, self._document, self._tag = store, name, document, tag
        self._lost, self._ended = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._renew, args=(every_s,), name=f"lease {name}", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    @property
    def lost(self) -> bool:
        """Whether another process is known to have taken it over."""
        return self._lost.is_set()

    def release(self) -> None:
        """Let others take it at once. If the store does not answer, they wait until it has not changed for its time."""
        self._ended.set()
        self._thread.join()
        if not self.lost:
            try:
                self._write({**self._document, "released": True})
            except StorageUnavailable as error:
                logger.warning("the lease %s was not released: %s", self._name, error)

    def _renew(self, every_s: float) -> None:
        while not self._ended.wait(every_s):
            try:
                tag = self._write(self._document)
            except StorageUnavailable as error:
                logger.warning("the lease %s was not renewed: %s", self._name, error)
                continue
            if tag is None:
                logger.warning("the lease %s was taken over: this process did not renew it in time", self._name)
                self._lost.set()
                return
            self._tag = tag

    def _write(self, document: dict[str, Any]) -> str | None:
        """Its new tag, or None where another holds it. A put before may have been applied though its answer was lost."""
        tag = self._store.put_over(self._name, _content(document), self._tag)
        if tag is None and (present := self._store.get(self._name)) is not None and self._is_own(present.content):
            tag = self._store.put_over(self._name, _content(document), present.tag)
        return tag

    def _is_own(self, content: bytes) -> bool:
        """Whether this holder wrote it: no other has its token, and is the process of that id on its machine."""
        return self._document.items() <= _document(content).items()


class Leases:
    """Takes leases, and remembers those of others that it waits for.

    Args:
        lease_s: after how many seconds without a renewal one may be taken over; equal in all processes.
        clock: seconds, monotonic.
    """

    def __init__(
        self, store: ObjectStore, *, lease_s: float = LEASE_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._store, self._lease_s, self._clock = store, lease_s, clock
        self._seen: dict[str, _Seen] = {}

    def try_take(self, name: str) -> Lease | Holder:
        """The lease, or who holds it. To wait for it, call again: it is known only then that nobody renews it.

        Raises:
            StorageUnavailable: the object store does not answer.
        """
        present = self._store.get(name)
        if present is None:
            return self._taken(name, 1, lambda content: self._store.put_new(name, content)) or self.holder(name)
        document = _document(present.content)
        if not (document.get("released") or _gone(document) or self._expired(name, present.tag)):
            return _holder(document)
        token, tag = int(document.get("token", 0)) + 1, present.tag
        return self._taken(name, token, lambda content: self._store.put_over(name, content, tag)) or self.holder(name)

    def take(self, name: str) -> Lease | Holder:
        """The lease, or who holds and renews it. Waits for at most the lease's time, to see whether somebody does.

        Raises:
            StorageUnavailable: the object store does not answer.
        """
        first: _Seen | None = None
        while isinstance(taken := self.try_take(name), Holder):
            seen = self._seen.get(name)
            if _is_here(taken) or (first is not None and seen is not None and seen.tag != first.tag):
                return taken
            first = first or seen
            time.sleep(min(1.0, self._lease_s / RENEWALS))
        return taken

    def holder(self, name: str) -> Holder:
        """Who holds a lease that could not be taken."""
        present = self._store.get(name)
        return _holder({} if present is None else _document(present.content))

    def _taken(self, name: str, token: int, put: Callable[[bytes], str | None]) -> Lease | None:
        document = {**_process(os.getpid()), "since": _now(), "token": token}
        tag = put(_content(document))
        self._seen.pop(name, None)
        return None if tag is None else Lease(self._store, name, document, tag, self._lease_s / RENEWALS)

    def _expired(self, name: str, tag: str) -> bool:
        """Whether a lease has not changed for its time since it was first seen as it is.

        A contender that has not looked for `LONGEST_GAP_S` begins again: where the store was away, the holder could not renew
        it either.
        """
        seen, now = self._seen.get(name), self._clock()
        known = seen is not None and seen.tag == tag and now - seen.looked <= LONGEST_GAP_S
        self._seen[name] = _Seen(tag, seen.at if known and seen is not None else now, now)
        return now - self._seen[name].at > self._lease_s


def _process(pid: int) -> dict[str, Any]:
    """What identifies a process among all that this machine ever ran, in whatever container.

    Raises:
        ProcessLookupError: there is none with this id.
    """
    return {
        "host": platform.node(),
        "machine": f"{_boot()}/{os.stat('/proc/self/ns/pid').st_ino}",
        "pid": pid,
        "start_ticks": _start_ticks(pid),
    }


def _start_ticks(pid: int) -> int:
    """When a process started, in clock ticks since boot. A time of day would move with each step of the wall clock.

    It is the 22nd field of its `stat` (proc(5)), and the third its state. The second is the program's name, which may have
    spaces and parentheses. A process that has ended stays there as a zombie until its parent asks for its exit status.
    """
    try:
        status = Path(f"/proc/{pid}/stat").read_bytes()
    except FileNotFoundError:
        raise ProcessLookupError(f"there is no process {pid}") from None
    fields = status.rpartition(b")")[2].split()
    if fields[0] in (b"Z", b"X"):
        raise ProcessLookupError(f"process {pid} has ended")
    return int(fields[22 - 3])


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()


def _gone(document: dict[str, Any]) -> bool:
    """Whether the holder was a process of this machine that has ended."""
    try:
        here = _process(int(document["pid"]))
    except ProcessLookupError:
        return bool(document.get("machine") == _process(os.getpid())["machine"])
    except (KeyError, ValueError, TypeError):  # a damaged lease; its time will tell
        return False
    started = document.get("start_ticks", here["start_ticks"])  # where it is not known, its time will tell
    return bool(document.get("machine") == here["machine"] and started != here["start_ticks"])


def _content(document: dict[str, Any]) -> bytes:
    """With a new number, so that no two contents of a lease are equal: object stores tell versions by content."""
    return json.dumps({**document, "write": uuid.uuid4().hex}).encode()


def _document(content: bytes) -> dict[str, Any]:
    try:
        return parse_object(content)
    except ValueError:
        return {}


def _holder(document: dict[str, Any]) -> Holder:
    return Holder(
        str(document.get("host", "?")),
        int(document.get("pid", 0)),
        str(document.get("since", "?")),
        str(document.get("machine", "")),
    )


def _is_here(holder: Holder) -> bool:
    """Whether the holder is a process of this machine: then one that lives, or its lease would have been taken."""
    return holder.machine == _process(os.getpid())["machine"]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
