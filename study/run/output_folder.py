"""An output folder is one process's at a time: two would train one stage over each other, and write one journal."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from study.cluster.connection import CannotRun
from trainables.store.locks import lock_problem

LOCK = ".lock"


@contextmanager
def locked(output: Path) -> Iterator[None]:
    """The folder, made where there is none and locked for this process.

    Raises:
        CannotRun: it cannot be written, has no locks, or another process has it.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
        lock = open(output / LOCK, "a")  # noqa: SIM115 - held until the folder is given back
    except OSError as error:
        raise CannotRun(f"--output {output}: {error.strerror or error}; choose a folder that can be written") from error
    with lock:
        if problem := lock_problem(output):
            raise CannotRun(
                f"--output {output}: {problem}, and without them two processes would train one stage over each other; "
                "choose a folder on a disk or on a network file system with locks (NFS 4, Lustre, CephFS)"
            )
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise CannotRun(
                f"--output {output}: another run is using it; wait for it or choose another folder"
            ) from error
        yield
