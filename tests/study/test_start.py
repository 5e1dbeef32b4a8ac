"""What is said and refused before a study does any work."""

from __future__ import annotations

import dataclasses
from contextlib import nullcontext
from pathlib import Path

import pytest

from study.cluster.connection import CannotRun
from study.run import driver
from study.run.driver import Where, run_study
from study.spec import Study, precision
from study.spec.precision import ResolvedPrecision, explained
from tests.support import recipes
from trainables.hyperparameters import Precision
from trainables.resources import Resources


def _on(study: Study, resources: Resources) -> Study:
    return dataclasses.replace(study, sizes=tuple(dataclasses.replace(one, resources=resources) for one in study.sizes))


def _in(study: Study, chosen: Precision) -> Study:
    return dataclasses.replace(study, tuning=dataclasses.replace(study.tuning, precision=chosen))


@pytest.fixture
def without_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "cpu_precision", lambda: ResolvedPrecision("fp32", "this CPU has no bf16"))


def test_what_no_node_holds_is_refused_before_data_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def too_small(*_: object) -> None:
        raise CannotRun("too small")

    monkeypatch.setattr(driver, "connected", lambda address, cpus: nullcontext())
    monkeypatch.setattr(driver, "room_on", too_small)
    monkeypatch.setattr(driver, "check_data", lambda *_: pytest.fail("data were read"))
    with pytest.raises(CannotRun, match="too small"):
        run_study(recipes.inline(), Where(tmp_path / "out"))


@pytest.mark.usefixtures("without_bf16")
def test_the_reason_of_a_precision_is_that_of_the_study_and_not_of_the_driver_s_cpu() -> None:
    study = recipes.inline()
    assert explained(_in(study, "fp32")) == "fp32 (this CPU has no bf16)"
    assert explained(_in(study, "bf16_mixed")) == "bf16_mixed, as the recipe says, though this CPU has no bf16"
    assert explained(_on(_in(study, "bf16_mixed"), Resources(gpus=1))) == "bf16_mixed, as the recipe says"


@pytest.mark.usefixtures("without_bf16")
def test_a_study_begun_on_a_cpu_with_other_instructions_is_refused_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "connected", lambda address, cpus: (_ for _ in ()).throw(CannotRun("far enough")))
    with pytest.raises(CannotRun, match="far enough"):
        run_study(_in(recipes.inline(), "bf16_mixed"), Where(tmp_path / "out"))
    with pytest.raises(
        CannotRun, match=r"different tuning.*begun in bf16_mixed.*here .* fp32 \(this CPU has no bf16\)"
    ):
        run_study(_in(recipes.inline(), "fp32"), Where(tmp_path / "out"))
