"""Where DeepSpeed's operators are compiled, and by one process at a time."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.metadata
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import torch
from torch.utils import cpp_extension

FOLDER_VARIABLE = "TORCH_EXTENSIONS_DIR"
STALE_LOCK_S = 300.0  # compiling takes half a minute


def own_folder() -> Path:
    """The folder of this environment's operators.

    PyTorch's default is one folder for all environments of a user. Two of them, say two clones of a project or two versions of
    PyTorch, compile their operators there in turns, a minute or two each time, and each replaces a library that processes of
    the other have loaded.
    """
    versions = (sys.version, torch.__version__, importlib.metadata.version("deepspeed"), platform.machine())
    digest = hashlib.sha256("\n".join((sys.prefix, *versions)).encode()).hexdigest()[:16]
    return Path(cpp_extension.get_default_build_root()) / f"xstilts-{digest}"


def load_operator(builder: str) -> None:
    """Load one of DeepSpeed's operators into this process by its builder's name, and compile it first where no process has.

    `TORCH_EXTENSIONS_DIR` is set to `own_folder`, unless it is set. Does nothing where DeepSpeed has no such operator for its
    device.
    """
    import deepspeed
    from deepspeed.accelerator import get_accelerator

    found = get_accelerator().create_op_builder(builder)
    if found is None or not deepspeed.ops.__compatible_ops__.get(found.NAME, False):
        return
    root = Path(os.environ.setdefault(FOLDER_VARIABLE, str(own_folder())))
    with building(root / found.NAME, owned=root == own_folder()):
        found.load()


@contextlib.contextmanager
def building(folder: Path, *, owned: bool) -> Iterator[None]:
    """Compile or load an operator in the block, with no other process doing so.

    PyTorch's lock is the existence of a file, and it waits without end for an owner that was killed. Ours is a file lock, which
    the kernel releases: in a folder that is `owned`, which only this project's processes use, a file of PyTorch's that is there
    while we hold ours has lost its owner. It is removed once the compiler that its owner started has ended. Elsewhere the owner
    may be another program, and its lock is removed once it is old.
    """
    folder.mkdir(parents=True, exist_ok=True)
    torchs = folder / "lock"
    with _file_lock(folder / ".building") as alone:
        if alone and owned:
            while torchs.exists() and _works_in(folder):
                time.sleep(0.2)
            torchs.unlink(missing_ok=True)
        else:
            wait_for_lock(torchs)
        yield


@contextlib.contextmanager
def _file_lock(path: Path) -> Iterator[bool]:
    """Whether this process holds the lock; not where the file system has none."""
    with contextlib.ExitStack() as open_files:
        try:
            file = open_files.enter_context(path.open("a"))
            fcntl.flock(file, fcntl.LOCK_EX)
            held = True
        except OSError:
            held = False
        yield held


def _works_in(folder: Path) -> bool:
    """Whether a process of this machine works in the folder, as ninja does."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if Path(process.cwd()) == folder:
                return True
    return False


def wait_for_lock(
    lock: Path,
    *,
    stale_s: float = STALE_LOCK_S,
    clock: Callable[[], float] = time.time,
    monotonic: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> bool:
    """Wait while another process holds PyTorch's lock, and remove one that is stale. Returns whether it did.

    Its age is that of its time stamp or, where the stamp comes from a clock ahead of `clock`, the time for which this call has
    seen the same file.
    """
    owner, first_seen = None, 0.0
    while lock.exists():
        with contextlib.suppress(FileNotFoundError):  # its owner has just finished
            status = lock.stat()
            if (status.st_ino, status.st_mtime_ns) != owner:
                owner, first_seen = (status.st_ino, status.st_mtime_ns), monotonic()
            if max(clock() - status.st_mtime, monotonic() - first_seen) > stale_s:
                lock.unlink()
                return True
        sleep(0.2)
    return False
