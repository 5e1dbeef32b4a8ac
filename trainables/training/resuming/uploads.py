"""Moves checkpoints from a node's own disk to the store while training continues.

DeepSpeed writes a checkpoint while every worker waits. XLM-R XXL's takes 120 GB, so what it writes to and what else is done
meanwhile decides how long. Each worker writes its own files to its node's disk. A thread then copies them to the store, hashes
them on the way and flushes them, and notes what it copied; the leader's thread writes the manifest once every worker's note is
there. Until then the checkpoint does not exist for any reader, whatever ends first: a copy, a worker, or the node.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import shutil
import stat
import tempfile
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from trainables.store.manifests import Files
from trainables.training.resuming.shelves import Shelf

logger = logging.getLogger(__name__)
THREAD = "checkpoint upload"
POLL_S = 0.1  # between two looks for the other workers' notes
PATIENCE_S = 1800.0  # for them; as long as a collective waits


class Upload:
    """One worker's part of one checkpoint on its way to the store, in a thread of its own.

    Args:
        staged: the files that this worker wrote; the folder is removed at the end.
        shelf, checkpoint: where the store keeps it.
        workers: number of workers, which all make one.
        finish: on the leading worker, called with every worker's files once they are in the store; None on the others.
    """

    def __init__(
        self,
        staged: Path,
        shelf: Shelf,
        checkpoint: str,
        *,
        rank: int,
        workers: int,
        finish: Callable[[Files], None] | None,
    ) -> None:
        self._staged, self._shelf, self._checkpoint = staged, shelf, checkpoint
        self._rank, self._workers = rank, workers
        self._finish = finish
        self._cancelled = threading.Event()
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name=THREAD, daemon=True)
        self._thread.start()

    @property
    def running(self) -> bool:
        """Whether it is still under way. Raises what it failed with.

        Raises:
            OSError: the store cannot be written.
        """
        if self._thread.is_alive():
            return True
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        return False

    def wait(self, timeout_s: float | None = None) -> None:
        """Wait for its end. Raises: as `running` does."""
        self._thread.join(timeout_s)
        _ = self.running

    def leave(self, timeout_s: float) -> None:
        """Wait for its end without raising what it failed with, which is logged."""
        self._thread.join(timeout_s)
        if self._error is not None:
            logger.warning("the checkpoint %s was not stored: %s", self._checkpoint, self._error)

    def cancel(self) -> None:
        """End it as soon as possible, and wait for that; a checkpoint without a manifest is left."""
        self._cancelled.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            self._copy()
            if self._finish is not None and (files := self._all_files()) is not None:
                self._finish(files)
        except Exception as error:  # raised in the training's thread
            self._error = error
        finally:
            shutil.rmtree(self._staged, ignore_errors=True)

    def _copy(self) -> None:
        """Copy this worker's files, and note their sizes and hashes when they would survive a power cut."""
        files: Files = {}
        for source in sorted(path for path in self._staged.rglob("*") if path.is_file()):
            name = str(source.relative_to(self._staged))
            digest = self._shelf.keep(self._checkpoint, name, source, self._cancelled)
            if digest is None:
                return
            files[name] = {"bytes": source.stat().st_size, "sha256": digest}
            source.unlink()  # the next checkpoint needs the space
        self._shelf.note(self._checkpoint, self._rank, files)

    def _all_files(self) -> Files | None:
        """The files of all workers, once all are in the store; None where it was cancelled.

        Raises:
            TimeoutError: some worker's never came.
        """
        until = time.monotonic() + PATIENCE_S
        files: Files = {}
        for rank in range(self._workers):
            while not self._cancelled.is_set():
                if (noted := self._shelf.noted(self._checkpoint, rank)) is not None:
                    files |= noted
                    break
                if time.monotonic() > until:
                    raise TimeoutError(f"{self._checkpoint}: worker {rank} did not store its files")
                self._cancelled.wait(POLL_S)
        return None if self._cancelled.is_set() else files


class Staging:
    """Where one process writes a checkpoint's files first: a folder on its node's disk, or in the store if that has no space.

    Folders that killed processes left behind are removed; a lock, which ends with its process, tells which those are.

    Raises:
        PermissionError: others can write the folder on the node's disk, which has a name that they can guess.
    """

    def __init__(self, store: Path, needed_bytes: int) -> None:
        local = Path(tempfile.gettempdir())
        enough = shutil.disk_usage(local).free >= needed_bytes
        parent = local / f"xstilts-checkpoints-{os.getuid()}" if enough else store / ".staging"
        parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if enough:
            _check_private(parent)
        _remove_abandoned(parent)
        self.folder = parent / uuid.uuid4().hex
        self._lock = open(_lock_of(self.folder), "w")  # noqa: SIM115 - held until `remove`
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self.folder.mkdir()

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        _lock_of(self.folder).unlink(missing_ok=True)
        self._lock.close()


def _check_private(folder: Path) -> None:
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or stat.S_IMODE(status.st_mode) & 0o077:
        reason = "others may read or change checkpoints in it: remove it, or set TMPDIR to a folder of your own"
        raise PermissionError(errno.EPERM, reason, str(folder))


def _lock_of(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.lock")


def _remove_abandoned(parent: Path) -> None:
    for path in parent.glob("*.lock"):
        with contextlib.suppress(OSError), open(path) as lock:  # another process holds or removes it
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.with_suffix("").exists():  # not that of a process which is about to make its folder
                shutil.rmtree(path.with_suffix(""), ignore_errors=True)
                path.unlink(missing_ok=True)
