"""What a size gets to run on: workers, cores, devices, and how DeepSpeed spreads training over them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Offload = Literal["none", "optimizer", "parameters"]
OFFLOAD_FROM: dict[Offload, int] = {"none": 0, "optimizer": 1, "parameters": 3}  # the lowest ZeRO stage that can


@dataclass(frozen=True)
class Resources:
    """What a size gets to run on; never part of an identity.

    `workers` processes, each with `cpus` cores and `gpus` devices (0 or 1) of `accelerator_type`; `zero_stage` 0 to 3;
    `micro_batch` features a worker holds at once (the global batch is kept by accumulation).
    `trim_vocabulary`: fine-tuning trains only the rows of the embedding table that occur in its data, with the same result
    (`trimming`); None does so where fewer than half of them occur.
    `checkpoint_every_s` is the least time, in seconds, between two checkpoints inside a stage; an interrupted one goes on from
    the last. `fewest_workers`: where lost machines do not come back, a trial goes on with half its workers, down to so many,
    within the same global batch, and a stage that was interrupted begins anew; None waits for all of them. `offload`: what lies
    in host memory instead of the device's, the optimizer's state (ZeRO 1 to 3) or that and the parameters (ZeRO 3).
    `activation_checkpointing`: a layer's activations are computed again in the backward pass. `unpad`: training computes the
    real tokens of a batch alone (`unpadding`), for GPUs in bf16; off unless it is asked for, for it has not been run on a GPU.
    `compile`: each layer of the encoder is compiled by itself in training; not under ZeRO 3.
    """

    workers: int = 1
    cpus: int = 1
    gpus: int = 0
    accelerator_type: str | None = None
    zero_stage: int = 0
    micro_batch: int = 64
    trim_vocabulary: bool | None = None
    offload: Offload = "none"
    activation_checkpointing: bool = False
    checkpoint_every_s: float = 600.0
    unpad: bool = False
    compile: bool = False
    fewest_workers: int | None = None

    def __post_init__(self) -> None:
        if self.workers < 1 or self.cpus < 1 or self.gpus not in (0, 1) or self.micro_batch < 1:
            raise ValueError(f"impossible resources: {self}")
        if self.zero_stage not in (0, 1, 2, 3):
            raise ValueError(f"zero_stage {self.zero_stage}: DeepSpeed has stages 0 to 3")
        if self.offload not in OFFLOAD_FROM:
            raise ValueError(f"offload {self.offload!r}: one of {', '.join(OFFLOAD_FROM)}")
        if self.zero_stage < OFFLOAD_FROM[self.offload]:
            raise ValueError(f"offload of {self.offload}: from ZeRO stage {OFFLOAD_FROM[self.offload]} on")
        if self.compile and self.zero_stage == 3:
            raise ValueError(
                "compile: not under ZeRO stage 3, whose hooks gather and let go of weights inside the layers"
            )
        if not 1 <= (self.fewest_workers or self.workers) <= self.workers:
            raise ValueError(f"fewest_workers {self.fewest_workers}: from 1 to workers, {self.workers}")

    @property
    def worker_counts(self) -> tuple[int, ...]:
        """How many workers a trial may run on, the most first: halves of halves down to `fewest_workers`."""
        counts = [self.workers]
        while counts[-1] % 2 == 0 and counts[-1] // 2 >= (self.fewest_workers or self.workers):
            counts.append(counts[-1] // 2)
        return tuple(counts)

    @property
    def inline(self) -> bool:
        """One CPU worker trains inside the trial's own process: a fresh Ray Train group costs 10 to 20 s there."""
        return self.workers == 1 and not self.gpus
