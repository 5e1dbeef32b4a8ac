"""How the best model of each size is benchmarked."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from trainables.benchmark.measurement import CASCADE
from trainables.benchmark.settings import BOUND_MS, SCENARIOS, BenchmarkSettings, Scenario
from trainables.benchmark.variants import VARIANTS, Variant

VARIANT_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]*")  # names files and MLflow runs


@dataclass(frozen=True)
class Cascade:
    """Two sizes' best models served together: the smaller one answers where it is sure, the larger one elsewhere.

    `loss`: how many points of English dev a task may lose against the larger model. The fewest examples that this takes are
    passed on (`analysis.tables.cascades.prediction`).
    """

    loss: float = 0.5


@dataclass(frozen=True)
class BenchmarkPlan:
    """Which serving variants of each size's best model are scored and timed, for how long, on how many threads.

    `variants` names built-in ones or holds instances of a recipe's own `Variant` classes. Each variant is measured `repeats`
    times, in turn with the others and each time in a fresh process. Server keeps its p99 latency within `bound_ms`. `device`
    "auto" takes a GPU if the cluster has one, always a whole one. `gpu_memory_gb` is the least memory that it must have, in GB
    as on data sheets; `accelerator_type`, the kind of GPU by Ray's name, insists on one instead. `settings` overrides
    `window_s`, `scenarios` and `bound_ms`. With `early`, the encoders are timed before the search as well, with untrained heads
    and only briefly (`study.benchmarking.early`). With a `cascade`, the pair of sizes for which English dev and the measured
    speeds predict most is served as one more variant.
    """

    variants: tuple[str | Variant, ...] = ("fp32",)
    window_s: float = 60.0
    threads: int = 1
    repeats: int = 5
    scenarios: tuple[Scenario, ...] = SCENARIOS
    bound_ms: float = BOUND_MS
    device: Literal["auto", "cpu", "cuda"] = "auto"
    accelerator_type: str | None = None
    gpu_memory_gb: float | None = None
    settings: BenchmarkSettings | None = None
    early: bool = False
    cascade: Cascade | None = None

    @property
    def variant_names(self) -> tuple[str, ...]:
        return tuple(variant if isinstance(variant, str) else variant.name for variant in self.variants)

    def resolved_settings(self) -> BenchmarkSettings:
        """The settings of every measurement.

        Raises:
            ValueError: the window, the scenarios or the bound are invalid.
        """
        if self.settings is not None:
            return self.settings
        return BenchmarkSettings.for_window(self.window_s, scenarios=self.scenarios, bound_ms=self.bound_ms)

    def with_bound(self, bound_ms: float) -> BenchmarkPlan:
        """The same plan with another latency bound for Server."""
        settings = None if self.settings is None else dataclasses.replace(self.settings, bound_ms=bound_ms)
        return dataclasses.replace(self, bound_ms=bound_ms, settings=settings)

    def without_variants(self) -> BenchmarkPlan:
        """The same plan with nothing to serve, so that nothing is timed."""
        return dataclasses.replace(self, variants=(), cascade=None)

    @property
    def _scenarios(self) -> tuple[Scenario, ...]:
        return self.scenarios if self.settings is None else self.settings.scenarios

    def errors(self) -> list[str]:
        """Everything that makes the plan invalid, by field."""
        errors = [*self._variant_errors()]
        if self.repeats < 1 or self.threads < 1:
            errors.append(f"benchmark: repeats {self.repeats} and threads {self.threads} must be at least 1")
        if self.gpu_memory_gb is not None and not self.gpu_memory_gb > 0:
            errors.append(f"benchmark.gpu_memory_gb {self.gpu_memory_gb}: must be positive, or None for any GPU")
        if self.cascade is not None and not self.cascade.loss >= 0:
            errors.append(f"benchmark.cascade: loss {self.cascade.loss} points must not be negative")
        if self.cascade is not None and not (self.variants and "SingleStream" in self._scenarios):
            errors.append("benchmark.cascade: a cascade is chosen by the variants' SingleStream, so both are needed")
        try:
            self.resolved_settings()
        except ValueError as error:
            errors.append(f"benchmark: {error}")
        return errors

    def _variant_errors(self) -> Iterator[str]:
        names: list[str | None] = []
        for variant in self.variants:
            if isinstance(variant, str):
                if variant not in VARIANTS:
                    yield f"benchmark.variants: no variant {variant!r}; built in are {', '.join(VARIANTS)}"
                names.append(variant)
            elif isinstance(variant, Variant):
                yield from _own_variant_errors(variant)
                names.append(getattr(variant, "name", None))
            else:
                yield f"benchmark.variants: {variant!r} is neither a variant's name nor an instance of a Variant class"
        yield from (
            f"benchmark.variants: {name!r} appears twice; measurements are kept by name"
            for name, count in Counter(names).items()
            if count > 1 and name is not None
        )


DEFAULT_BENCHMARK = BenchmarkPlan()


def _own_variant_errors(variant: Variant) -> Iterator[str]:
    name = getattr(variant, "name", None)
    if not isinstance(name, str) or not VARIANT_NAME.fullmatch(name):
        yield (
            f"benchmark.variants: {type(variant).__name__} has the name {name!r}; its class needs a `name` of lower-case "
            "letters, digits, ., - and _ (it names files)"
        )
    elif name == CASCADE:
        yield f"benchmark.variants: {type(variant).__name__} has the name of the cascade of two sizes; give it another"
    elif name in VARIANTS and type(VARIANTS[name]) is not type(variant):
        yield f"benchmark.variants: {type(variant).__name__} has the name of the built-in variant {name!r}; give it another"
