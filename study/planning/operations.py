"""Floating-point operations of training, and the GPU-hours they take.

Operations are counted as model FLOPs in Korthikanti et al. 2022 (arXiv 2205.05198): 6 for each body parameter and token, and
those of attention. Recomputation adds time, not model FLOPs.
"""

from __future__ import annotations

from study.planning.accelerators import declared_accelerator
from study.planning.architecture import Architecture
from study.planning.stages import Load, TrainingStage, loads_of
from trainables.heads.masking import MASKED_SHARE
from trainables.hyperparameters import Precision
from trainables.resources import Resources

MFU = 0.4  # assumed share of the device's peak; measured shares vary with size and row length


def row_flops(length: int, *, body: int, layers: int, attention_width: int) -> int:
    """Operations of the forward pass (a third) and the backward pass of one row of `length` tokens.

    Each token takes 6 for every body parameter, and 12 x layers x attention width x length for attention: queries with keys,
    and weights with values.
    """
    return 6 * body * length + 12 * layers * attention_width * length**2


def load_flops(architecture: Architecture, load: Load) -> float:
    """Operations of training on such batches, each row at its longest.

    With masking, the output layer reads the token table for 15% of the tokens.
    """
    training = load.training
    a_row: float = row_flops(
        training.max_length,
        body=architecture.count.body,
        layers=architecture.layers,
        attention_width=architecture.attention_width,
    )
    if load.masked:
        a_row += 6.0 * MASKED_SHARE * training.max_length * architecture.vocabulary * architecture.width
    return a_row * training.steps * training.batch_size * load.rows


def stage_flops(architecture: Architecture, stage: TrainingStage) -> float:
    """Operations of a training stage, at most: each row at its longest, and a mixture as its most expensive task alone."""
    return max(load_flops(architecture, load) for load in loads_of(stage))


def gpu_hours(flops: float, resources: Resources, precision: Precision) -> float | None:
    """Hours of one device at `MFU` of its peak in that precision; None without a known device.

    With checkpointing the forward pass is computed twice.
    """
    device = declared_accelerator(resources)
    if device is None:
        return None
    computed = flops * (4 / 3 if resources.activation_checkpointing else 1)
    return computed / (device.peak_tflops(precision) * 1e12 * MFU) / 3600


def stage_hours(architecture: Architecture, stage: TrainingStage, resources: Resources) -> float | None:
    """GPU-hours of a training stage; None without a known device."""
    return gpu_hours(stage_flops(architecture, stage), resources, stage.training.precision)
