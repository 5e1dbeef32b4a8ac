"""`python -m study doctor`: checks what a study needs on this machine."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import typer

from study.cli.options import FAILED, console

MIN_DISK_GB, MIN_MEMORY_GB = 5, 6


class Unfit(RuntimeError):
    """What is wrong, and how to fix it."""


def doctor() -> None:
    """Check what a study needs; each line says ok, or how to fix it.

    Exit code: 0 if all is ok, else 1.
    """
    passed = [_passes(name, check) for name, check in CHECKS.items()]
    if not all(passed):
        raise typer.Exit(FAILED)


def _passes(name: str, check: Callable[[], str]) -> bool:
    """Run one check and print its line."""
    try:
        console.print(f"ok   {name}: {check()}", markup=False)
    except Unfit as error:
        console.print(f"FAIL {name}: {error}", markup=False)
        return False
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
    """One training step, which also compiles DeepSpeed's communication operator once for this user."""
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
    import ray

    if importlib.util.find_spec("aiohttp") is None or importlib.util.find_spec("opencensus") is None:
        raise Unfit("Ray's job server is not installed; pip install 'ray[default,tune,train]'")
    return f"{ray.__version__} with the job server"


def _disk() -> str:
    free = shutil.disk_usage(Path.cwd()).free / 1e9
    if free < MIN_DISK_GB:
        raise Unfit(f"{free:.1f} GB free here, {MIN_DISK_GB} GB needed; free some, or use --output elsewhere")
    return f"{free:.0f} GB free here"


def _locks() -> str:
    from trainables.store.locks import lock_problem, one_node_problem

    folder = Path.cwd()
    if (problem := lock_problem(folder)) is not None:
        raise Unfit(
            f"{problem}; use --output on a disk, or on a network file system with locks (NFS 4, Lustre, CephFS)"
        )
    limit = one_node_problem(folder)
    return "file locks work here" + ("" if limit is None else f", perhaps on one node only: {limit}")


def _memory() -> str:
    import psutil

    available = psutil.virtual_memory().available / 1e9
    if available < MIN_MEMORY_GB:
        raise Unfit(f"{available:.1f} GB available, {MIN_MEMORY_GB} GB needed for the quickstart; close other programs")
    return f"{available:.0f} GB available"


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


CHECKS: dict[str, Callable[[], str]] = {
    "python": _python,
    "compiler": _compiler,
    "torch": _torch,
    "deepspeed": _deepspeed,
    "ray": _ray,
    "disk": _disk,
    "locks": _locks,
    "memory": _memory,
    "gpus": _gpus,
}
