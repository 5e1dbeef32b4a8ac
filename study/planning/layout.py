"""The fewest GPUs that hold a size: workers, ZeRO stage, checkpointing and micro-batches from its memory and the card's.

Trials run side by side, so a card that trains one trial alone does more for a search than a card that waits for seven others.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from study.planning.architecture import Architecture
from study.planning.memory import model_states, scoring_fits, training_fits
from study.planning.operations import load_hours
from study.planning.stages import Load
from trainables.resources import GPU_SHARES, Offload, Resources

WORKERS = (1, 2, 4, 8, 16)
MICRO_BATCHES = (4, 8, 16, 32, 64, 128)
TOKEN_BUDGETS = (4096, 8192, 16_384, 32_768)  # of a micro-batch that is cut by tokens
BUDGETED_ROWS = 256  # and its rows: more than it has of sentences, which leaves the limit to the tokens


def fewest_gpus(
    architecture: Architecture,
    loads: Sequence[Load],
    resources: Resources,
    *,
    scored_length: int,
    layers_kept: bool = False,
    most_workers: int = 8,
    host_gb: float | None = None,
) -> Resources | None:
    """The resources with the layout that trains on all these batches on the fewest GPUs; None if no layout fits.

    Among layouts of as many workers it is the one of the fewest card-hours: a share of the card where a trial cannot use more,
    no recomputation where memory allows larger micro-batches without, a budget of tokens where rows of different lengths fill a
    card better so. State is offloaded only where no number of GPUs holds it, and `host_gb`, the memory of the node, does.

    Args:
        resources: the GPU that is asked for; its layout is replaced.
        scored_length: tokens of the longest rows that are scored, for which every GPU holds the whole encoder.
        layers_kept: scoring keeps the output of every layer.
        most_workers: GPUs that a trial may have.
    """

    def best(layouts: Iterator[Resources]) -> Resources | None:
        fitting = [
            layout
            for layout in layouts
            if training_fits(architecture, layout, loads)
            and scoring_fits(architecture, layout, scored_length, layers_kept=layers_kept)
        ]
        return min(fitting, key=lambda layout: _card_hours(architecture, loads, layout), default=None)

    counts = [count for count in WORKERS if count <= most_workers and all(_divides(load, count) for load in loads)]
    for count in counts:
        if (layout := best(_layouts(resources, count))) is not None:
            return layout
    for offload in ("optimizer", "parameters") if host_gb else ():
        layout = best(_offloaded(resources, offload))
        if layout is not None and model_states(architecture, layout).host_gb <= (host_gb or 0.0):
            return layout
    return None


def _layouts(resources: Resources, workers: int) -> Iterator[Resources]:
    """Layouts of so many workers without an offload, the simplest first."""
    for zero_stage in (0,) if workers == 1 else (2, 3):
        for checkpointing in (False, True):
            for gpus in (1, *GPU_SHARES) if workers == 1 else (1,):
                yield from _with_micro_batches(resources, workers, zero_stage, checkpointing, gpus=gpus)


def _offloaded(resources: Resources, offload: Offload) -> Iterator[Resources]:
    """Layouts of one worker under ZeRO 3 with that offload."""
    for checkpointing in (False, True):
        yield from _with_micro_batches(resources, 1, 3, checkpointing, offload=offload)


def _with_micro_batches(
    resources: Resources,
    workers: int,
    zero_stage: int,
    checkpointing: bool,
    *,
    gpus: float = 1,
    offload: Offload = "none",
) -> Iterator[Resources]:
    # What is asked for is a whole card's memory: a share of it has its part.
    whole_gb = None if resources.gpu_memory_gb is None else resources.gpu_memory_gb / (resources.gpus or 1)
    by_rows = [(rows, None) for rows in MICRO_BATCHES]
    for micro_batch, tokens in (*by_rows, *((BUDGETED_ROWS, tokens) for tokens in TOKEN_BUDGETS)):
        yield dataclasses.replace(
            resources,
            workers=workers,
            gpus=gpus,
            zero_stage=zero_stage,
            offload=offload,
            activation_checkpointing=checkpointing,
            micro_batch=micro_batch,
            micro_batch_tokens=tokens,
            gpu_memory_gb=None if whole_gb is None else whole_gb * gpus,
        )


def _card_hours(architecture: Architecture, loads: Sequence[Load], layout: Resources) -> float:
    """Card-hours of all kinds of batches together: of layouts that fit, the device is known."""
    hours = (load_hours(architecture, load, layout) for load in loads)
    return sum(each.usual for each in hours if each is not None)


def _divides(load: Load, workers: int) -> bool:
    """Whether the load's batches can be divided over so many workers."""
    return load.training.batch_size % (workers * load.group) == 0
