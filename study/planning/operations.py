"""Floating-point operations of training and scoring, and the GPU-hours they take.

Operations are counted as model FLOPs in Korthikanti et al. 2022 (arXiv 2205.05198): 6 for each body parameter and token, and
those of attention; scoring has the forward pass alone, a third. Recomputation adds time, not model FLOPs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from study.cluster.accelerators import declared_accelerator, suitable
from study.planning.architecture import Architecture
from study.planning.row_lengths import Tokens, scored_rows
from study.planning.stages import CostedStage, Load, loads_of
from study.planning.utilisation import SCORING, Share, measured_rows, training_share
from trainables.heads.masking import MASKED_SHARE
from trainables.resources import Resources
from trainables.stages.evaluate import Evaluate
from trainables.training.batching import Share as WorkerShare

MOST_SHARED = (0.35, 0.55)  # of the peak, assumed: what trials that share a card reach together at most, low and high


@dataclass(frozen=True)
class Hours:
    """A range of card-hours: a trial on half a card takes half of each hour."""

    low: float
    high: float

    @property
    def usual(self) -> float:
        return math.sqrt(self.low * self.high)


def row_flops(length: float, *, body: int, layers: int, attention_width: int, square: float | None = None) -> float:
    """Operations of the forward pass (a third) and the backward pass of one row of `length` tokens.

    Each token takes 6 for every body parameter, and 12 x layers x attention width x length for attention: queries with keys,
    and weights with values. `square` is the mean of the squared lengths where `length` is a mean.
    """
    return 6 * body * length + 12 * layers * attention_width * (length**2 if square is None else square)


def load_flops(architecture: Architecture, load: Load, *, longest: bool = False) -> float:
    """Operations of training on such batches, with rows as long as its data's on average, or each at its `longest`.

    With masking, the output layer reads the token table for 15% of the tokens.
    """
    training = load.training
    tokens = Tokens.all_of(training.max_length) if longest else load.tokens_a_row
    a_row = _tokens_flops(architecture, tokens)
    if load.masked:
        a_row += 6.0 * MASKED_SHARE * tokens.mean * architecture.vocabulary * architecture.width
    return a_row * training.steps * training.batch_size * load.rows


def stage_flops(architecture: Architecture, stage: CostedStage, *, longest: bool = False) -> float:
    """Operations of a stage; a mixture counts as its most expensive task alone."""
    if isinstance(stage, Evaluate):
        rows, tokens = scored_rows(stage.task, stage.max_length)
        return rows * _tokens_flops(architecture, tokens) / 3
    return max(load_flops(architecture, load, longest=longest) for load in loads_of(stage))


def load_share(architecture: Architecture, load: Load, resources: Resources) -> Share | None:
    """The share of the peak that training on such batches reaches; None without a known device."""
    device = declared_accelerator(resources)
    if device is None:
        return None
    peak = device.peak_tflops(load.training.precision)
    names = suitable(resources)
    rows = measured_rows(names[0]) if load.training.precision != "fp32" and device.bf16_tflops else ()
    tokens = tokens_a_micro_step(load, resources)
    return training_share(architecture, tokens, peak_tflops=peak, workers=resources.workers, rows=rows)


def tokens_a_micro_step(load: Load, resources: Resources) -> float:
    """Real tokens that a GPU processes at once: the mean over the micro-batches of a step, with rows of the mean length."""
    batch_size, mean = load.training.batch_size, load.tokens_a_row.mean
    parts = WorkerShare.of(resources, workers=resources.workers).cut(
        range(batch_size),
        group=load.group,
        rows=load.rows,
        lengths=[round(mean)] * batch_size if load.by_tokens else None,
    )
    return batch_size / resources.workers * load.rows * mean / len(parts)


def load_hours(architecture: Architecture, load: Load, resources: Resources) -> Hours | None:
    """Card-hours of training on such batches, over all workers; None without a known device.

    With checkpointing the forward pass is computed twice. On a share of a card trials take turns at the same kernels: they
    are slower than alone only where together they reach more of the peak than one could.
    """
    device, reached = declared_accelerator(resources), load_share(architecture, load, resources)
    if device is None or reached is None:
        return None
    computed = load_flops(architecture, load) * (4 / 3 if resources.activation_checkpointing else 1)
    at_peak = computed / (device.peak_tflops(load.training.precision) * 1e12) / 3600
    most_low, most_high = MOST_SHARED
    return Hours(
        at_peak * max(resources.gpus / reached.high, 1 / max(most_high, reached.high)),
        at_peak * max(resources.gpus / reached.low, 1 / max(most_low, reached.low)),
    )


def stage_hours(architecture: Architecture, stage: CostedStage, resources: Resources) -> Hours | None:
    """Card-hours of a stage; None without a known device."""
    device = declared_accelerator(resources)
    if device is None:
        return None
    if isinstance(stage, Evaluate):
        at_peak = stage_flops(architecture, stage) / (device.peak_tflops("fp32") * 1e12) / 3600
        return Hours(at_peak / SCORING[2], at_peak / SCORING[1])
    hours = [load_hours(architecture, load, resources) for load in loads_of(stage)]
    return max((each for each in hours if each is not None), key=lambda each: each.usual)


def _tokens_flops(architecture: Architecture, tokens: Tokens) -> float:
    """Operations of training on a row of so many tokens on average."""
    return row_flops(
        tokens.mean,
        body=architecture.count.body,
        layers=architecture.layers,
        attention_width=architecture.attention_width,
        square=tokens.mean_square,
    )
