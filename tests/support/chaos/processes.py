"""The processes of a study, found by descent from this process, and their ends.

Nothing is found by name: only descendants of this process are looked at, and their command lines merely tell what they do. This
process is a "child subreaper" (prctl(2)): a descendant whose parent dies becomes its child instead of init's, so that none
leaves the tree. Signals go through psutil, which refuses a process id that another process has got in the meantime.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

import psutil

from tests.support.commands import ROOT

Role = Literal["driver", "trial actor", "group worker", "other worker", "head", "raylet", "server", "other"]
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36  # <sys/prctl.h>
_CLONE_NEWNS = 0x20000  # <sched.h>
_started: set[int] = set()  # process ids of `start`
GONE = (psutil.NoSuchProcess, psutil.ZombieProcess, psutil.AccessDenied)


def run_guarded(work: Callable[[Path], int]) -> int:
    """Run `work` with a new temporary folder in a child process, remove what it leaves, and return its exit code.

    Whichever of the two processes dies first, the other ends all descendants and removes the folder: the child gets SIGTERM
    when this process dies. SIGINT and SIGTERM to this process end the child in order.
    """
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    folder = Path(tempfile.mkdtemp(prefix="chaos-", dir="/tmp"))  # short: Ray's sockets are below it
    parent, child = os.getpid(), os.fork()
    if child == 0:
        os._exit(_work(work, folder, parent))

    def forward(number: int, _: object) -> None:
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGTERM)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, forward)
    _, status = os.waitpid(child, 0)
    end_all(descendants())
    shutil.rmtree(folder, ignore_errors=True)
    return os.waitstatus_to_exitcode(status)


def _work(work: Callable[[Path], int], folder: Path, parent: int) -> int:
    os.setpgid(0, 0)  # Ctrl-C goes to the guard, which sends SIGTERM
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: sys.exit(128 + number))
    code = 1
    try:
        if os.getppid() == parent:
            code = work(folder)
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        end_all(descendants())
        shutil.rmtree(folder, ignore_errors=True)
        sys.stdout.flush()
    return code


def start(command: Sequence[str], log: Path, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start a process whose output goes to the log, in a process group of its own: a signal to this group spares it."""
    with open(log, "ab") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, env=dict(environment), stdout=output, stderr=output, process_group=0
        )
    _started.add(process.pid)
    return process


def descendants(of: int | None = None) -> list[psutil.Process]:
    """All descendants of the process, by default of this one, oldest first."""
    with suppress(*GONE):
        found = psutil.Process(of).children(recursive=True)
        return sorted(found, key=lambda process: (process.create_time(), process.pid))
    return []


def processes(pids: list[int]) -> list[psutil.Process]:
    """Those of these process ids that are still there."""
    found = []
    for pid in pids:
        with suppress(psutil.NoSuchProcess):
            found.append(psutil.Process(pid))
    return found


def end_all(processes: list[psutil.Process], *, within_s: float = 10.0) -> list[psutil.Process]:
    """Kill the processes and what they start meanwhile; returns those that are still there, which should be none."""
    deadline = time.monotonic() + within_s
    left = processes
    while left and time.monotonic() < deadline:
        for process in left:
            with suppress(*GONE):
                process.kill()
        reap()
        left = [process for parent in left for process in (parent, *descendants(parent.pid)) if is_alive(process)]
        time.sleep(0.05)
    return left


def reap() -> None:
    """Collect the exit status of orphans that this process inherited; that of a child from `start` is left to its `Popen`."""
    for process in psutil.Process().children():
        with suppress(*GONE, ChildProcessError):
            if process.pid not in _started and process.status() == psutil.STATUS_ZOMBIE:
                os.waitpid(process.pid, os.WNOHANG)


def is_alive(process: psutil.Process) -> bool:
    with suppress(*GONE):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def role_of(process: psutil.Process) -> Role:
    """What a process of Ray does, by the title that Ray gives it."""
    with suppress(*GONE):
        command = process.cmdline() or [""]
        name, title = os.path.basename(command[0]), " ".join(command)
        if name in ("raylet", "gcs_server"):
            return "raylet" if name == "raylet" else "head"
        if title.startswith(("ray::DashboardAgent", "ray::RuntimeEnvAgent")):
            return "raylet"  # which ends with them
        if title.startswith("ray::"):
            if "ImplicitFunc" in title:
                return "trial actor"
            return "group worker" if "RayTrainWorker" in title else "other worker"
    return "other"


def title_of(process: psutil.Process) -> str:
    """Its command, shortened, for a line about it."""
    with suppress(*GONE):
        return " ".join(process.cmdline()).strip()[:60] or process.name()
    return "gone"


def own_mounts() -> bool:
    """Give this process, and what it starts, mounts that nobody else sees and that end with the last of them; needs root."""
    if os.geteuid() or ctypes.CDLL(None).unshare(_CLONE_NEWNS):
        return False
    return subprocess.run(["mount", "--make-rprivate", "/"], capture_output=True).returncode == 0


def _prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")
