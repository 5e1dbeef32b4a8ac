"""Training precision a recipe may leave to the hardware; resolved once, in the driver, into the study's identity."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from trainables.training import Precision


@dataclass(frozen=True)
class ResolvedPrecision:
    """The precision and the reason, which `plan` and `run` print."""

    value: Precision
    reason: str


def cpu_precision() -> ResolvedPrecision:
    """bf16 matrix products where this CPU has instructions for them (there 2 to 3 times faster), else fp32."""
    if torch.cpu._is_amx_tile_supported():
        return ResolvedPrecision("bf16_mixed", "this CPU has AMX bf16")
    if torch.cpu._is_avx512_bf16_supported():
        return ResolvedPrecision("bf16_mixed", "this CPU has AVX512 bf16")
    return ResolvedPrecision("fp32", "this CPU has no bf16 instructions")
