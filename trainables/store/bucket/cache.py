"""Stages of a bucket on a node's own disk: each is fetched once a node, and the least recently used ones are removed.

An entry is a stage's folder as a local store has it, so readers map its files into memory. A shared file lock protects an entry
for as long as the `StageCache` that handed it out lives, or until `release`; only unlocked entries are removed. Removing an
entry renames it first: who finds the folder finds it whole. Checkpoints that a training resumes from are entries of a cache of
their own, which keeps none that nobody uses.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from trainables.store.bucket.client import CACHE_VARIABLE

USE, FETCH = "{name}.use", "{name}.fetch"  # locks: of the entry's users, and of the process that fetches it
UNFINISHED, REMOVED = ".unfinished-", ".removed-"
RESERVE = 0.02  # of the disk, which stays free for what is being written


class StageCache:
    """The cached stages in `folder`. Several processes share them; each has its own instances.

    Args:
        locks: the folder of the entries' locks.
        most_bytes: what all entries may take; more if all are in use.
    """

    def __init__(self, folder: Path, locks: Path, most_bytes: int) -> None:
        self.folder, self._locks, self._most_bytes = folder, locks, most_bytes
        self._held: dict[str, IO[str]] = {}

    def hold(self, name: str, fetch: Callable[[Path], None], usable: Callable[[Path], bool]) -> Path:
        """The entry's folder, which stays while this object lives; fetched where it is missing or not usable.

        `fetch` writes the files into the folder that it is given. Another process that wants the entry waits for it.
        """
        final = self.folder / name
        self._use(name)
        if not usable(final):
            with self._fetching(name):
                if not usable(final):
                    self._replace(final, fetch)
        os.utime(self._locks / USE.format(name=name))  # used now
        return final

    def adopt(self, name: str, workspace: Path) -> Path:
        """Make a finished workspace the entry, and hold it. Waits for a process that is fetching the entry."""

        def move(unfinished: Path) -> None:
            unfinished.rmdir()
            os.replace(workspace, unfinished)

        final = self.folder / name
        self._use(name)
        with self._fetching(name):
            self._replace(final, move)
        self._forget(workspace)
        os.utime(self._locks / USE.format(name=name))
        return final

    def release(self, name: str) -> None:
        """Stop holding an entry, which may then be removed."""
        if (in_use := self._held.pop(name, None)) is not None:
            in_use.close()

    def workspace(self) -> Path:
        """A new, empty folder on the cache's file system. `trim` removes it once this object is gone."""
        unfinished = self.folder / f"{UNFINISHED}{uuid.uuid4().hex}"
        self._use(unfinished.name)  # before others can see it
        unfinished.mkdir(parents=True)
        return unfinished

    def trim(self, needed: int = 0) -> list[str]:
        """Remove the least recently used entries until the rest fits, and return their names; never one in use.

        It fits if it takes no more than it may, and if the disk, which others fill too, has `needed` bytes free and a reserve.
        What killed processes left unfinished is removed as well.
        """
        self._remove_abandoned()
        sizes = {path.name: _bytes(path) for path in self.folder.glob("[!.]*")}
        disk = shutil.disk_usage(self.folder) if self.folder.is_dir() else None
        lacking = 0 if disk is None else needed + int(RESERVE * disk.total) - disk.free
        most = min(self._most_bytes, max(0, sum(sizes.values()) - lacking))
        removed = []
        for name in sorted(sizes.keys() - self._held.keys(), key=self._used):
            if sum(sizes.values()) <= most:
                break
            with self._unused(name) as unused:
                if unused:
                    self._remove(self.folder / name)
                    del sizes[name]
                    removed.append(name)
        return removed

    def _remove_abandoned(self) -> None:
        for path in self.folder.glob(f"{UNFINISHED}*"):
            if path.name not in self._held:
                with self._unused(path.name) as unused:
                    if unused:
                        shutil.rmtree(path, ignore_errors=True)
                        self._forget(path)
        for path in self.folder.glob(f"{REMOVED}*"):
            shutil.rmtree(path, ignore_errors=True)

    @contextlib.contextmanager
    def _unused(self, name: str) -> Iterator[bool]:
        """Whether nobody uses the entry, and nobody can during the block."""
        with self._opened(USE.format(name=name)) as in_use:
            try:
                fcntl.flock(in_use, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True

    def _use(self, name: str) -> None:
        if name not in self._held:
            in_use = self._opened(USE.format(name=name))
            fcntl.flock(in_use, fcntl.LOCK_SH)
            self._held[name] = in_use

    @contextlib.contextmanager
    def _fetching(self, name: str) -> Iterator[None]:
        """The only process that replaces the entry."""
        with self._opened(FETCH.format(name=name)) as fetching:
            fcntl.flock(fetching, fcntl.LOCK_EX)
            yield

    def _replace(self, final: Path, fetch: Callable[[Path], None]) -> None:
        unfinished = self.workspace()
        try:
            fetch(unfinished)
            self._remove(final)
            os.replace(unfinished, final)
        except BaseException:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise
        finally:
            self._forget(unfinished)

    def _forget(self, workspace: Path) -> None:
        """Remove the lock of a workspace that is gone."""
        self.release(workspace.name)
        (self._locks / USE.format(name=workspace.name)).unlink(missing_ok=True)

    def _remove(self, entry: Path) -> None:
        aside = entry.with_name(f"{REMOVED}{uuid.uuid4().hex}")
        with contextlib.suppress(FileNotFoundError):
            os.replace(entry, aside)
            shutil.rmtree(aside, ignore_errors=True)

    def _used(self, name: str) -> float:
        with contextlib.suppress(FileNotFoundError):
            return (self._locks / USE.format(name=name)).stat().st_mtime
        return 0.0

    def _opened(self, name: str) -> IO[str]:
        self._locks.mkdir(parents=True, exist_ok=True)
        return open(self._locks / name, "a")


def most_bytes(folder: Path) -> int:
    """What the cache in the folder may take, by the environment or the size of the folder's disk.

    Raises:
        ValueError: the variable is not a positive number.
    """
    if text := os.environ.get(CACHE_VARIABLE):
        if (gigabytes := float(text)) <= 0:
            raise ValueError(f"{CACHE_VARIABLE}={text}: a positive number of gigabytes is needed")
        return int(gigabytes * 1e9)
    return shutil.disk_usage(folder).total // 2


def _bytes(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # removed meanwhile
            total += path.lstat().st_size
    return total
