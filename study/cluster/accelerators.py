"""GPUs by Ray's names: memory and peak rates from the makers' data sheets, and which of them meet a request."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from trainables.hyperparameters import Precision
from trainables.resources import GPU_HEADROOM, Resources


@dataclass(frozen=True)
class Accelerator:
    """Memory in GB and peaks of dense matrix products in TFLOP/s.

    fp32 is as PyTorch computes it unless TF32 is allowed: without tensor cores on NVIDIA's cards. bf16 is on tensor (AMD:
    matrix) cores, None without them.
    """

    memory_gb: float
    fp32_tflops: float
    bf16_tflops: float | None

    def peak_tflops(self, precision: Precision) -> float:
        """The peak in a training precision; bf16 without tensor cores is no faster than fp32."""
        return self.fp32_tflops if precision == "fp32" else self.bf16_tflops or self.fp32_tflops

    def holds(self, gb: float, *, share: float = 1.0) -> bool:
        """Whether so much fits into a share of the card, with the headroom left free."""
        return gb <= (1 - GPU_HEADROOM) * self.memory_gb * share


# Names of `ray.util.accelerators`. Sources are the makers' data sheets; where one gives a rate with sparsity only, half of it.
# Where a name covers several cards: the least memory (A100, V100) and the peaks of the SXM form (V100, H100, H200). A10G is
# Amazon's variant of A10, with 35 TFLOP/s in fp32 and 70 in bf16 instead of 31.2 and 125. B200 is one of an HGX B200's eight.
# GB200 is one of an NVL72's 72. Other names of Ray have no entry, as their figures are not certain (H20, B300, RTX-PRO-6000).
ACCELERATORS = {
    "T4": Accelerator(16, 8.1, None),
    "V100": Accelerator(16, 15.7, None),
    "A10G": Accelerator(24, 35, 70),
    "L4": Accelerator(24, 30.3, 121),
    "L40S": Accelerator(48, 91.6, 362),
    "A100": Accelerator(40, 19.5, 312),
    "A100-40G": Accelerator(40, 19.5, 312),
    "A100-80G": Accelerator(80, 19.5, 312),
    "H100": Accelerator(80, 67, 989),
    "H200": Accelerator(141, 67, 989),
    "B200": Accelerator(180, 75, 2250),
    "GB200": Accelerator(186, 80, 2500),
    "AMD-Instinct-MI300X-OAM": Accelerator(192, 163.4, 1307),
    "AMD-Instinct-MI325X-OAM": Accelerator(256, 163.4, 1307),
}


def suitable(resources: Resources) -> tuple[str, ...]:
    """Names of the known GPUs that meet a size's request, those with the least memory and the lowest peak first.

    A card's share must hold the memory that is asked for. A named type is suitable alone.
    """
    if resources.accelerator_type:
        return (resources.accelerator_type,)
    least_gb = (resources.gpu_memory_gb or 0.0) / (resources.gpus or 1.0)
    meeting = [
        name
        for name, card in ACCELERATORS.items()
        if card.memory_gb >= least_gb and (card.bf16_tflops or not resources.bf16_gpu)
    ]
    return tuple(
        sorted(meeting, key=lambda name: (ACCELERATORS[name].memory_gb, ACCELERATORS[name].peak_tflops("bf16_mixed")))
    )


def declared_accelerator(resources: Resources) -> Accelerator | None:
    """The device that a size declares; None without a GPU, for an unknown one, or where nothing is said about it.

    For a request by memory or capability it is the least known card that meets it, with no more memory than is asked for.
    """
    if not resources.gpus:
        return None
    if resources.accelerator_type:
        return ACCELERATORS.get(resources.accelerator_type)
    if not resources.asks_for_capability or not (names := suitable(resources)):
        return None
    card = ACCELERATORS[names[0]]
    if resources.gpu_memory_gb is None:
        return card
    return dataclasses.replace(card, memory_gb=resources.gpu_memory_gb / resources.gpus)


def device_words(resources: Resources) -> str:
    """The GPU that a size asks for, in words: a type, or what it must have."""
    if resources.accelerator_type:
        return resources.accelerator_type
    memory = "" if resources.gpu_memory_gb is None else f"{resources.gpu_memory_gb / resources.gpus:g} GB"
    return " ".join(filter(None, ("GPU", memory, "bf16" if resources.bf16_gpu else "")))
