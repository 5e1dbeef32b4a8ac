"""What a Ray on this machine needs, checked before anything starts: temporary folder, disk, memory, ports.

`run` and `doctor` make the same checks. A check raises `CannotRun` where a start is sure to fail, and warns where it may.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from study.cluster.ports import port_problem
from study.errors import CannotRun, joined

GB, MB = 1e9, 1e6

# Measured: a study of two encoders of 1 layer and 32 and 64 units writes 16 MB, the quickstart 250 MB.
LEAST_DISK, ENOUGH_DISK = 16 * MB, 1 * GB
# Measured: the driver and an idle Ray hold 1.3 GB; the quickstart 4.1 to 6.0 GB on two cores (docs/measurements.md).
LEAST_MEMORY, ENOUGH_MEMORY = 1 * GB, 6 * GB
# Measured: Ray's session folder takes 4 MB after a study of minutes.
LEAST_TEMPORARY, ENOUGH_TEMPORARY = 4 * MB, 100 * MB
# Stages go through the store, so Ray's shared memory carries configs and progress only.
OBJECT_STORE_BYTES = 256 * 2**20

GCS_PORT = "RAY_GCS_SERVER_PORT"  # Ray's own variable
SHARED_MEMORY = Path("/dev/shm")
CGROUP_OF_PROCESS, CGROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
TEMPORARY_FOLDERS = ("/tmp", "/var/tmp")
SOCKET_PATH_BYTES = 107  # the longest path of a unix socket on Linux, without the closing zero
# Ray creates this in its folder. The dashboard's socket has the longest name, and a process id has at most seven digits.
_LONGEST_SOCKET = "/session_2026-01-01_00-00-00_000000_4194304/sockets/dash_MetricsHead"
LONGEST_FOLDER_BYTES = SOCKET_PATH_BYTES - len(_LONGEST_SOCKET)
# Ray's dashboard starts its parts with `multiprocessing`, which creates this in TMPDIR.
LONGEST_TMPDIR_BYTES = SOCKET_PATH_BYTES - len("/pymp-00000000/listener-00000000")
# cgroup v2 and v1: limit, usage, and what the kernel can reclaim, as a key of memory.stat.
_CGROUP_FILES = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


@dataclass(frozen=True)
class Checked:
    """What a check found. `warning` says what may go wrong later, and what to do."""

    found: str
    warning: str | None = None


@dataclass(frozen=True)
class RayFolder:
    """Where a local Ray keeps sockets and logs. `remark` says why it is not in the folder that the environment names.

    `environment` holds the TMPDIR of Ray's processes where they cannot use this process's.
    """

    path: Path
    environment: Mapping[str, str]
    remark: str | None = None


def check_local_start() -> list[str]:
    """Warnings about a local Ray that may fail. The output folder is `check_disk`'s.

    Raises:
        CannotRun: it is sure not to start; each problem is one line.
    """
    warnings, problems = [], []
    for check in (check_temporary_folder, check_memory, check_ports):
        try:
            warnings.append(check().warning)
        except CannotRun as error:
            problems.append(str(error))
    if problems:
        raise CannotRun(joined(problems))
    return [warning for warning in warnings if warning is not None]


# --- folders


def ray_folder() -> RayFolder:
    """The folder for a local Ray: Ray's own choice, or a shorter one where that cannot hold its sockets.

    Raises:
        CannotRun: no folder is usable. The message says what is wrong with each.
    """
    variable = next((name for name in ("RAY_TMPDIR", "TMPDIR") if os.environ.get(name)), None)
    named = Path(os.environ[variable] if variable else TEMPORARY_FOLDERS[0]).absolute()
    problems: list[str] = []
    for folder in dict.fromkeys((named, *map(Path, TEMPORARY_FOLDERS))):
        path = _folder_in(folder)
        if (problem := _folder_problem(path)) is None:
            return _with_tmpdir(path, problems)
        problems.append(f"{variable}={folder} {problem}" if variable and folder == named else f"{folder} {problem}")
    raise CannotRun(
        f"no temporary folder for Ray: {'; '.join(problems)}; set RAY_TMPDIR to a writable folder with a path of at most "
        f"{LONGEST_FOLDER_BYTES - len('/ray')} bytes"
    )


def _with_tmpdir(path: Path, problems: list[str]) -> RayFolder:
    """Ray's folder after those with problems, and a TMPDIR that its processes can use."""
    own = os.environ.get("TMPDIR")
    if own and (not _writable(Path(own)) or len(os.fsencode(os.path.abspath(own))) > LONGEST_TMPDIR_BYTES):
        reason = problems[0] if problems else f"TMPDIR={own} is too long for the sockets of Ray, or not writable"
        return RayFolder(path, {"TMPDIR": str(path.parent)}, f"{reason}; Ray and its workers use {path.parent} instead")
    return RayFolder(path, {}, f"{problems[0]}; Ray uses {path.parent} instead" if problems else None)


def check_temporary_folder() -> Checked:
    """Ray's folder and its space, and the shared memory of its object store.

    Raises:
        CannotRun: there is no usable folder, no space in it, or no shared memory.
    """
    folder = ray_folder()
    free = _free_bytes(folder.path)
    if free < LEAST_TEMPORARY:
        raise CannotRun(
            f"{folder.path}: {_size(free)} free, {_size(LEAST_TEMPORARY)} needed for Ray's logs; free some space, or set "
            "RAY_TMPDIR to another folder"
        )
    if not SHARED_MEMORY.is_dir():
        raise CannotRun(f"{SHARED_MEMORY}: no such folder, and Ray needs it for its objects; mount a tmpfs there")
    found = f"Ray uses {folder.path}, {_size(free)} free"
    return Checked(found, folder.remark or _space_warning(folder.path, free))


