"""What must be equal on a GPU before its speed means anything: attention over segments, and the losses of a training."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import torch
from transformers import XLMRobertaModel

from tests.benchmarks.children import Document, in_child
from tests.benchmarks.gpu_steps import start_device
from trainables.benchmark.subjects.fresh import environment
from trainables.heads import Feature
from trainables.heads.features import read_features, write_features
from trainables.hyperparameters import Precision, Training
from trainables.launch.process import NO_GPU
from trainables.models import varlen
from trainables.models.encoder import Shape
from trainables.models.families import FAMILIES
from trainables.models.task_model import TaskModel, new_head
from trainables.tasks.xtreme.xnli import Xnli
from trainables.training.batching import BatchOrder, FeatureBatches, Share
from trainables.training.engine import Layout, managed_engine
from trainables.training.loop import train

HEAD_WIDTHS = {"base and large": 64, "XL": 80, "XXL": 128}  # of XLM-R; kernels differ by it
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
STEPS, ROWS, VOCABULARY, PAD_ID = 10, 8, 500, 1
# Of the loss, relative. fp32 differs by the order of additions, which AdamW amplifies from step to step; bf16 by the rounding
# of products, which keep 8 bits.
TOLERANCES = {"fp32": 1e-4}
BF16_TOLERANCE = 2e-2


def attention(device: str) -> Document:
    """The self-test of attention over segments, in bf16: `worst` is its largest relative error by width of a head.

    Raises:
        KernelUnusable: the kernel is missing or wrong.
    """
    _one_thread(device)
    widths = HEAD_WIDTHS.items()
    worst = {name: varlen.check(torch.device(device), torch.bfloat16, width=width) for name, width in widths}
    return {"worst": worst, "equal": True}


def _one_thread(device: str) -> None:
    """On two-layer encoders, threads that wait for each other are slower than one."""
    if device == "cpu":
        torch.set_num_threads(1)


def agreement(device: str, precisions: Sequence[Precision], limit_s: float) -> list[Document]:
    """By precision: the losses of a tiny training on the CPU and on the device, each device in a process of its own."""
    with environment(NO_GPU):
        expected = in_child(losses, "cpu", precisions, limit_s=limit_s if device == "cpu" else limit_s / 2)
    found = expected if device == "cpu" else in_child(losses, device, precisions, limit_s=limit_s / 2)
    for document in (expected, found):
        if document["outcome"] != "measured":
            return [{"precision": precision, **document} for precision in precisions]
    return [compared(precision, expected[precision], found[precision]) for precision in precisions]


def compared(precision: str, expected: Sequence[float], found: Sequence[float]) -> Document:
    """Whether two sequences of losses are equal up to the precision's rounding."""
    tolerance = TOLERANCES.get(precision, BF16_TOLERANCE)
    difference = max(abs(one - other) / abs(other) for one, other in zip(found, expected, strict=True))
    return {
        "precision": precision,
        "outcome": "measured",
        "equal": difference <= tolerance,
        "largest_difference": difference,
        "tolerance": tolerance,
        "cpu": list(expected),
        "device": list(found),
    }


def losses(device: str, precisions: Sequence[Precision]) -> Document:
    """The losses of ten steps on random rows by precision; neither weights, rows nor batches depend on the device."""
    _one_thread(device)
    placed = start_device(device)
    task, rng = Xnli(), random.Random(0)
    features = [
        Feature(number, (tuple(rng.choices(range(PAD_ID + 1, VOCABULARY), k=rng.randint(4, 40))),), (number % 3,), 1.0)
        for number in range(STEPS * ROWS)
    ]
    with tempfile.TemporaryDirectory() as folder:
        write_features(Path(folder) / "rows.arrow", [("en", features)])
        table = read_features(Path(folder) / "rows.arrow")
        batches = FeatureBatches(table, task, PAD_ID, BatchOrder(table.lengths, ROWS, seed=0))
        return {precision: _losses(placed, precision, batches) for precision in precisions}


def _losses(device: torch.device, precision: Precision, batches: FeatureBatches) -> list[float]:
    """A `Shape` has no dropout, whose random numbers differ between devices."""
    config = Shape(2, 128).config(VOCABULARY, PAD_ID)
    config._attn_implementation = FAMILIES[config.model_type].attention(device)
    torch.manual_seed(0)
    encoder = XLMRobertaModel(config, add_pooling_layer=False)
    model = TaskModel(encoder, new_head(encoder, Xnli(), seed=0)).to(device)
    share, training = Share(0, 1, ROWS), Training(1e-4, STEPS, ROWS, seed=0, precision=precision)
    with managed_engine(model, training, Layout(share, device=device)) as engine:
        return train(engine, batches, training, share=share, device=device).losses
