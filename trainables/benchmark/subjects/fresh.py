"""Measuring a subject: in this process, or in a fresh one without Ray."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any, Protocol

from trainables.benchmark.measurement import Measured, Unavailable
from trainables.benchmark.variants import Variant, VariantUnavailable
from trainables.out_of_memory import is_out_of_memory

# oneDNN's and PyTorch's defaults, restored here: training workers cache fewer kernels, to save memory, but a server meets the
# same lengths again and again. The profiler that lists attention kernels would announce its start on standard error.
SERVING_ENVIRONMENT = {
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "1024",
    "LRU_CACHE_CAPACITY": "1024",
    "KINETO_LOG_LEVEL": "6",
}


class Subject(Protocol):
    """Something to measure; it can be pickled, to be measured in another process."""

    def run(self, variant: str | Variant, *, scored: bool = True) -> Measured:
        """Time a variant, and score it if requested and possible.

        Raises:
            VariantUnavailable: the variant cannot run on this device.
        """


class MeasurementBroke(RuntimeError):
    """The measuring process ended early, or raised an error that says nothing about the variant."""


def measure_subject(subject: Subject, variant: str | Variant, *, scored: bool) -> Measured | Unavailable:
    """The figures, or why the variant cannot run here, for instance if memory does not suffice for a single query."""
    try:
        return subject.run(variant, scored=scored)
    except VariantUnavailable as error:
        return Unavailable(error.reason)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return Unavailable(f"out of memory: {str(error).strip().splitlines()[0]}")


def run_fresh(
    subject: Subject,
    variant: str | Variant,
    *,
    scored: bool = True,
    limit_s: float | None = None,
    dumps: Callable[[Any], bytes] = pickle.dumps,
) -> Measured | Unavailable:
    """As `measure_subject`, in a process that starts for this measurement and ends after it.

    `dumps` pickles the subject and the variant. Classes of a recipe's file need one that pickles by value.

    Raises:
        MeasurementBroke: the process raised or died, or took longer than `limit_s`.
    """
    name = variant if isinstance(variant, str) else variant.name
    context = get_context("spawn")
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=_measure, args=(dumps((subject, variant, scored)), send))
    with environment(SERVING_ENVIRONMENT):
        process.start()
    send.close()  # leaves the child's end as the only one, so that its death closes the pipe
    try:
        if not receive.poll(limit_s):
            raise MeasurementBroke(f"{name}: no result after {limit_s:.0f} s")
        outcome, error = receive.recv()
    except EOFError:
        process.join()
        hint = "; the kernel kills with -9 when memory runs out" if process.exitcode == -9 else ""
        raise MeasurementBroke(f"{name}: the process ended with code {process.exitcode}{hint}") from None
    finally:
        process.kill()  # its result has arrived, or never will
        process.join()
    if error is not None:
        raise MeasurementBroke(f"{name}: {error}")
    result: Measured | Unavailable = outcome
    return result


def _measure(request: bytes, results: Connection) -> None:
    try:
        subject, variant, scored = pickle.loads(request)
        results.send((measure_subject(subject, variant, scored=scored), None))
    except Exception as error:  # `run_fresh` raises it in the caller's process
        results.send((None, f"{type(error).__name__}: {error}"))


@contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """Environment variables for processes that start in the block."""
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
