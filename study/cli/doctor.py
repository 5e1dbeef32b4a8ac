"""Checks of what a study needs on this machine, each with the way to mend it."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from trainables.store.locks import lock_problem, one_node_problem

MIN_DISK_GB, MIN_MEMORY_GB = 5, 6


@dataclass(frozen=True)
class Finding:
    """One line: what was looked at, whether it is fit, and what was seen or how to mend it."""

    what: str
    ok: bool
    detail: str


def examine(say: Callable[[str], object]) -> Iterator[Finding]:
    """Run every check in turn, saying each finding as it is known."""
    for what, check in CHECKS.items():
        try:
            finding = Finding(what, True, check())
        except Unfit as error:
            finding = Finding(what, False, str(error))
        mark = "ok  " if finding.ok else "MEND"
        say(f"{mark} {finding.what}: {finding.detail}")
        yield finding


class Unfit(RuntimeError):
    """What is wrong and how to mend it."""


def _python() -> str:
    return sys.version.split()[0]


def _compiler() -> str:
    compiler = shutil.which(os.environ.get("CXX", "g++")) or shutil.which("clang++")
    if compiler is None:
        raise Unfit("no C++ compiler, which DeepSpeed needs once; install g++ (Debian: apt-get install g++)")
    if shutil.which("ninja") is None and importlib.util.find_spec("ninja") is None:
        raise Unfit("no ninja, which DeepSpeed builds with; pip install ninja")
    return compiler


def _torch() -> str:
    import torch

    from study.spec.precision import cpu_precision

    if torch.cuda.is_available():
        return f"{torch.__version__}, {torch.cuda.device_count()} CUDA devices"
    chosen = cpu_precision()
    return f"{torch.__version__} on the CPU; training precision {chosen.value}: {chosen.reason}"


def _deepspeed() -> str:
    """A step of a real engine, which also compiles DeepSpeed's communication operator once for this user."""
    import torch

    from trainables.hyperparameters import Training
    from trainables.training.batching import Share
    from trainables.training.engine import deepspeed_here, engine_around

    training = Training(learning_rate=1e-2, steps=1, batch_size=1, seed=0)
    try:
        with engine_around(torch.nn.Linear(2, 1), training, share=Share(0, 1, 1), zero_stage=2) as engine:
            loss = engine(torch.ones(1, 2)).sum()
            engine.backward(loss)
            engine.step()
    except (RuntimeError, OSError, ImportError) as error:
        raise Unfit(f"a training step failed ({error}); see the compiler line, and the CUDA toolkit on GPUs") from error
    deepspeed = deepspeed_here()
    return f"{deepspeed.__version__}, one ZeRO-2 step on {deepspeed.get_accelerator().device_name()}"


def _ray() -> str:
    import ray

    if importlib.util.find_spec("aiohttp") is None or importlib.util.find_spec("opencensus") is None:
        raise Unfit("ray without its job server; pip install 'ray[default,tune,train]'")
    return f"{ray.__version__} with the job server"


def _disk() -> str:
    free = shutil.disk_usage(Path.cwd()).free / 1e9
    if free < MIN_DISK_GB:
        raise Unfit(f"{free:.1f} GB free here; {MIN_DISK_GB} GB are needed: free some or use --output elsewhere")
    return f"{free:.0f} GB free here"


def _locks() -> str:
    here = Path.cwd()
    if (problem := lock_problem(here)) is not None:
        raise Unfit(
            f"{problem}; use --output on a disk, or on a network file system with locks (NFS 4, Lustre, CephFS)"
        )
    alone = one_node_problem(here)
    return "file locks keep others out here" + (
        "" if alone is None else f", on one node for all that is known: {alone}"
    )


def _memory() -> str:
    import psutil

    available = psutil.virtual_memory().available / 1e9
    if available < MIN_MEMORY_GB:
        raise Unfit(f"{available:.1f} GB available; the quickstart peaks below {MIN_MEMORY_GB} GB: end other programs")
    return f"{available:.0f} GB available"


def _gpus() -> str:
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return f"none through NVML ({error}); energy and GPU memory will be reported as unavailable"
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
