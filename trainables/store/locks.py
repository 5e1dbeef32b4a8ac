"""Whether a folder's file system has the locks that single flight rests on.

Claims of stages are advisory file locks: the kernel frees them when their holder dies, on whatever node it was. Local disks,
NFS 4, Lustre, CephFS and the like have them across all nodes. Mounts of object stores mostly have none, or keep them to one
node, and some NFS mounts are told to. Nor do object stores rename a folder at once, which is how a stage becomes visible; so
there is no second way to claim a stage there, and a study says so and stops.
"""

from __future__ import annotations

import fcntl
import tempfile
from pathlib import Path

MOUNTS = Path("/proc/self/mounts")
LOCAL_LOCKS = {"nolock", "local_lock=flock", "local_lock=all"}  # options of an NFS mount (nfs(5))
SHARED_FUSE = {"fuse.glusterfs", "fuse.ceph", "fuse.ceph-fuse", "fuse.juicefs"}  # with locks across nodes


def lock_problem(folder: Path) -> str | None:
    """Why a file lock in the folder keeps nobody out, tried with two open files; None if it does."""
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".lock-") as first, open(first.name) as second:
            fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
            try:
                fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return None
            return "its file system gives one lock to two holders"
    except OSError as error:
        return f"its file system has no file locks ({error.strerror or error})"


def one_node_problem(folder: Path, mounts: Path = MOUNTS) -> str | None:
    """Why locks in the folder may hold on one node alone, by how it is mounted; None if nothing speaks for that."""
    try:
        lines = mounts.read_text(encoding="utf-8").splitlines()
    except OSError:  # no Linux
        return None
    place = folder.resolve()
    found = max(
        (line.split()[1:4] for line in lines if _holds(line.split()[1], place)),
        key=lambda one: len(one[0]),
        default=None,
    )
    if found is None:
        return None
    point, kind, options = found
    if kind.startswith("nfs") and (local := LOCAL_LOCKS & set(options.split(","))):
        return f"{point} is an NFS mount with {', '.join(sorted(local))}"
    if kind.startswith("fuse") and kind not in SHARED_FUSE:
        return f"{point} is a {kind} mount, as of object stores"
    return None


def _holds(point: str, place: Path) -> bool:
    """Whether a mount point, where the kernel writes a space as `\\040`, is the place or above it."""
    return place.is_relative_to(point.replace("\\040", " "))
