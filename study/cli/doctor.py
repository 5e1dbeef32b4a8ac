"""`python -m study doctor`: checks what a study needs on this machine."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from study.cli.options import FAILED, console

if TYPE_CHECKING:
    from study.cluster.preflight import Checked

    Check = Callable[[], str | Checked]


class Unfit(RuntimeError):
    """What is wrong, and how to fix it."""


def doctor() -> None:
    """Check what a study needs; each line says ok, or how to fix it.

    A line with warn says what may go wrong in a larger study.

    Exit code: 1 if a check failed, else 0.
    """
    passed = [_passes(name, check) for name, check in CHECKS.items()]
    if not all(passed):
        raise typer.Exit(FAILED)


def _passes(name: str, check: Check) -> bool:
    """Run one check and print its line."""
    from study.errors import CannotRun

    try:
        found = check()
    except (Unfit, CannotRun) as error:
        console.print(f"FAIL {name}: {error}", markup=False)
        return False
    warning = None if isinstance(found, str) else found.warning
    line = f"ok   {name}: {found if isinstance(found, str) else found.found}"
    console.print(line if warning is None else f"warn {name}: {warning}", markup=False)
    return True


def _python() -> str:
    return sys.version.split()[0]


def _compiler() -> str:
    compiler = shutil.which(os.environ.get("CXX", "g++")) or shutil.which("clang++")
    if compiler is None:
        raise Unfit("no C++ compiler, which DeepSpeed needs once; install g++ (Debian: apt-get install g++)")
    if shutil.which("ninja") is None and importlib.util.find_spec("ninja") is None:
        raise Unfit("no ninja, with which DeepSpeed builds; pip install ninja")
    return compiler


def _torch() -> str:
    import torch

    from study.spec.precision import cpu_precision

    if torch.cuda.is_available():
        return f"{torch.__version__}, {torch.cuda.device_count()} CUDA devices"
    chosen = cpu_precision()
    return f"{torch.__version__} on the CPU; training precision {chosen.value}: {chosen.reason}"


def _deepspeed() -> str:
    """One training step, which also compiles DeepSpeed's communication operator once for this environment."""
    import torch

    from trainables.hyperparameters import Training
    from trainables.training.batching import Share
    from trainables.training.engine import Layout, import_deepspeed, managed_engine

    training = Training(learning_rate=1e-2, steps=1, batch_size=1, seed=0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        with managed_engine(torch.nn.Linear(2, 1), training, Layout(Share(0, 1, 1), 2, device=device)) as engine:
            loss = engine(torch.ones(1, 2, device=engine.device)).sum()
            engine.backward(loss)
            engine.step()
    except (RuntimeError, OSError, ImportError) as error:
        raise Unfit(f"a training step failed ({error}); check the compiler, and on GPUs the CUDA toolkit") from error
    return f"{import_deepspeed(device).__version__}, one ZeRO-2 step on {device.type}"


def _ray() -> str:
    """Start Ray as `run` does."""
    import ray

    from study.cluster.connection import try_local_start

    if importlib.util.find_spec("aiohttp") is None or importlib.util.find_spec("opencensus") is None:
        raise Unfit("Ray's job server is not installed; pip install 'ray[default,tune,train]'")
    started = time.perf_counter()
    try_local_start()
    return f"{ray.__version__} with the job server; started and stopped in {time.perf_counter() - started:.0f} s"


def _temporary_folder() -> Checked:
    from study.cluster.preflight import check_temporary_folder

    return check_temporary_folder()


def _ports() -> Checked:
    from study.cluster.preflight import check_ports

    return check_ports()


def _disk() -> Checked:
    from study.cluster.preflight import check_disk

    return check_disk(Path.cwd())


def _locks() -> str:
    from trainables.store.locks import lock_problem, one_node_problem

    folder = Path.cwd()
    if (problem := lock_problem(folder)) is not None:
        raise Unfit(
            f"{problem}; use --output on a disk, or on a network file system with locks (NFS 4, Lustre, CephFS)"
        )
    limit = one_node_problem(folder)
    return "file locks work here" + ("" if limit is None else f", perhaps on one node only: {limit}")


def _memory() -> Checked:
    from study.cluster.preflight import check_memory

    return check_memory()


def _gpus() -> str:
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return f"none through NVML ({error}); energy and GPU memory will be unavailable"
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        return ", ".join(str(pynvml.nvmlDeviceGetName(handle)) for handle in handles) or "none"
    finally:
        pynvml.nvmlShutdown()


CHECKS: dict[str, Check] = {
    "python": _python,
    "compiler": _compiler,
    "torch": _torch,
    "deepspeed": _deepspeed,
    "temporary folder": _temporary_folder,
    "ports": _ports,
    "ray": _ray,
    "disk": _disk,
    "locks": _locks,
    "memory": _memory,
    "gpus": _gpus,
}
