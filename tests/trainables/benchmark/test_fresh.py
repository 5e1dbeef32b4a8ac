"""Measuring in fresh processes."""

from __future__ import annotations

import dataclasses
import os
import time

import pytest
import torch

from trainables.benchmark import VariantUnavailable
from trainables.benchmark.measurement import Measured, Unavailable
from trainables.benchmark.subjects.fresh import MeasurementBroke, measure_subject, run_fresh
from trainables.benchmark.variants import Variant


@dataclasses.dataclass(frozen=True)
class Obedient:
    """A subject that does what its variant is called."""

    def run(self, variant: str | Variant, *, scored: bool = True) -> Measured:
        if variant == "unavailable":
            raise VariantUnavailable("unavailable", "no such kernel")
        if variant == "memory":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB\nand more")
        if variant == "dies":
            os._exit(7)
        if variant == "sleeps":
            time.sleep(60)
        if variant == "raises":
            raise KeyError("lost weights")
        cache = os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"]
        return Measured({"pid": os.getpid(), "scored": scored, "cache": cache})


@pytest.mark.slow
def test_a_fresh_process_measures_with_the_environment_of_serving(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "128")
    measured = run_fresh(Obedient(), "fine", scored=False)
    assert isinstance(measured, Measured)
    assert measured["pid"] != os.getpid()
    assert measured["scored"] is False
    assert measured["cache"] == "1024"
    assert os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] == "128"


@pytest.mark.slow
def test_a_variant_that_cannot_run_has_a_reason_and_one_that_breaks_raises() -> None:
    assert measure_subject(Obedient(), "unavailable", scored=True) == Unavailable("no such kernel")
    memory = measure_subject(Obedient(), "memory", scored=True)
    assert memory == Unavailable("out of memory: CUDA out of memory. Tried to allocate 2.00 GiB")
    with pytest.raises(KeyError):
        measure_subject(Obedient(), "raises", scored=True)
    with pytest.raises(MeasurementBroke, match="ended with code 7"):
        run_fresh(Obedient(), "dies")
    with pytest.raises(MeasurementBroke, match="no result after 0 s"):
        run_fresh(Obedient(), "sleeps", limit_s=0.05)
