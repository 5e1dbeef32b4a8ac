"""The benchmark of training on a GPU, as far as a CPU can run it: tiny encoders go through all of it but the device."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import typer

from tests.benchmarks import gpu_train, row_lengths
from tests.benchmarks.gpu_settings import TINY_SETTINGS, Plan, peak_of
from tests.conftest import ROOT
from tests.support.data import DATA_ROOT, needs_data
from trainables.data.source import DATA_ROOT_VARIABLE
from trainables.hyperparameters import OutOfMemory
from trainables.training.loop import train

LAYERS, WIDTH, INNER = 2, 32, 128
# A layer: queries, keys, values and output; the two feed-forward matrices; two norms. Beside the layers one more norm, after
# the embeddings in XLM-R and after the last layer in XL.
BODY = LAYERS * (4 * (WIDTH**2 + WIDTH) + 2 * WIDTH * INNER + INNER + WIDTH + 4 * WIDTH) + 2 * WIDTH
PEAK_TFLOPS, STEPS, BATCH = 0.5, 3, 8


def _check_figures(one: dict[str, Any]) -> None:
    assert one["outcome"] == "measured"
    assert one["parameters_body"] == BODY
    assert one["steps"] == STEPS
    assert one["rows"] == STEPS * BATCH
    assert one["tokens"] <= one["padded_tokens"]
    assert one["tokens_per_s"] == pytest.approx(one["tokens"] / one["seconds"])
    flops = 6 * BODY * one["tokens"] + 12 * LAYERS * WIDTH * one["sum_squared_lengths"]
    assert one["mfu"] == pytest.approx(flops / one["seconds"] / (PEAK_TFLOPS * 1e12))
    assert 0 < one["step_s"]["low"] <= one["step_s"]["median"] <= one["step_s"]["high"]
    assert one["peak_memory_mb"] > 0
    assert one["nvml_used_mb"] is None
    assert "not a GPU" in one["nvml_unavailable"]


def test_the_command_measures_in_a_process_of_its_own(tmp_path: Path) -> None:
    """ZeRO 3 with offload, as a user runs it, on a machine that has no Ray."""
    (tmp_path / "ray.py").write_text("raise ImportError('there is no Ray here')\n")
    options = f"--device cpu --tiny --only xlm-r-xl --steps {STEPS} --peak-tflops {PEAK_TFLOPS}"
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.gpu_train", *options.split()],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout.strip().splitlines()[-1])
    (one,) = document["settings"]
    _check_figures(one)
    assert (one["zero_stage"], one["offload"], one["activation_checkpointing"]) == (3, "parameters", True)
    assert document["xl_mfu"] == one["mfu"]
    assert document["xxl_offload_step_s"] is None
    assert {"date", "hardware", "versions", "command", "lengths", "precision", "warm_up_steps"} <= document.keys()


def test_what_does_not_fit_is_recorded_and_the_next_setting_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In this process: the loop runs out of memory in ZeRO 3, which stands first, and trains in ZeRO 0."""

    def train_where_it_fits(engine: Any, *args: Any, **options: Any) -> Any:
        if engine.zero_optimization_stage() == 3:
            raise OutOfMemory(0, 4, "CUDA out of memory. Tried to allocate 2.00 GiB")
        return train(engine, *args, **options)

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(gpu_train, "train", train_where_it_fits)
    monkeypatch.setattr(gpu_train, "in_child", gpu_train.measured)
    monkeypatch.setattr(gpu_train, "TINY_SETTINGS", TINY_SETTINGS[::-1])
    gpu_train.main(device="cpu", tiny=True, steps=STEPS, peak_tflops=PEAK_TFLOPS)
    document = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    lacking, fitting = document["settings"]
    assert lacking["outcome"] == "out_of_memory"
    assert "Tried to allocate 2.00 GiB" in lacking["reason"]
    assert "mfu" not in lacking
    assert document["xl_mfu"] is None
    _check_figures(fitting)


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), "out_of_memory"),  # while the engine is built
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), "out_of_memory"),
        (MemoryError(), "out_of_memory"),
        (RuntimeError("no such kernel"), "failed"),
    ],
)
def test_failures_are_told_apart(monkeypatch: pytest.MonkeyPatch, error: Exception, outcome: str) -> None:
    def raises(*_: Any) -> None:
        raise error

    monkeypatch.setattr(gpu_train, "_figures", raises)
    assert gpu_train.measured(TINY_SETTINGS[0], _plan(), 60)["outcome"] == outcome


