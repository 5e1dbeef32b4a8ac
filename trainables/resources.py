"""What a size runs on: workers, cores, devices, and how DeepSpeed distributes training over them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Offload = Literal["none", "optimizer", "parameters"]
OFFLOAD_FROM: dict[Offload, int] = {"none": 0, "optimizer": 1, "parameters": 3}  # the lowest ZeRO stage that can
GB = 1e9
# What a trial requests on the head while its group of workers trains. Besides mapped files, its own process
# holds 290 MB and Ray Train's controller, a second process, 230 MB (measured); both import PyTorch.
WAITING_BYTES = 640 * 2**20
ACCELERATOR = "accelerator_type:"  # prefix of the Ray resource that every node with such an accelerator has
GPU_SHARES = (0.5, 0.25, 0.125)  # of a card; exact in binary, so that any number of them sum to whole cards
GPU_HEADROOM = 0.1  # share of a GPU's memory kept free: CUDA's context, fragmentation, workspaces of kernels and NCCL


@dataclass(frozen=True)
class Resources:
    """What a size runs on; never part of an identity.

    Attributes:
        workers: number of processes.
        cpus, gpus: cores and devices of each worker: no GPU, one, or for a single worker a share of one (`GPU_SHARES`), so that
            several trials train on a card. Each may use only its share of the memory.
        accelerator_type: kind of GPU, by Ray's name, for a size that insists on one; the next two then count for nothing.
        gpu_memory_gb: GB of GPU memory, as on data sheets, that a worker must have: its share of a card, if it asks for one.
            Which of a cluster's GPUs meet this is decided there (`study.cluster.gpus`).
        bf16_gpu: the GPU must have tensor cores for bf16.
        zero_stage: of DeepSpeed, 0 to 3.
        micro_batch: rows of token ids that a worker processes at once in training; a question with five alternatives has five.
            Gradient accumulation keeps the global batch.
        micro_batch_tokens: the most tokens of a micro-batch besides, padding included unless `unpad`; None counts rows alone. A
            step then has as many micro-batches as its rows need. Pre-training counts rows.
        trim_vocabulary: fine-tuning trains only the rows of the embedding table that occur in its data, with the same result
            (`trimming`). None trims where fewer than half of them occur.
        offload: what is kept in host memory instead of the device's: the optimizer's state (ZeRO 1 to 3), or that and the
            parameters (ZeRO 3).
        activation_checkpointing: the backward pass recomputes each layer's activations.
        checkpoint_every_s: least time between two checkpoints inside a stage, in seconds. An interrupted stage resumes from the
            last one.
        unpad: training computes only the real tokens of a batch, which the host packs (`packing`), on GPUs in bf16. Off by
            default, as it has not been run on a GPU.
        compile: training compiles each layer of the encoder separately; not under ZeRO 3.
        memory_gb: host memory that each worker requests of its node, so that no more run there than fit. None requests what a
            worker on CPUs is estimated to take (`study.planning.worker_memory`), and nothing for one on a GPU.
        fewest_workers: where lost machines do not come back, a trial continues with half its workers, down to this number,
            within the same global batch; an interrupted stage resumes, under ZeRO 3 it restarts. None waits for all workers.
        one_node: a group's workers wait for a node that holds them all, instead of spanning several. A run sets it where its
            cluster has such a node (`study.cluster.fit`).
    """

    workers: int = 1
    cpus: int = 1
    gpus: float = 0
    accelerator_type: str | None = None
    zero_stage: int = 0
    micro_batch: int = 64
    micro_batch_tokens: int | None = None
    trim_vocabulary: bool | None = None
    offload: Offload = "none"
    activation_checkpointing: bool = False
    checkpoint_every_s: float = 600.0
    unpad: bool = False
    compile: bool = False
    fewest_workers: int | None = None
    memory_gb: float | None = None
    one_node: bool = False
    gpu_memory_gb: float | None = None
    bf16_gpu: bool = False

    def __post_init__(self) -> None:
        if self.workers < 1 or self.cpus < 1 or self.gpus not in (0, 1, *GPU_SHARES) or self.micro_batch < 1:
            raise ValueError(
                f"impossible resources: {self}; workers, cpus and micro_batch are at least 1, and gpus is 0, 1 or a share of "
                f"one: {', '.join(map(str, GPU_SHARES))}"
            )
        if 0 < self.gpus < 1 and self.workers > 1:
            raise ValueError(
                f"gpus {self.gpus} with {self.workers} workers: only a single worker can have a share of a GPU"
            )
        self._check_gpu_request()
        if self.micro_batch_tokens is not None and self.micro_batch_tokens < 1:
            raise ValueError(f"micro_batch_tokens {self.micro_batch_tokens}: must be at least 1, or None")
        if self.zero_stage not in (0, 1, 2, 3):
            raise ValueError(f"zero_stage {self.zero_stage}: DeepSpeed has stages 0 to 3")
        if self.offload not in OFFLOAD_FROM:
            raise ValueError(f"offload {self.offload!r}: must be one of {', '.join(OFFLOAD_FROM)}")
        if self.zero_stage < OFFLOAD_FROM[self.offload]:
            raise ValueError(
                f"offload {self.offload!r} with zero_stage {self.zero_stage}: needs ZeRO stage "
                f"{OFFLOAD_FROM[self.offload]} or higher"
            )
        if self.compile and self.zero_stage == 3:
            raise ValueError(
                "compile: impossible under ZeRO stage 3, whose hooks gather and release weights inside the layers"
            )
        if self.memory_gb is not None and not (math.isfinite(self.memory_gb) and self.memory_gb > 0):
            raise ValueError(f"memory_gb {self.memory_gb}: must be positive, or None to estimate it")
        if not 1 <= (self.fewest_workers or self.workers) <= self.workers:
            raise ValueError(f"fewest_workers {self.fewest_workers}: must be from 1 to workers ({self.workers})")

    def _check_gpu_request(self) -> None:
        if self.gpu_memory_gb is not None and not (math.isfinite(self.gpu_memory_gb) and self.gpu_memory_gb > 0):
            raise ValueError(f"gpu_memory_gb {self.gpu_memory_gb}: must be positive, or None for any")
        if self.asks_for_capability and not self.gpus:
            raise ValueError("gpu_memory_gb and bf16_gpu ask for a GPU, but gpus is 0: set gpus, or leave them out")

    @property
    def asks_for_capability(self) -> bool:
        """Whether the GPU must have something, whatever its type."""
        return self.gpu_memory_gb is not None or self.bf16_gpu

    @property
    def worker_counts(self) -> tuple[int, ...]:
        """Numbers of workers a trial may run on, largest first: halved repeatedly down to `fewest_workers`."""
        counts = [self.workers]
        while counts[-1] % 2 == 0 and counts[-1] // 2 >= (self.fewest_workers or self.workers):
            counts.append(counts[-1] // 2)
        return tuple(counts)

    @property
    def inline(self) -> bool:
        """Whether training runs inside the trial's own process: on one CPU worker, where a Ray Train group costs 10 to 20 s."""
        return self.workers == 1 and not self.gpus


def worker_request(resources: Resources) -> dict[str, float]:
    """What one worker requests of a node, as amounts of Ray resources; a trial requests `workers` times as much."""
    memory = int((resources.memory_gb or 0.0) * GB)
    request: dict[str, float] = {"CPU": resources.cpus, "GPU": resources.gpus, "memory": memory}
    if resources.accelerator_type:
        request[ACCELERATOR + resources.accelerator_type] = 0.001  # the amount with which Ray requests a type
    return {name: amount for name, amount in request.items() if amount}