def _space_warning(folder: Path, free: float) -> str | None:
    shared = _free_bytes(SHARED_MEMORY)
    if shared < OBJECT_STORE_BYTES and free < OBJECT_STORE_BYTES:
        return (
            f"{_size(shared)} free in {SHARED_MEMORY} and {_size(free)} in {folder}, and Ray's objects can take "
            f"{_size(OBJECT_STORE_BYTES)}; free some space (in Docker, raise --shm-size)"
        )
    if free < ENOUGH_TEMPORARY:
        return f"{folder}: only {_size(free)} free for Ray's logs; free some space, or set RAY_TMPDIR to another folder"
    return None


def check_disk(output: Path) -> Checked:
    """Space for the output folder, which need not exist yet.

    Raises:
        CannotRun: not even the smallest study fits.
    """
    free = _free_bytes(output)
    if free < LEAST_DISK:
        raise CannotRun(
            f"{output}: {_size(free)} free, and even a tiny study writes {_size(LEAST_DISK)}; free some space, or use "
            "--output elsewhere"
        )
    few = f"{output}: {_size(free)} free, and the quickstart writes 0.25 GB; free some space, or use --output elsewhere"
    return Checked(f"{_size(free)} free", few if free < ENOUGH_DISK else None)


def _folder_in(parent: Path) -> Path:
    """Ray's folder in a temporary folder; one of this user's own where another user's is not writable."""
    shared = parent / "ray"
    return parent / f"ray-{os.getuid()}" if shared.exists() and not _writable(shared) else shared


def _folder_problem(path: Path) -> str | None:
    """Why Ray cannot use the folder; None if it can. Its parent must exist."""
    if not path.parent.is_dir():
        return "is no folder" if path.parent.exists() else "does not exist"
    if not _writable(path if path.exists() else path.parent):
        return "is not writable"
    if (excess := len(os.fsencode(path)) - LONGEST_FOLDER_BYTES) > 0:
        return f"is {excess} bytes too long for the sockets of Ray"
    return None


def _writable(folder: Path) -> bool:
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)


def _free_bytes(folder: Path) -> float:
    """Free space of the file system that the folder is on, or will be on."""
    existing = folder.absolute()
    while not existing.exists():
        existing = existing.parent
    return shutil.disk_usage(existing).free


# --- memory


def check_memory() -> Checked:
    """Memory that processes can still take, on this machine and in its cgroup.

    Raises:
        CannotRun: less than the driver and an idle Ray hold, counting free swap.
    """
    available, limit = available_memory()
    found = f"{_size(available)} of memory available" + (f" under a cgroup limit of {_size(limit)}" if limit else "")
    if available + psutil.swap_memory().free < LEAST_MEMORY:
        raise CannotRun(
            f"{found}, and the driver and Ray need {_size(LEAST_MEMORY)} before anything is trained; close other programs"
            + (", or raise the limit of the container or job" if limit else "")
        )
    few = f"{found}, and the quickstart takes 4 to 6 GB; processes may be killed: close other programs"
    return Checked(found, few if available < ENOUGH_MEMORY else None)


def available_memory() -> tuple[float, float | None]:
    """Bytes of memory available, and the limit of the cgroup that allows the least, if that is below the machine's."""
    available: tuple[float, float | None] = (psutil.virtual_memory().available, None)
    for folder in _own_cgroups():
        for files in _CGROUP_FILES:
            if (room := _cgroup_room(folder, *files)) is not None and room[0] < available[0]:
                available = room
    return available


def _own_cgroups() -> Iterator[Path]:
    """Folders of the cgroups of this process and those above them: a limit holds for everything below it.

    Inside a container the listed path can be the host's. It does not exist there, and the root holds the container's limits.
    """
    try:
        lines = CGROUP_OF_PROCESS.read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        root = CGROUPS / "memory" if controllers else CGROUPS
        folder = root / path.lstrip("/")
        yield folder
        yield from (parent for parent in folder.parents if parent.is_relative_to(root))


def _cgroup_room(folder: Path, limit: str, usage: str, reclaimable: str) -> tuple[float, float] | None:
    """Bytes that a cgroup can still take, and its limit; None where it sets none."""
    try:
        most, used = (int((folder / name).read_text(encoding="utf-8")) for name in (limit, usage))
        stat = (folder / "memory.stat").read_text(encoding="utf-8")
    except (OSError, ValueError):  # no such cgroup, or the limit is "max"
        return None
    amounts = dict(line.split(maxsplit=1) for line in stat.splitlines() if " " in line)
    return max(0, most - used + int(amounts.get(reclaimable, 0))), most


def _size(amount: float) -> str:
    return f"{amount / GB:.1f} GB" if amount >= GB / 10 else f"{amount / MB:.0f} MB"


# --- ports


def check_ports() -> Checked:
    """The one port of a local Ray that the environment can fix; Ray takes a free one for everything else.

    Raises:
        CannotRun: the port is taken.
    """
    named = os.environ.get(GCS_PORT, "")
    if named.isdecimal() and (problem := port_problem(int(named))):
        raise CannotRun(f"{GCS_PORT}={named}: {problem}; unset it, and Ray takes a free port")
    return Checked(f"Ray takes {named or 'free ones'}")
