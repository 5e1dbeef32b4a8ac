"""The inputs of each step, prepared by a thread while the device trains on those before."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from trainables.out_of_memory import is_out_of_memory
from trainables.training.batching import Batches, Inputs, Share

T = TypeVar("T")
AHEAD = 2  # steps prepared before the one that trains, on a GPU


@dataclass(frozen=True)
class Step:
    """A step, counted from 0: this worker's micro-batches, and the weight of the whole batch."""

    number: int
    micro_batches: list[Inputs]
    weight: float


def prepared_steps(
    batches: Batches, share: Share, steps: Iterable[int], device: torch.device
) -> Generator[Step, None, None]:
    """The steps in order. Close the iterator to end its thread; an error of `batches` is raised at its own step.

    For a GPU a thread prepares them ahead, in page-locked memory, from which copies need no wait of the host. On CPUs each step
    is prepared when it is asked for, since PyTorch's threads use all cores already.
    """
    prepare = functools.partial(_prepare, batches, share, pinned=device.type == "cuda")
    if device.type == "cpu":
        return (prepare(step) for step in steps)
    # A thread starts on the first GPU, whatever the device of the thread that started it.
    return _ahead(prepare, steps, AHEAD, functools.partial(torch.cuda.set_device, device))


def on_device(inputs: Inputs, device: torch.device) -> Inputs:
    """The inputs with tensors on the device, without a wait of the host for copies from page-locked memory."""
    return {
        name: value.to(device, non_blocking=True) if isinstance(value, Tensor) else value
        for name, value in inputs.items()
    }


def _prepare(batches: Batches, share: Share, step: int, *, pinned: bool) -> Step:
    micro_batches: list[Inputs] = [dict(inputs) for inputs in batches.micro_batches(step, share)]
    if pinned:
        for inputs in micro_batches:
            for name, value in inputs.items():
                inputs[name] = _pinned(value) if isinstance(value, Tensor) else value
    return Step(step, micro_batches, batches.weight(step))


def _pinned(value: Tensor) -> Tensor:
    """The tensor in page-locked memory, or as it is where none is left: its copy then waits."""
    try:
        return value.pin_memory()
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return value


def _ahead(
    prepare: Callable[[int], T], steps: Iterable[int], ahead: int, initialise: Callable[[], None]
) -> Generator[T, None, None]:
    """`prepare` of each step, computed by one thread up to `ahead` steps early."""
    with ThreadPoolExecutor(1, "batches", initialise) as thread:
        pending: deque[Future[T]] = deque()
        try:
            for step in steps:
                pending.append(thread.submit(prepare, step))
                if len(pending) > ahead:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
