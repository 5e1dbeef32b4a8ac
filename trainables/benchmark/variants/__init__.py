"""Serving variants: the ways to run a trained model for inference.

To add a built-in variant, subclass `Variant` in a module of this folder and add an instance to `VARIANTS` below. The tests and
`python -m study bench` then include it. A variant that only one recipe needs stays in the recipe's file: its `BenchmarkPlan`
takes an instance wherever it takes a name.
"""

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


def variant_named(variant: str | Variant) -> Variant:
    """The built-in variant of that name; a variant is returned as it is.

    Raises:
        ValueError: no built-in variant has the name, or a variant of another class takes the name of a built-in one.
    """
    if isinstance(variant, str):
        if variant not in VARIANTS:
            raise ValueError(f"no serving variant {variant!r}; there are {', '.join(sorted(VARIANTS))}")
        return VARIANTS[variant]
    built_in = VARIANTS.get(variant.name)
    if built_in is not None and type(built_in) is not type(variant):
        raise ValueError(
            f"serving variant {variant.name!r} of class {type(variant).__name__} has the name of a built-in variant, and "
            "measurements are stored by name; choose another name"
        )
    return variant
