"""`gpu_bench` on a CPU: tiny encoders go through everything but the device."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import typer

from tests.benchmarks import gpu_bench
from tests.benchmarks.gpu_settings import of_device
from tests.support.commands import CommandResult
from trainables.benchmark.measurement import Measured, Unavailable
from trainables.benchmark.subjects.fresh import MeasurementBroke, Subject, measure_subject
from trainables.benchmark.subjects.plain import ArchitectureBenchmark


@pytest.mark.slow
def test_the_command_measures_in_fresh_processes_without_ray(
    run_without_ray: Callable[[str, str], CommandResult],
) -> None:
    done = run_without_ray("gpu_bench", "--device cpu --tiny --only mt5-xxl --variants fp32 --bandwidth-gbs 10")
    (measurement,) = done.document["measurements"]
    assert measurement["outcome"] == "measured", measurement
    # 4 bytes per parameter at 10 GB/s: millions of parameters x bytes / (GB/s) are milliseconds
    assert measurement["floor_ms"] == pytest.approx(measurement["params_body_m"] * 4 / 10)
    assert measurement["achieved"] == pytest.approx(measurement["floor_ms"] / measurement["p50_ms"])
    assert measurement["weights"] == "random"
    assert measurement["gpu_process_mb"] is None
    assert {"date", "hardware", "versions", "command", "bandwidth_gbs"} <= done.document.keys()
    assert "achieved" in done.out


@pytest.mark.slow
def test_a_measurement_that_does_not_fit_or_breaks_is_recorded_and_the_next_one_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fresh(subject: Subject, variant: str, *, limit_s: float) -> Measured | Unavailable:
        assert isinstance(subject, ArchitectureBenchmark)
        if subject.name == "xlm-r-xl":
            return Unavailable("out of memory: CUDA out of memory. Tried to allocate 2.00 GiB")
        if subject.name == "xlm-r-xxl":
            raise MeasurementBroke("fp32: the process ended with code -9")
        return measure_subject(subject, variant, scored=False)

    monkeypatch.setattr(gpu_bench, "run_fresh", fresh)
    monkeypatch.setattr(gpu_bench, "ENCODERS", ("xlm-r-xl", "xlm-r-xxl", "xlm-r-base"))
    gpu_bench.main(device="cpu", tiny=True, variants="fp32")
    document = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert [measurement["outcome"] for measurement in document["measurements"]] == ["unavailable", "failed", "measured"]
    assert "Tried to allocate" in document["measurements"][0]["reason"]
    assert document["measurements"][2]["achieved"] is None  # the table has no bandwidth for a CPU


def test_measurements_beyond_the_time_are_not_tried(capsys: pytest.CaptureFixture[str]) -> None:
    gpu_bench.main(device="cpu", tiny=True, minutes=0)
    document = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert {measurement["outcome"] for measurement in document["measurements"]} == {"not_tried"}


@pytest.mark.parametrize(
    "options",
    [
        {"device": "gpu"},
        {"device": "cpu"},
        {"device": "cpu", "tiny": True, "only": "bert"},
        {"device": "cpu", "tiny": True, "variants": "fp64"},
        {"device": "cpu", "tiny": True, "save": True},
    ],
)
def test_refusals(options: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit):
        gpu_bench.main(**options)
    assert capsys.readouterr().err.startswith("error: --")


def test_the_floor_by_hand() -> None:
    """XLM-R XXL's 9.7 billion parameters in bf16 through 3,350 GB/s."""
    assert gpu_bench.bandwidth_floor_ms(9.7e9, 2, 3350) == pytest.approx(5.79, abs=0.01)
    assert gpu_bench.bandwidth_floor_ms(9.7e9, 2, None) is None


@pytest.mark.parametrize(
    ("name", "bandwidth"),
    [
        ("NVIDIA H100 80GB HBM3", 3350),
        ("NVIDIA A100-SXM4-80GB", 2039),
        ("NVIDIA A100 80GB PCIe", 1935),
        ("NVIDIA A100-SXM4-40GB", 1555),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
        ("cpu", None),
    ],
)
def test_bandwidths_by_the_name_of_the_device(name: str, bandwidth: float | None) -> None:
    assert of_device(name, gpu_bench.BANDWIDTHS) == bandwidth


@pytest.mark.parametrize(
    ("variant", "width"), [("fp32", 4), ("bf16", 2), ("packed_bf16", 2), ("float8", 1), ("cut", 4)]
)
def test_bytes_of_a_weight(variant: str, width: int) -> None:
    assert gpu_bench.weight_bytes(variant) == width
