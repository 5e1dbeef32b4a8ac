"""Serving variants of a benchmark plan: built-in ones by name, a recipe's own as instances."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from study.planning.architecture import architecture_of
from study.planning.memory import serving_gb
from study.spec import BenchmarkPlan, Cascade, InvalidStudy
from tests.support import recipes
from trainables.benchmark.variants import VARIANTS, Variant
from trainables.evaluation import Forward
from trainables.models.task_model import TaskModel


class Half(Variant):
    """A variant as a recipe defines it."""

    name = "half"
    dtype = torch.float16

    def prepare(self, model: TaskModel, device: torch.device) -> Forward:
        raise NotImplementedError


class AlsoFp32(Half):
    name = "fp32"


class Nameless(Variant):
    def prepare(self, model: TaskModel, device: torch.device) -> Forward:
        raise NotImplementedError


class Spaced(Half):
    name = "Half size"


def test_a_recipes_own_variant_stands_beside_built_in_ones() -> None:
    plan = BenchmarkPlan(variants=("fp32", Half(), VARIANTS["bf16"]))
    assert plan.errors() == []
    assert plan.variant_names == ("fp32", "half", "bf16")


def test_the_memory_of_a_recipes_own_variant_is_planned() -> None:
    study = recipes.tiny()
    architecture = architecture_of(study, study.sizes[0])
    assert serving_gb(architecture, Half()) == serving_gb(architecture, "fp32") / 2


@pytest.mark.parametrize(
    ("variants", "error"),
    [
        (("fp33",), "benchmark.variants: no variant 'fp33'; built in are fp32, "),
        (("fp32", "fp32"), "benchmark.variants: 'fp32' appears twice"),
        (("half", Half()), "benchmark.variants: 'half' appears twice"),
        ((Half(), Half()), "benchmark.variants: 'half' appears twice"),
        ((AlsoFp32(),), "benchmark.variants: AlsoFp32 has the name of the built-in variant 'fp32'"),
        ((Nameless(),), "benchmark.variants: Nameless has the name None"),
        ((Spaced(),), "benchmark.variants: Spaced has the name 'Half size'"),
        ((Half,), "is neither a variant's name nor an instance of a Variant class"),
    ],
)
def test_unusable_variants_are_refused(variants: tuple[Any, ...], error: str) -> None:
    study = recipes.tiny()
    with pytest.raises(InvalidStudy) as refused:
        dataclasses.replace(study, benchmark=dataclasses.replace(study.benchmark, variants=variants))
    assert error in str(refused.value)


def test_impossible_measurements_are_refused() -> None:
    study = recipes.tiny()
    plan = dataclasses.replace(study.benchmark, repeats=0, window_s=0.0)
    with pytest.raises(InvalidStudy) as refused:
        dataclasses.replace(study, benchmark=plan)
    assert [error.split(":")[0] for error in refused.value.errors] == ["benchmark", "benchmark"]


def test_another_bound_also_changes_explicit_settings() -> None:
    plan = BenchmarkPlan(settings=BenchmarkPlan(window_s=2.0).resolved_settings())
    assert plan.with_bound(50.0).resolved_settings().bound_ms == 50.0
    assert BenchmarkPlan(window_s=2.0).with_bound(50.0).resolved_settings().bound_ms == 50.0


def test_a_study_without_a_benchmark_serves_nothing_not_even_a_cascade() -> None:
    study = recipes.tiny()
    served = dataclasses.replace(study, benchmark=dataclasses.replace(study.benchmark, cascade=Cascade()))
    assert served.replace(no_benchmark=True).benchmark == dataclasses.replace(study.benchmark, variants=())
    assert served.replace(no_benchmark=False) == served
