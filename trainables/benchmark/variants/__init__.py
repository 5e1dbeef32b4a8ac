"""Serving variants: the ways to run a trained model for inference.

To add a built-in variant, put a subclass of `Variant` in a module of this folder; `docs/benchmark.md` has a row for
each, and nothing else lists it. A variant for a single
recipe stays in the recipe's file: a `BenchmarkPlan` takes an instance wherever it takes a name.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterator

from trainables.benchmark.variants.base import ServedTokens, Variant, VariantUnavailable
from trainables.benchmark.variants.cut import Cut
from trainables.benchmark.variants.eager import Fp32

__all__ = ["AS_EVALUATED", "VARIANTS", "ServedTokens", "Variant", "VariantUnavailable", "variant_named"]


def _built_in() -> Iterator[Variant]:
    """One of each class, those of `eager` first: the others are compared with them."""
    modules = sorted(
        (module.name for module in pkgutil.iter_modules(__path__)), key=lambda name: (name != "eager", name)
    )
    for module in (importlib.import_module(f"{__name__}.{name}") for name in modules):
        for cls in vars(module).values():
            defined_here = isinstance(cls, type) and issubclass(cls, Variant) and cls.__module__ == module.__name__
            if defined_here and not inspect.isabstract(cls):
                yield cls()


VARIANTS: dict[str, Variant] = {variant.name: variant for variant in _built_in()}


# They compute what an evaluation computes, bit for bit on the same rows. Subclasses may not.
AS_EVALUATED: tuple[type[Variant], ...] = (Fp32, Cut)


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
