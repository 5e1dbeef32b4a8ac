"""The output folder: its lock, leftovers of interrupted stages, and the time its stages took.

One process at a time may use a folder: two would overwrite each other's stages and journal.
"""

from __future__ import annotations

import fcntl
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from study.errors import CannotRun
from trainables.store.locks import lock_problem
from trainables.store.manifests import read_manifest, seconds_of
from trainables.store.opening import open_store
from trainables.store.removal import is_whole
from trainables.training.attempts import FOLDER as ATTEMPTS

LOCK = ".lock"
COPYING = ".copying.lock"  # of the process that copies a bucket's results into its work folder
LOOK_S = 2.0  # a process that copies holds the folder's lock for a moment, to see that no run does


@contextmanager
def locked(output: Path) -> Iterator[None]:
    """Create the folder if needed and lock it for this process.

    Raises:
        CannotRun: it is not writable, its file system has no locks, or another process uses it.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
        lock = open(output / LOCK, "a")  # noqa: SIM115 - open until the lock is released
    except OSError as error:
        raise CannotRun(f"--output {output}: {error.strerror or error}; choose a writable folder") from error
    with lock:
        if problem := lock_problem(output):
            raise CannotRun(
                f"--output {output}: {problem}, and without locks two processes would overwrite each other's stages; "
                "choose a folder on a disk or on a network file system with locks (NFS 4, Lustre, CephFS)"
            )
        if not _taken(lock, fcntl.LOCK_EX):
            raise CannotRun(f"--output {output}: another run is using it; wait for that run or choose another folder")
        _wait_for_copy(output)
        yield


@contextmanager
def unchanging(output: Path) -> Iterator[None]:
    """Keep runs out of the folder while it is read; several readers may read it, also one that may not write it.

    Raises:
        CannotRun: a run is using it.
    """
    try:
        lock = open(output / LOCK)  # noqa: SIM115 - open until the lock is released
    except (FileNotFoundError, NotADirectoryError):  # no run has ever used it
        yield
        return
    with lock:
        if not _taken(lock, fcntl.LOCK_SH):
            raise CannotRun(f"{output}: a run is using it; wait for its end, or stop it, and resume it afterwards")
        _wait_for_copy(output)
        yield


@contextmanager
def undriven(output: Path) -> Iterator[bool]:
    """Whether no run uses a bucket's work folder on this machine, so that results may be copied into it in the block.

    A run that starts meanwhile is not refused: it waits for the end of the block.
    """
    output.mkdir(parents=True, exist_ok=True)
    with open(output / COPYING, "a") as copying:
        fcntl.flock(copying, fcntl.LOCK_EX)  # before the look: a run that starts after it finds this lock
        with open(output / LOCK, "a") as lock:
            free = _taken(lock, fcntl.LOCK_EX, patience_s=0.0)
        yield free


def _taken(lock: IO[str], kind: int, *, patience_s: float = LOOK_S) -> bool:
    """Whether this process has the lock now. It is released when the file is closed."""
    deadline = time.monotonic() + patience_s
    while True:
        try:
            fcntl.flock(lock, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.02)
        else:
            return True


def _wait_for_copy(output: Path) -> None:
    """Wait until nobody copies into the folder, whose lock this process holds: nobody will begin to."""
    with suppress(FileNotFoundError), open(output / COPYING) as copying:
        fcntl.flock(copying, fcntl.LOCK_SH)


def remove_leftovers(output: Path) -> None:
    """Remove unfinished stages and notes of what was trained, and checkpoints that finished stages could not remove."""
    shutil.rmtree(output / ATTEMPTS, ignore_errors=True)
    for folder in output.glob("stages/.unfinished-*"):
        shutil.rmtree(folder)
    for checkpoints in output.glob("checkpoints/*"):
        if is_whole(read_manifest(output / "stages" / checkpoints.name)):
            shutil.rmtree(checkpoints)


def seconds_by_stage_kind(output: Path) -> dict[str, float]:
    """Seconds of all stages by kind, longest first, from their manifests; stages that ran at the same time add up."""
    seconds: dict[str, float] = {}
    for name, manifest in open_store(output).manifests().items():
        if took := seconds_of(manifest):
            kind = name.split("-")[0]
            seconds[kind] = seconds.get(kind, 0.0) + took
    return dict(sorted(seconds.items(), key=lambda item: -item[1]))
