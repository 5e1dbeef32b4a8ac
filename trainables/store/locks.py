"""Checks that a folder's file system has the file locks that single flight needs.

Claims on stages are advisory file locks, which the kernel releases when their holder dies, on whatever node. Local disks, NFS
4, Lustre and CephFS provide them across all nodes. Mounts of object stores mostly have none or keep them local to a node, as
some NFS mounts are configured to. Object stores do not rename folders atomically either, which is how a stage becomes visible.
So there is no fallback for claims, and a study on such a mount stops with the reason.
"""

from __future__ import annotations

import fcntl
import tempfile
from pathlib import Path

MOUNTS = Path("/proc/self/mounts")
LOCAL_LOCKS = {"nolock", "local_lock=flock", "local_lock=all"}  # options of an NFS mount (nfs(5))
SHARED_FUSE = {"fuse.glusterfs", "fuse.ceph", "fuse.ceph-fuse", "fuse.juicefs"}  # with locks across nodes


def lock_problem(folder: Path) -> str | None:
    """Why a file lock in the folder excludes nobody, tested with two open files; None if it works."""
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".lock-") as first, open(first.name) as second:
            fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
            try:
                fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return None
            return "its file system grants one lock to two holders"
    except OSError as error:
        return f"its file system has no file locks ({error.strerror or error})"


def one_node_problem(folder: Path, mounts: Path = MOUNTS) -> str | None:
    """Why locks in the folder may work on one node only, judged by its mount; None if nothing suggests so."""
    try:
        lines = mounts.read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return None
    resolved = folder.resolve()
    mount = max(
        (line.split()[1:4] for line in lines if _contains(line.split()[1], resolved)),
        key=lambda fields: len(fields[0]),
        default=None,
    )
    if mount is None:
        return None
    point, file_system, options = mount
    if file_system.startswith("nfs") and (local := LOCAL_LOCKS & set(options.split(","))):
        return f"{point} is an NFS mount with {', '.join(sorted(local))}"
    if file_system.startswith("fuse") and file_system not in SHARED_FUSE:
        return f"{point} is a {file_system} mount, as object stores use"
    return None


def _contains(point: str, folder: Path) -> bool:
    """Whether the folder is at or below a mount point, in which the kernel writes a space as `\\040`."""
    return folder.is_relative_to(point.replace("\\040", " "))
