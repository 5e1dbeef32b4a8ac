"""ZeRO 3 without the whole model in every worker: an encoder is outlined, and its weights are read one at a time.

Loaded in the usual way, every worker reads all of XLM-R XXL's 43 GB before the engine leaves it an eighth. Where the file
system maps files into memory, workers of a node share the pages, which the kernel may drop; where it does not, each has a
copy, and in any case each node reads all of it. Here the leader alone reads, tensor by tensor; each is sent to all workers, cut
into their parts and let go of. So a worker never has more than its part and the largest tensor, on whatever file system.

Two workers, 152 million parameters (610 MB) on a local disk, the most that the leader had beyond its start until the engine
stood: loaded whole, 1,413 MB of its own and 605 MB of mapped pages; read in parts, 1,606 and 208.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from trainables.training.engine import partition
from trainables.training.trimming import Trimmed


class StoredWeights:
    """The tensors of an encoder that `save_pretrained` wrote as safetensors, in one file or several."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        index = folder / SAFE_WEIGHTS_INDEX_NAME
        self._files: Mapping[str, str]
        if index.is_file():
            self._files = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        else:
            with safe_open(folder / SAFE_WEIGHTS_NAME, framework="pt") as file:
                self._files = dict.fromkeys(file.keys(), SAFE_WEIGHTS_NAME)

    def read(self, *names: str) -> Tensor:
        """The tensor that goes by one of these names: a tied one is stored under a single one.

        Raises:
            KeyError: there is none.
        """
        name = next((name for name in names if name in self._files), None)
        if name is None:
            raise KeyError(f"{self.folder} holds no {' or '.join(names)}")
        with safe_open(self.folder / self._files[name], framework="pt") as file:
            tensor: Tensor = file.get_tensor(name)
        return tensor


def read_partitioned(
    model: nn.Module,
    folder: Path,
    settings: Mapping[str, Any],
    *,
    trimmed: Trimmed | None,
    leads: bool,
    device: torch.device,
) -> None:
    """Read the weights of the outlined `model.encoder` from the folder of its files, and leave every worker its part.

    All workers of a group call it. `settings` are the engine's; `trimmed` says which rows of the embedding table the model has.
    Buffers, which are whole on every worker, are moved to the device: the engine takes a partitioned model to be there already.
    """
    stored = StoredWeights(folder) if leads else None
    for names, parameter in _outlined(model):
        whole = torch.empty(parameter.shape, device=device)
        if stored is not None:
            tensor = stored.read(*(name.removeprefix("encoder.") for name in names))
            whole.copy_(tensor if trimmed is None or trimmed.name not in names else tensor[trimmed.ids])
        real = nn.Parameter(whole, requires_grad=parameter.requires_grad)
        for name in names:
            module, _, own = name.rpartition(".")
            setattr(model.get_submodule(module), own, real)
        partition(real, settings)
    for holder in model.modules():
        for name, buffer in holder.named_buffers(recurse=False):
            setattr(holder, name, buffer.to(device))


def whole_table(trimmed: Trimmed, folder: Path) -> Tensor:
    """All rows of an embedding table that was trimmed in outline."""
    return StoredWeights(folder).read(trimmed.name.removeprefix("encoder."))


def _outlined(model: nn.Module) -> list[tuple[list[str], nn.Parameter]]:
    """Parameters without memory, each with all the names it goes by, in an order that is the same on all workers."""
    names: dict[int, list[str]] = {}
    parameters: dict[int, nn.Parameter] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if parameter.is_meta:
            names.setdefault(id(parameter), []).append(name)
            parameters[id(parameter)] = parameter
    return [(names[key], parameter) for key, parameter in parameters.items()]
