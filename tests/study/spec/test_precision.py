"""The training precision of a CPU: measured, kept by a resumed study, and reported with the reason."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from study.spec import Study, precision
from study.spec.precision import ResolvedPrecision, cpu_precision, explain_precision, resolve, resumed_precision
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
    assert explain_precision(_in(study, "bf16_mixed")) == "bf16_mixed, as the recipe says; this CPU has no bf16"
    assert explain_precision(_on(_in(study, "bf16_mixed"), Resources(gpus=1))) == "bf16_mixed, as the recipe says"


@pytest.mark.parametrize(
    ("fp32", "bf16", "chosen"),
    [(130.0, 77.0, "fp32"), (100.0, 119.0, "fp32"), (100.0, 120.0, "bf16_mixed"), (60.0, 180.0, "bf16_mixed")],
)
def test_bf16_is_chosen_only_where_it_is_clearly_faster(fp32: float, bf16: float, chosen: str) -> None:
    resolved = resolve(fp32, bf16)
    assert resolved.value == chosen
    assert f"fp32 {fp32:.0f} GFLOP/s, bf16 {bf16:.0f}" in resolved.reason


def test_the_choice_follows_what_is_measured_and_not_what_the_cpu_claims(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU with the instructions and slow products trains in fp32."""
    monkeypatch.setattr("torch.cpu._is_amx_tile_supported", lambda: True)
    for seconds, chosen in (({"fp32": 1.0, "bf16": 1.7}, "fp32"), ({"fp32": 1.0, "bf16": 0.5}, "bf16_mixed")):
        monkeypatch.setattr(precision, "interleaved_medians", lambda candidates, seconds=seconds: seconds)
        precision._rates.cache_clear()
        assert cpu_precision().value == chosen
    precision._rates.cache_clear()


def test_both_precisions_are_timed_for_real() -> None:
    precision._rates.cache_clear()
    reason = cpu_precision(width=64, tokens=64).reason
    assert reason.startswith("measured here on one thread: fp32 ")


@pytest.mark.parametrize("stored", ["fp32", "bf16_mixed"])
def test_a_resumed_study_keeps_its_precision(tmp_path: Path, stored: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "study.json").write_text(json.dumps({"tuning": {"precision": stored}}))
    monkeypatch.setattr(precision, "_measured", lambda width, tokens: pytest.fail("measured again"))
    with resumed_precision(tmp_path):
        assert cpu_precision().value == stored
        assert "as the study in the output folder was started" in cpu_precision().reason


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"tuning": {"precision": "fp7"}}', '{"tuning": 3}'])
def test_a_folder_without_a_stored_precision_has_it_measured(
    tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "study.json").write_text(text)
    monkeypatch.setattr(precision, "_measured", lambda width, tokens: ResolvedPrecision("fp32", "measured"))
    with resumed_precision(tmp_path):
        assert cpu_precision().reason == "measured"
    with resumed_precision(tmp_path / "absent"):
        assert cpu_precision().reason == "measured"
