"""Loads a checkpoint on another number of workers than wrote it.

Under ZeRO 1 and 2, and for bf16 weights with their fp32 copy, each worker holds an equal slice of every parameter group: of
its weights and of both moments, flattened in one order and padded at the end to a length that the workers can share. DeepSpeed
refuses slices that another number of workers wrote. Joined without their padding, padded anew and cut again they are the state
that it would have written itself, to the last bit. Its universal checkpoints lead to the same state through a converted copy of
the checkpoint with three files a parameter: twice the space, and no worker starts before all of it is read and written.

Without ZeRO every worker holds everything, and nothing needs to be cut. Under ZeRO 3 each parameter is cut by itself, and its
placement depends on the number of workers in more ways: such a training restarts.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

RESHARDABLE = (0, 1, 2)  # ZeRO stages
_FILE = "*zero_pp_rank_{rank}_mp_rank_00_optim_states.pt"
# Keys of DeepSpeed's files (`deepspeed.checkpoint.constants`).
_STATE, _BASE, _WEIGHTS = "optimizer_state_dict", "base_optimizer_state", "single_partition_of_fp32_groups"


def load_resharded(engine: Any, folder: Path, *, workers: int) -> None:
    """Load a checkpoint of so many workers into an engine that has not trained yet; every worker calls it.

    `folder` is the checkpoint's own. Each worker maps all files into memory and reads only what it keeps.

    Raises:
        RuntimeError: DeepSpeed cannot load the weights.
        ValueError: the files are not those of this model.
    """
    stage = engine.zero_optimization_stage()
    assert stage in RESHARDABLE, stage
    with contextlib.redirect_stdout(io.StringIO()):  # DeepSpeed prints what it reads
        loaded, _ = engine.load_checkpoint(str(folder.parent), tag=folder.name, load_optimizer_states=stage == 0)
        if loaded is None:
            raise RuntimeError(f"DeepSpeed could not load the checkpoint {folder}")
        if stage:
            state = _own_state(engine, [_read(folder, rank) for rank in range(workers)])
            engine.optimizer.load_state_dict([state] * dist.get_world_size(), load_from_fp32_weights=True)


def own_slice(slices: Sequence[Tensor], elements: int, *, size: int, index: int) -> Tensor:
    """The slice number `index` of `size` elements of what the slices hold together, zeros after its `elements`.

    Padding may be there after the last element, in any of the slices, or be left out.

    Raises:
        ValueError: the slices hold less.
    """
    ends = list(accumulate((part.numel() for part in slices), initial=0))
    if ends[-1] < elements:
        raise ValueError(f"the checkpoint holds {ends[-1]} values of a group of {elements}")
    own = torch.zeros(size, dtype=slices[0].dtype)
    start, stop = index * size, min((index + 1) * size, elements)
    for part, (first, last) in zip(slices, pairwise(ends), strict=True):
        if (low := max(start, first)) < (high := min(stop, last)):
            own[low - start : high - start] = part[low - first : high - first]
    return own


def _read(folder: Path, rank: int) -> dict[str, Any]:
    """The optimizer's state that a worker wrote, mapped into memory. The checkpoint's manifest vouches for the pickle."""
    (path,) = folder.glob(_FILE.format(rank=rank))
    state: dict[str, Any] = torch.load(path, map_location="cpu", mmap=True, weights_only=False)[_STATE]
    return state


def _own_state(engine: Any, written: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What this worker would have written, had as many workers written the checkpoint as there are now."""
    optimizer, index = engine.optimizer, dist.get_rank()
    groups = optimizer.bf16_groups if hasattr(optimizer, "bf16_groups") else optimizer.bit16_groups
    weights, states = [], {}
    for number, (group, flat) in enumerate(zip(groups, optimizer.optimizer.param_groups, strict=True)):
        elements, size = sum(weight.numel() for weight in group), flat["params"][0].numel()
        parts = [state[_WEIGHTS][number] for state in written]
        weights.append(own_slice(parts, elements, size=size, index=index))
        states[number] = {
            name: own_slice(
                [state[_BASE]["state"][number][name] for state in written], elements, size=size, index=index
            )
            if value.dim()
            else value.clone()  # not one that is mapped from a file
            for name, value in written[0][_BASE]["state"][number].items()
        }
    return {**written[0], _BASE: {**written[0][_BASE], "state": states}, _WEIGHTS: weights}