def test_a_setting_that_takes_too_long_is_ended() -> None:
    others = set(multiprocessing.active_children())
    result = gpu_train.in_child(TINY_SETTINGS[0], _plan(), limit_s=0.1)
    assert result["outcome"] == "timed_out"
    assert set(multiprocessing.active_children()) <= others


def test_settings_beyond_the_time_are_not_tried(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    gpu_train.main(device="cpu", tiny=True, minutes=0)
    document = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert [one["outcome"] for one in document["settings"]] == ["not_tried", "not_tried"]


def test_model_flops_by_hand() -> None:
    """A body of 10 parameters, 2 layers of width 3: rows of 1 and 5 tokens take 60 + 72 and 300 + 1,800."""
    assert gpu_train.model_flops(body=10, layers=2, attention_width=3, lengths=[1, 5]) == 132 + 2100


def test_goals_read_the_best_setting() -> None:
    def one(encoder: str, offload: str, mfu: float | None, step_s: float) -> dict[str, Any]:
        return {
            **{"outcome": "measured", "encoder": encoder, "offload": offload, "mfu": mfu},
            **{"step_s": {"median": step_s}, "peak_memory_mb": 1000 * step_s, "start_peak_memory_mb": 45_000},
        }

    settings = [
        one("xlm-r-large", "none", 0.6, 1.0),
        one("xlm-r-xl", "none", 0.41, 1.0),
        one("xlm-r-xl", "optimizer", 0.12, 1.0),
        one("xlm-r-xxl", "none", 0.5, 1.0),
        one("xlm-r-xxl", "optimizer", 0.2, 20.0),
        one("xlm-r-xxl", "parameters", 0.1, 30.0),
        {"outcome": "out_of_memory", "encoder": "xlm-r-xl", "offload": "none"},
    ]
    assert gpu_train.goals(settings) == {
        "xl_mfu": 0.41,
        "xxl_offload_step_s": 20.0,
        "xxl_offload_peak_memory_mb": 45_000,
    }


@pytest.mark.parametrize(
    ("name", "tflops"),
    [
        ("NVIDIA H100 80GB HBM3", 989.5),
        ("NVIDIA H100 PCIe", 756.5),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA L40S", 366.5),
        ("NVIDIA A10G", None),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
        ("cpu", None),
    ],
)
def test_peaks_by_the_name_of_the_device(name: str, tflops: float | None) -> None:
    assert peak_of(name) == tflops


@pytest.mark.parametrize(
    "options", [{"device": "gpu"}, {"device": "cpu"}, {"only": "bert", "device": "cpu", "tiny": True}]
)
def test_refusals(options: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit):
        gpu_train.main(**options)
    assert capsys.readouterr().err.startswith("error: --")


def test_measurements_of_a_cpu_are_not_kept(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit):
        gpu_train.main(device="cpu", tiny=True, save=True)
    assert "--save" in capsys.readouterr().err


def test_committed_lengths() -> None:
    """2,490 pairs of XNLI's English dev set; windows of UD English-EWT's 12,543 training sentences, a few of them split."""
    lengths = row_lengths.committed()
    assert len(lengths.of("xnli")) == 2490
    assert len(lengths.of("udpos")) >= 12_543
    assert all(3 <= some[0] <= some[-1] <= row_lengths.MAX_LENGTH for some in map(lengths.of, lengths.counts))


@needs_data
def test_committed_lengths_are_those_of_the_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DATA_ROOT_VARIABLE, str(DATA_ROOT))  # restored afterwards: reading sets it
    assert row_lengths.read_lengths(DATA_ROOT) == row_lengths.committed()


def _plan() -> Plan:
    return Plan("cpu", True, STEPS, row_lengths.committed(), PEAK_TFLOPS)
