"""The training precision that suits this CPU. A recipe resolves it once, and it becomes part of the study's identity."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from trainables.hyperparameters import Precision

if TYPE_CHECKING:
    from study.spec.study import Study


@dataclass(frozen=True)
class ResolvedPrecision:
    """A training precision and the reason for it."""

    value: Precision
    reason: str


def cpu_precision() -> ResolvedPrecision:
    """bf16 matrix products if this CPU has instructions for them, which makes them 2 to 3 times faster; else fp32."""
    if torch.cpu._is_amx_tile_supported():
        return ResolvedPrecision("bf16_mixed", "this CPU has AMX bf16")
    if torch.cpu._is_avx512_bf16_supported():
        return ResolvedPrecision("bf16_mixed", "this CPU has AVX512 bf16")
    return ResolvedPrecision("fp32", "this CPU has no bf16 instructions")


def explain_precision(study: Study) -> str:
    """A study's training precision and the reason, as `plan` and `run` print it."""
    precision = study.tuning.precision
    if all(size.resources.gpus for size in study.sizes):
        return f"{precision}, as the recipe says"
    here = cpu_precision()
    if here.value == precision:
        return f"{precision} ({here.reason})"
    return f"{precision}, as the recipe says, though {here.reason}"
