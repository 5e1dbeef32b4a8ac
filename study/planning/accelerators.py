"""GPUs by Ray's names: memory and peak rates from the makers' data sheets."""

from __future__ import annotations

from dataclasses import dataclass

from trainables.hyperparameters import Precision
from trainables.resources import Resources

HEADROOM = 0.1  # share of a device's memory kept free: CUDA's context, fragmentation, workspaces of kernels and NCCL


@dataclass(frozen=True)
class Accelerator:
    """Memory in GB and peaks of dense matrix products in TFLOP/s.

    fp32 is without tensor cores, as PyTorch computes it unless TF32 is allowed. bf16 is on tensor cores, None without them.
    """

    memory_gb: float
    fp32_tflops: float
    bf16_tflops: float | None

    def peak_tflops(self, precision: Precision) -> float:
        """The peak in a training precision; bf16 without tensor cores is no faster than fp32."""
        return self.fp32_tflops if precision == "fp32" else self.bf16_tflops or self.fp32_tflops

    def holds(self, gb: float) -> bool:
        """Whether so much fits with the headroom left free."""
        return gb <= (1 - HEADROOM) * self.memory_gb


# Names of `ray.util.accelerators`. Where one covers several cards: the least memory (A100, V100) and the peaks of the SXM form
# (V100, H100). A10G is Amazon's variant of A10, with 35 TFLOP/s in fp32 and 70 in bf16 instead of 31.2 and 125.
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
}


def declared_accelerator(resources: Resources) -> Accelerator | None:
    """The device that a size declares; None without a GPU, or for an unknown one."""
    return ACCELERATORS.get(resources.accelerator_type or "") if resources.gpus else None
