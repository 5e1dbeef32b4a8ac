"""The output folder: its lock, leftovers of interrupted stages, and the time its stages took.

One process at a time may use a folder: two would overwrite each other's stages and journal.
"""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from study.errors import CannotRun
from trainables.store.locks import lock_problem
from trainables.store.manifests import MANIFEST, read_manifest, seconds_of
from trainables.training.attempts import FOLDER as ATTEMPTS

LOCK = ".lock"


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
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise CannotRun(
                f"--output {output}: another run is using it; wait for that run or choose another folder"
            ) from error
        yield


def remove_leftovers(output: Path) -> None:
    """Remove unfinished stages and notes of what was trained, and checkpoints that finished stages could not remove."""
    shutil.rmtree(output / ATTEMPTS, ignore_errors=True)
    for folder in output.glob("stages/.unfinished-*"):
        shutil.rmtree(folder)
    for checkpoints in output.glob("checkpoints/*"):
        if (output / "stages" / checkpoints.name / MANIFEST).exists():
            shutil.rmtree(checkpoints)


def seconds_by_stage_kind(output: Path) -> dict[str, float]:
    """Seconds of all stages by kind, longest first, from their manifests; stages that ran at the same time add up."""
    seconds: dict[str, float] = {}
    for path in output.glob(f"stages/*/{MANIFEST}"):
        if took := seconds_of(read_manifest(path.parent) or {}):
            kind = path.parent.name.split("-")[0]
            seconds[kind] = seconds.get(kind, 0.0) + took
    return dict(sorted(seconds.items(), key=lambda item: -item[1]))
