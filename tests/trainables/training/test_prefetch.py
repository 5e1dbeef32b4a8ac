"""A thread prepares the steps of a training on a GPU; errors and the end of the training reach each other."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from torch import Tensor

from trainables.training.batching import Share
from trainables.training.prefetch import AHEAD, on_device, prepared_steps

SHARE = Share(0, 1, 1)
CPU, GPU = torch.device("cpu"), torch.device("cuda", 3)


class Numbered:
    """Batches that hold their step, and fail at one."""

    group = rows = 1

    def __init__(self, fails_at: int | None = None) -> None:
        self.prepared: list[int] = []
        self.threads: set[str] = set()
        self._fails_at = fails_at

    def micro_batch_rows(self, batch_size: int, share: Share) -> int:
        return 1

    def micro_batches(self, step: int, share: Share) -> list[dict[str, Any]]:
        if step == self._fails_at:
            raise KeyError("a feature is missing")
        self.prepared.append(step)
        self.threads.add(threading.current_thread().name)
        return [{"inputs": torch.full((2,), step), "part": 1}] * 2

    def weight(self, step: int) -> float:
        return 0.5 * step


@pytest.fixture
def pinned(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Stands in for a machine with GPUs; returns the tensors that were pinned."""
    tensors: list[Tensor] = []

    def pin(tensor: Tensor) -> Tensor:
        assert torch.cuda.set_device.device == GPU, "a thread starts on the first GPU"  # type: ignore[attr-defined]
        tensors.append(tensor)
        return tensor

    def set_device(device: torch.device) -> None:
        set_device.device = device  # type: ignore[attr-defined]

    monkeypatch.setattr(Tensor, "pin_memory", pin)
    monkeypatch.setattr(torch.cuda, "set_device", set_device)
    return tensors


def _threads() -> set[str]:
    return {thread.name for thread in threading.enumerate() if thread.name.startswith("batches")}


@pytest.mark.parametrize("device", [CPU, GPU])
def test_steps_come_in_order_with_their_weights(device: torch.device, pinned: list[Tensor]) -> None:
    batches = Numbered()
    steps = list(prepared_steps(batches, SHARE, range(3, 9), device))
    assert [step.number for step in steps] == list(range(3, 9))
    assert [step.weight for step in steps] == [0.5 * number for number in range(3, 9)]
    assert all(int(inputs["inputs"][0]) == step.number for step in steps for inputs in step.micro_batches)
    assert len(pinned) == (0 if device == CPU else 12)
    assert {name.startswith("batches") for name in batches.threads} == {device != CPU}


def test_a_thread_stays_a_few_steps_ahead(pinned: list[Tensor]) -> None:
    batches = Numbered()
    steps = prepared_steps(batches, SHARE, range(10), GPU)
    for number in range(4):
        assert next(steps).number == number
        assert len(batches.prepared) <= number + 1 + AHEAD
    steps.close()
    assert len(batches.prepared) <= 4 + AHEAD
    assert not _threads()


def test_on_cpus_a_step_is_prepared_when_it_is_asked_for() -> None:
    batches = Numbered()
    steps = prepared_steps(batches, SHARE, range(10), CPU)
    next(steps)
    assert batches.prepared == [0]


@pytest.mark.parametrize("device", [CPU, GPU])
def test_an_error_is_raised_as_itself_at_its_own_step(device: torch.device, pinned: list[Tensor]) -> None:
    steps = prepared_steps(Numbered(fails_at=2), SHARE, range(10), device)
    assert [next(steps).number, next(steps).number] == [0, 1]
    with pytest.raises(KeyError, match="a feature is missing"):
        next(steps)
    assert not _threads()


def test_numbers_stay_on_the_host() -> None:
    moved = on_device({"inputs": torch.ones(2), "part": 3}, torch.device("meta"))
    assert moved["inputs"].device.type == "meta"
    assert moved["part"] == 3


def test_without_memory_to_pin_inputs_stay_as_they_are(pinned: list[Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    def pin(tensor: Tensor) -> Tensor:
        raise RuntimeError("CUDA error: out of memory")

    monkeypatch.setattr(Tensor, "pin_memory", pin)
    (step,) = prepared_steps(Numbered(), SHARE, range(7, 8), GPU)
    assert [inputs["inputs"].tolist() for inputs in step.micro_batches] == [[7, 7]] * 2
