"""The training precision that a study reports, and why."""

from __future__ import annotations

import dataclasses

import pytest

from study.spec import Study, precision
from study.spec.precision import ResolvedPrecision, explain_precision
from tests.support import recipes
from trainables.hyperparameters import Precision
from trainables.resources import Resources


def _on(study: Study, resources: Resources) -> Study:
    return dataclasses.replace(
        study, sizes=tuple(dataclasses.replace(size, resources=resources) for size in study.sizes)
    )


def _in(study: Study, chosen: Precision) -> Study:
    return dataclasses.replace(study, tuning=dataclasses.replace(study.tuning, precision=chosen))


def test_the_reason_depends_on_the_sizes_devices_and_on_this_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "cpu_precision", lambda: ResolvedPrecision("fp32", "this CPU has no bf16"))
    study = recipes.inline()
    assert explain_precision(_in(study, "fp32")) == "fp32 (this CPU has no bf16)"
    assert explain_precision(_in(study, "bf16_mixed")) == "bf16_mixed, as the recipe says, though this CPU has no bf16"
    assert explain_precision(_on(_in(study, "bf16_mixed"), Resources(gpus=1))) == "bf16_mixed, as the recipe says"
