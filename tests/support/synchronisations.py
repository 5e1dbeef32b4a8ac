"""Counts what makes a host wait for a GPU: a program that runs on CPUs shows the same calls."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

ATEN = torch.ops.aten
# Their results, or the shapes of their results, are values on the device.
OPERATORS = {
    ATEN._local_scalar_dense,  # item, float, int, bool, tolist of one element
    ATEN.nonzero,
    ATEN.masked_select,
    ATEN.equal,
    ATEN._unique2,
    ATEN.unique_consecutive,
    ATEN.repeat_interleave,  # without an output size
}
FUNCTIONS: set[Callable[..., Any]] = {Tensor.cpu, Tensor.numpy, Tensor.tolist, Tensor.new_tensor}
MASKED = {ATEN.index, ATEN.index_put, ATEN.index_put_}


class _Operators(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, found: Callable[[str], None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._found = found

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        packet = operator.overloadpacket
        masks = packet in MASKED and any(index.dtype in (torch.bool, torch.uint8) for index in _tensors(args[1]))
        if packet in OPERATORS or masks:
            self._found(str(packet))
        return operator(*args, **(kwargs or {}))


class _Functions(TorchFunctionMode):
    """Copies to the host, which are nothing on a CPU, and constants copied to a device."""

    def __init__(self, found: Callable[[str], None]) -> None:
        super().__init__()
        self._found = found

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        constant = function is torch.tensor and (kwargs or {}).get("device") is not None
        if function in FUNCTIONS or constant:
            self._found(function.__name__)
        return function(*args, **(kwargs or {}))


def _tensors(indices: Iterable[Any]) -> list[Tensor]:
    return [index for index in tree_leaves(list(indices)) if isinstance(index, Tensor)]


@contextmanager
def synchronisations() -> Iterator[list[str]]:
    """The synchronising calls of the block, each with the code that made it."""
    calls: list[str] = []

    def found(name: str) -> None:
        frames = traceback.extract_stack()[:-2]
        own = [frame for frame in frames if "/torch/" not in frame.filename and __file__ != frame.filename]
        calls.append(f"{name} at {own[-1].filename}:{own[-1].lineno}")

    with _Operators(found), _Functions(found):
        yield calls
