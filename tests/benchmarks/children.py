"""A JSON document from a function in a fresh process, or what became of the process."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from trainables.hyperparameters import OutOfMemory

Document = dict[str, Any]


def in_child(function: Callable[..., Document], *arguments: Any, limit_s: float) -> Document:
    """What the function returns in a process that starts for it and ends after it; otherwise an `outcome` and a `reason`."""
    context = get_context("spawn")
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(function, arguments, send))
    process.start()
    send.close()  # only the child holds this end now, so its death ends the stream
    try:
        if not receive.poll(limit_s):
            return {"outcome": "timed_out", "reason": f"no result after {limit_s:.0f} s"}
        result: Document = receive.recv()
        return result
    except EOFError:
        process.join()
        reason = f"exit code {process.exitcode}; -9 is the kernel's kill when host memory runs out"
        return {"outcome": "killed", "reason": reason}
    finally:
        process.kill()  # it has sent its result; taking an engine apart would take time
        process.join()


def _child(function: Callable[..., Document], arguments: tuple[Any, ...], results: Connection) -> None:
    score = Path("/proc/self/oom_score_adj")
    if score.exists():
        score.write_text("1000")  # if host memory runs out, the kernel kills this process and not its parent
    warnings.filterwarnings("ignore", category=FutureWarning)  # PyTorch's, about DeepSpeed's calls, at every step
    results.send(outcome_of(function, *arguments))


def outcome_of(function: Callable[..., Document], *arguments: Any) -> Document:
    """The function's document with an `outcome`, "measured" unless it names another; or why there is none."""
    try:
        return {"outcome": "measured", **function(*arguments)}
    except Exception as error:  # what cannot run is a result too
        outcome = "out_of_memory" if _lacks_memory(error) else "failed"
        return {"outcome": outcome, "reason": f"{type(error).__name__}: {error}".splitlines()[0][:300]}


def _lacks_memory(error: Exception) -> bool:
    """Whether device or host ran out of memory: pinned memory and PyTorch's CPU allocator raise a plain RuntimeError."""
    message = str(error).lower()
    return isinstance(error, (OutOfMemory, torch.OutOfMemoryError, MemoryError)) or any(
        words in message for words in ("out of memory", "can't allocate memory")
    )
