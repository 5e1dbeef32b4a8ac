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
from tests.benchmarks.gpu_train import start_device
from trainables.benchmark.subjects.fresh import environment
from trainables.heads import Feature
from trainables.heads.features import read_features, write_features
from trainables.hyperparameters import Precision, Training
from trainables.launch.process import NO_GPU
from trainables.models.encoder import Shape
from trainables.models.families import FAMILIES
from trainables.models.task_model import TaskModel, new_head
from trainables.models.unpadding import Segments, flash, segment_by_segment
from trainables.tasks.xtreme.xnli import Xnli
from trainables.training.batching import BatchOrder, FeatureBatches, Share
from trainables.training.engine import Layout, managed_engine
from trainables.training.loop import train

HEAD_WIDTHS = {"base and large": 64, "XL": 80, "XXL": 128}  # of XLM-R; kernels differ by it
ATTENTION_TOLERANCE = 0.05
SEGMENTS = (130, 1, 47, 9)  # tokens: more than one block of a kernel, and a single token
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
STEPS, ROWS, VOCABULARY, PAD_ID = 10, 8, 500, 1
# Of the loss, relative. fp32 differs by the order of additions, which AdamW amplifies from step to step; bf16 by the rounding
# of products, which keep 8 bits.
TOLERANCES = {"fp32": 1e-4}
BF16_TOLERANCE = 2e-2


def attention(device: str) -> Document:
    """Compares the device's attention over segments with that segment by segment in fp32, forward and backward.

    `worst` has the largest error by width of a head, relative to the largest value; bf16 keeps 8 bits.
    """
    _one_thread(device)
    worst = {name: _attention_error(torch.device(device), width) for name, width in HEAD_WIDTHS.items()}
    return {"worst": worst, "equal": max(worst.values()) <= ATTENTION_TOLERANCE, "segments": list(SEGMENTS)}


def _one_thread(device: str) -> None:
    """On two-layer encoders, threads that wait for each other are slower than one."""
    if device == "cpu":
        torch.set_num_threads(1)


def _attention_error(device: torch.device, width: int) -> float:
    """The one place that knows how attention over segments is called."""
    torch.manual_seed(0)
    mask_NL = (torch.arange(max(SEGMENTS))[None] < torch.tensor(SEGMENTS)[:, None]).long()
    segments = Segments.of(mask_NL.to(device))
    packed = [torch.randn(sum(SEGMENTS), 2, width, device=device, dtype=torch.bfloat16) for _ in range(4)]
    kernel = flash if device.type == "cuda" else segment_by_segment
    results = []
    for attend, dtype in ((kernel, torch.bfloat16), (segment_by_segment, torch.float32)):
        query, key, value = (values.to(dtype).clone().requires_grad_() for values in packed[:3])
        output = attend(query, key, value, segments, dropout=0.0, scaling=None, reach=-1)
        results.append((output.detach(), *torch.autograd.grad(output, (query, key, value), packed[3].to(dtype))))
    return max(
        float((got.float() - wanted).abs().max() / wanted.abs().max()) for got, wanted in zip(*results, strict=True)
    )


def agreement(device: str, precisions: Sequence[Precision], limit_s: float) -> list[Document]:
    """By precision: the losses of a tiny training on the CPU and on the device, each device in a process of its own."""
    with environment(NO_GPU):
        expected = in_child(losses, "cpu", precisions, limit_s=limit_s / 2)
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
