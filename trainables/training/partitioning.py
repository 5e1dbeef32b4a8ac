"""ZeRO 3 without the whole model in every worker: an encoder is built on the meta device and read tensor by tensor.

Loaded as usual, every worker reads all of XLM-R XXL's 43 GB before the engine leaves it an eighth. Where the file system maps
files into memory, the workers of a node share the pages, which the kernel may drop. Elsewhere each worker has a copy, and in
any case each node reads the whole model. Here the leader alone reads. Each tensor is broadcast, partitioned over the workers
and freed: a worker never holds more than its part and the largest tensor.

Two workers, 152 million parameters (610 MB) on a local disk, peak memory of the leader beyond its start until the engine was
built: loaded whole, 1,413 MB of its own and 605 MB of mapped pages; read in parts, 1,606 and 208.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trainables.models.stored_weights import StoredWeights
from trainables.training.engine import partition
from trainables.training.trimming import Trimmed


def read_partitioned(
    model: nn.Module,
    folder: Path,
    settings: Mapping[str, Any],
    *,
    trimmed: Trimmed | None,
    leads: bool,
    device: torch.device,
) -> None:
    """Read the weights of `model.encoder`, which is on the meta device, and leave every worker its partition.

    All workers of a group call it. `settings` are the engine's; `trimmed` says which rows of the embedding table the model has.
    Buffers, whole on every worker, are moved to the device, where the engine expects all of a partitioned model.
    """
    stored = StoredWeights(folder) if leads else None
    for names, parameter in _meta_parameters(model):
        whole = torch.empty(parameter.shape, device=device)
        if stored is not None:
            tensor = stored.read(*(name.removeprefix("encoder.") for name in names))
            whole.copy_(tensor if trimmed is None or trimmed.name not in names else tensor[trimmed.ids])
        real = nn.Parameter(whole, requires_grad=parameter.requires_grad)
        for name in names:
            module, _, attribute = name.rpartition(".")
            setattr(model.get_submodule(module), attribute, real)
        partition(real, settings, device=device)
    for owner in model.modules():
        for name, buffer in owner.named_buffers(recurse=False):
            setattr(owner, name, buffer.to(device))


def read_table(trimmed: Trimmed, folder: Path) -> Tensor:
    """All rows of an embedding table that was trimmed on the meta device."""
    return StoredWeights(folder).read(trimmed.name.removeprefix("encoder."))


def _meta_parameters(model: nn.Module) -> list[tuple[list[str], nn.Parameter]]:
    """Parameters on the meta device, each with all its names, in the same order on all workers."""
    names: dict[int, list[str]] = {}
    parameters: dict[int, nn.Parameter] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if parameter.is_meta:
            names.setdefault(id(parameter), []).append(name)
            parameters[id(parameter)] = parameter
    return [(names[key], parameter) for key, parameter in parameters.items()]
