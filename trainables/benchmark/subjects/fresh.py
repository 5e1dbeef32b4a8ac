"""Measurements in processes of their own, without Ray."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any, Protocol

from trainables.benchmark.scenarios.serving import is_out_of_memory
from trainables.benchmark.variants import VariantUnavailable

# A worker that trains keeps few of oneDNN's kernels, to save memory. What serves sees a length again and again: oneDNN's and
# PyTorch's own defaults, said here because a cluster's environment says otherwise.
SERVING_ENVIRONMENT = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "1024", "LRU_CACHE_CAPACITY": "1024"}


class Subject(Protocol):
    """What can be measured, in any process."""

    def run(self, variant: str, *, scored: bool = True) -> dict[str, Any]:
        """One variant, timed, and scored if asked and possible; JSON values.

        Raises:
            VariantUnavailable: the variant cannot run on this device.
        """


class MeasurementBroke(RuntimeError):
    """The process that measured ended, or raised what is no property of the variant."""


def outcome(subject: Subject, variant: str, *, scored: bool) -> dict[str, Any] | str:
    """The measurement, or why the variant cannot run here; memory that does not suffice for a single query is such a reason."""
    try:
        return subject.run(variant, scored=scored)
    except VariantUnavailable as error:
        return error.reason
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return f"out of memory: {str(error).strip().splitlines()[0]}"


def run_fresh(
    subject: Subject, variant: str, *, scored: bool = True, limit_s: float | None = None
) -> dict[str, Any] | str:
    """As `outcome`, from a process that starts for it and ends after it.

    Raises:
        MeasurementBroke: the process raised, or died, or took longer than the limit.
    """
    context = get_context("spawn")
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=_measure, args=(subject, variant, scored, send))
    with environment(SERVING_ENVIRONMENT):
        process.start()
    send.close()  # the child's end is then the only one, and its death is the end of the file
    try:
        if not receive.poll(limit_s):
            raise MeasurementBroke(f"{variant}: no result after {limit_s:.0f} s")
        found, error = receive.recv()
    except EOFError:
        process.join()
        hint = "; -9 is what the kernel does where memory runs out" if process.exitcode == -9 else ""
        raise MeasurementBroke(f"{variant}: the process ended with code {process.exitcode}{hint}") from None
    finally:
        process.kill()  # it has said all
        process.join()
    if error is not None:
        raise MeasurementBroke(f"{variant}: {error}")
    measured: dict[str, Any] | str = found
    return measured


def _measure(subject: Subject, variant: str, scored: bool, results: Connection) -> None:
    try:
        results.send((outcome(subject, variant, scored=scored), None))
    except Exception as error:  # it is raised again where it was asked for
        results.send((None, f"{type(error).__name__}: {error}"))


@contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """For a process that is started in the block."""
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
