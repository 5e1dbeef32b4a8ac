"""Merged encoders: the weights of an encoder plus a weighted sum of what several trainings changed in them.

    merged = base + sum over i of weight_i * (encoder_i - base)

Equal weights that add up to 1 give the plain average (Choshen et al. 2022, 2204.03044); other sums scale the change, as
adding task vectors does (Ilharco et al. 2022, 2212.04089).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import save_file
from torch import Tensor
from transformers.utils import CONFIG_NAME, SAFE_WEIGHTS_INDEX_NAME

from trainables.models.stored_weights import StoredWeights
from trainables.models.task_model import MAX_FILE_BYTES


def write_merged(
    base: Path,
    encoders: Sequence[Path],
    weights: Sequence[float],
    folder: Path,
    *,
    observe: Callable[[int, int], None] = lambda done, total: None,
    max_file_bytes: int = MAX_FILE_BYTES,
) -> int:
    """Write the merge of saved encoders as `save_pretrained` would; returns its number of weights.

    Weights are merged and stored in fp32, in which stages load every encoder, whatever the files hold. In memory are one file
    of the result and, of the tensor at hand, the base, one encoder and the change: with XLM-R XXL's embedding table of 4 GB,
    16 GB, where four whole models would be 172 GB.

    Args:
        base: the folder of the encoder that the others were trained from; its configuration is the result's.
        observe: is told how many tensors are done, and how many there are.

    Raises:
        ValueError: the encoders differ in the names or shapes of their weights.
    """
    stored, trained = StoredWeights(base), [StoredWeights(encoder) for encoder in encoders]
    for other in trained:
        _check_same(stored, other)
    outline = {name: torch.empty(stored.shape(name), dtype=torch.float32, device="meta") for name in stored.names}
    split = split_torch_state_dict_into_shards(outline, max_shard_size=max_file_bytes)
    folder.mkdir(parents=True)
    done = 0
    for file, names in split.filename_to_tensors.items():
        tensors: dict[str, Tensor] = {}
        for name in names:
            tensors[name] = _merged(name, stored, trained, weights)
            done += 1
            observe(done, len(outline))
        save_file(tensors, folder / file, metadata={"format": "pt"})
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        (folder / SAFE_WEIGHTS_INDEX_NAME).write_text(json.dumps(index, indent=1), encoding="utf-8")
    shutil.copyfile(base / CONFIG_NAME, folder / CONFIG_NAME)
    return sum(tensor.numel() for tensor in outline.values())


def _merged(name: str, base: StoredWeights, trained: Sequence[StoredWeights], weights: Sequence[float]) -> Tensor:
    """One tensor of the result, in fp32; encoders count in their order, so that the rounding is fixed."""
    of_base = base.read(name).float()
    merged = of_base.clone()
    for stored, weight in zip(trained, weights, strict=True):
        change = stored.read(name).float() - of_base
        merged += change.mul_(weight)
    return merged


def _check_same(base: StoredWeights, other: StoredWeights) -> None:
    """Raises ValueError: the two folders hold weights of different names or shapes."""
    if unshared := sorted({*base.names} ^ {*other.names}):
        raise ValueError(
            f"{other.folder} cannot be merged into {base.folder}: only one of them has {', '.join(unshared[:3])} "
            f"({len(unshared)} in all)"
        )
    for name in base.names:
        if (own := base.shape(name)) != (its := other.shape(name)):
            raise ValueError(
                f"{other.folder} cannot be merged into {base.folder}: {name} has shapes {tuple(its)} and {tuple(own)}"
            )
