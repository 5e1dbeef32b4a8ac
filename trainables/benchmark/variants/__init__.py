"""Serving variants: the ways a trained model is run for inference."""

from __future__ import annotations

from trainables.benchmark.variants.base import Variant, VariantUnavailable
from trainables.benchmark.variants.compiled import Compiled, CompiledBf16
from trainables.benchmark.variants.eager import Bf16, Fp16, Fp32
from trainables.benchmark.variants.exported import OnnxInt8, OnnxRuntime, OpenVino, OpenVinoBf16
from trainables.benchmark.variants.packed import PaddingFree
from trainables.benchmark.variants.quantised import Int8

__all__ = ["VARIANTS", "Variant", "VariantUnavailable", "variant_named"]

VARIANTS: dict[str, Variant] = {
    variant.name: variant
    for variant in (
        *(Fp32(), Bf16(), Fp16(), Compiled(), CompiledBf16(), Int8(), PaddingFree()),
        *(OnnxRuntime(), OnnxInt8(), OpenVino(), OpenVinoBf16()),
    )
}


def variant_named(name: str) -> Variant:
    """The variant with that name.

    Raises:
        ValueError: there is none.
    """
    if name not in VARIANTS:
        raise ValueError(f"no serving variant {name!r}; there are {', '.join(sorted(VARIANTS))}")
    return VARIANTS[name]
