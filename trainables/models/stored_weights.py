"""Weights of an encoder in a folder, read one tensor at a time."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME


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

    @property
    def names(self) -> tuple[str, ...]:
        """The names under which tensors are stored, in a fixed order."""
        return tuple(sorted(self._files))

    def shape(self, name: str) -> torch.Size:
        """The shape of a tensor, which is not read."""
        with safe_open(self.folder / self._files[name], framework="pt") as file:
            return torch.Size(file.get_slice(name).get_shape())

    def read(self, *names: str) -> Tensor:
        """The tensor stored under one of these names: a tied tensor has several and is stored under one.

        Raises:
            KeyError: none of them is stored.
        """
        name = next((name for name in names if name in self._files), None)
        if name is None:
            raise KeyError(f"{self.folder} holds no {' or '.join(names)}")
        with safe_open(self.folder / self._files[name], framework="pt") as file:
            tensor: Tensor = file.get_tensor(name)
        return tensor
