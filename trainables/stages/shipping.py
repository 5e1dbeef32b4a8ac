"""Encoders that are shipped with the package: how a ladder that a study pre-trained gets there.

    python -m trainables.stages.shipping OUTPUT LADDER

copies every encoder that the study in OUTPUT pre-trained to `trainables/models/shipped/LADDER/`, weights in half precision. A
recipe names one as `shipped_encoder("micro-ladder", "2x128")` (`trainables.models.published_encoder`).
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from trainables.models import published_encoder
from trainables.models.task_model import ENCODER
from trainables.stages.vocabulary import TOKENIZER
from trainables.store.manifests import MANIFEST

POOLING = "mean"  # what the ranking objective of pre-training pools with


def ship(output: Path, ladder: str) -> list[Path]:
    """Copy the encoders that the study in `output` pre-trained to the package; returns their folders.

    Raises:
        ValueError: the study pre-trained none.
    """
    manifests = sorted(output.glob(f"stages/pretrain-*/{MANIFEST}"))
    if not manifests:
        raise ValueError(f"{output}: no finished pre-training in its stages/")
    return [_ship_one(path.parent, ladder) for path in manifests]


def _ship_one(stage: Path, ladder: str) -> Path:
    manifest = json.loads((stage / MANIFEST).read_text(encoding="utf-8"))
    shape = manifest["identity"]["shape"]
    folder = published_encoder.SHIPPED / ladder / f"{shape['layers']}x{shape['width']}"
    if folder.exists():
        shutil.rmtree(folder)
    shutil.copytree(stage / TOKENIZER, folder)
    config = json.loads((stage / ENCODER / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, "pooling": POOLING}, indent=1), encoding="utf-8")
    weights = load_file(stage / ENCODER / "model.safetensors")
    halved = {name: value.to(torch.float16).contiguous() for name, value in weights.items()}
    weights_file = folder / "model.safetensors"
    save_file(halved, weights_file, metadata={"format": "pt"})
    weights_file.chmod(0o644)  # safetensors lets only the owner read it
    origin = {"stage": stage.name, **{key: manifest[key] for key in ("identity", "metrics", "context")}}
    (folder / MANIFEST).write_text(json.dumps(origin, indent=1), encoding="utf-8")
    return folder


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python -m trainables.stages.shipping OUTPUT LADDER")
    for shipped_folder in ship(Path(sys.argv[1]), sys.argv[2]):
        print(shipped_folder, f"{sum(file.stat().st_size for file in shipped_folder.iterdir()) / 1e6:.1f} MB")
