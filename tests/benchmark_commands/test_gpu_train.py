"""The benchmark of training on a GPU, as far as a CPU can run it: tiny encoders go through all of it but the device."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
from collections.abc import Callable
from typing import Any

import pytest
import torch
import typer

from tests.benchmarks import gpu_steps, gpu_train, row_lengths
from tests.benchmarks.gpu_settings import SETTINGS, TINY_SETTINGS, Machine, Plan, left_out, peak_of
from tests.support.commands import CommandResult
from tests.support.data import DATA_ROOT, needs_data
from trainables.data.source import DATA_ROOT_VARIABLE
from trainables.hyperparameters import OutOfMemory
from trainables.training.loop import train

LAYERS, WIDTH, INNER = 2, 32, 128
# A layer: queries, keys, values and output; the two feed-forward matrices; two norms. Outside the layers there is one more
# norm, after the embeddings in XLM-R and after the last layer in XL.
BODY = LAYERS * (4 * (WIDTH**2 + WIDTH) + 2 * WIDTH * INNER + INNER + WIDTH + 4 * WIDTH) + 2 * WIDTH
PEAK_TFLOPS, STEPS, BATCH = 0.5, 3, 8


def _check_figures(figures: dict[str, Any]) -> None:
    assert figures["outcome"] == "measured"
    assert figures["parameters_body"] == BODY
    assert figures["steps"] == STEPS
    assert figures["rows"] == STEPS * BATCH
    assert figures["tokens"] <= figures["padded_tokens"]
    assert figures["tokens_per_s"] == pytest.approx(figures["tokens"] / figures["seconds"])
    flops = 6 * BODY * figures["tokens"] + 12 * LAYERS * WIDTH * figures["sum_squared_lengths"]
    assert figures["mfu"] == pytest.approx(flops / figures["seconds"] / (PEAK_TFLOPS * 1e12))
    assert figures["window_tokens_per_s"] == pytest.approx(figures["tokens"] / figures["window_s"])
    assert figures["window_mfu"] == pytest.approx(flops / figures["window_s"] / (PEAK_TFLOPS * 1e12))
    assert 0 < figures["step_s"]["low"] <= figures["step_s"]["median"] <= figures["step_s"]["high"]
    assert figures["peak_memory_mb"] > 0
    assert figures["nvml_used_mb"] is None
    assert "not a GPU" in figures["nvml_unavailable"]


@pytest.mark.slow
def test_the_command_measures_in_a_fresh_process_without_ray(
    run_without_ray: Callable[[str, str], CommandResult],
) -> None:
    """ZeRO 3 with offload."""
    options = f"--device cpu --tiny --only xlm-r-xl --steps {STEPS} --peak-tflops {PEAK_TFLOPS}"
    document = run_without_ray("gpu_train", options).document
    (setting,) = document["settings"]
    _check_figures(setting)
    assert (setting["zero_stage"], setting["offload"], setting["activation_checkpointing"]) == (3, "parameters", True)
    assert document["xl_mfu"] == setting["mfu"]
    assert document["xxl_offload_step_s"] is None
    assert {"date", "hardware", "versions", "command", "lengths", "warm_up_steps"} <= document.keys()


@pytest.mark.slow
def test_a_setting_that_does_not_fit_is_recorded_and_the_next_one_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The loop, in this process, runs out of memory in ZeRO 3, the first setting, and trains in ZeRO 0."""

    read_every: list[int | None] = []

    def train_where_it_fits(engine: Any, *args: Any, **options: Any) -> Any:
        read_every.append(options.get("read_every"))
        if engine.zero_optimization_stage() == 3:
            raise OutOfMemory(0, 4, "CUDA out of memory. Tried to allocate 2.00 GiB")
        return train(engine, *args, **options)

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(gpu_steps, "train", train_where_it_fits)
    monkeypatch.setattr(gpu_train, "in_child", gpu_train.measured)
    monkeypatch.setattr(gpu_train, "TINY_SETTINGS", TINY_SETTINGS[::-1])
    gpu_train.main(device="cpu", tiny=True, steps=STEPS, peak_tflops=PEAK_TFLOPS)
    document = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    too_large, fitting = document["settings"]
    assert too_large["outcome"] == "out_of_memory"
    assert "Tried to allocate 2.00 GiB" in too_large["reason"]
    assert "mfu" not in too_large
    assert document["xl_mfu"] is None
    _check_figures(fitting)
    assert fitting["micro_batches"] == 2 * STEPS
    assert read_every == [1, 1, 1, None], "warm-up and single steps, then the window as in a study"


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_a_budget_of_tokens_cuts_what_is_trained_and_no_time_leaves_no_window(monkeypatch: pytest.MonkeyPatch) -> None:
    """A budget of one token: every row is a micro-batch. One step counts however little time there is."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    setting = dataclasses.replace(TINY_SETTINGS[0], micro_batch=1024, micro_batch_tokens=1)
    assert setting.name == "xlm-r-large, xnli, ZeRO 0, 1024 of 8 rows and 1 tokens, unpadded"
    figures = gpu_train.measured(setting, _plan(), limit_s=0.1)
    assert (figures["steps"], figures["micro_batches"]) == (1, BATCH)
    assert figures["window_tokens_per_s"] is None
    assert figures["window_unavailable"] == "no time was left to repeat the steps"


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), "out_of_memory"),  # while the engine is built
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), "out_of_memory"),
        (MemoryError(), "out_of_memory"),
        (RuntimeError("no such kernel"), "failed"),
    ],
)
def test_failures_are_distinguished_from_lack_of_memory(
    monkeypatch: pytest.MonkeyPatch, error: Exception, outcome: str
) -> None:
    def raises(*_: Any) -> None:
        raise error

    monkeypatch.setattr(gpu_train, "_figures", raises)
    assert gpu_train.measured(TINY_SETTINGS[0], _plan(), 60)["outcome"] == outcome


def test_a_setting_that_takes_too_long_is_stopped() -> None:
    before = set(multiprocessing.active_children())
    result = gpu_train.in_child(TINY_SETTINGS[0], _plan(), limit_s=0.1)
    assert result["outcome"] == "timed_out"
    assert set(multiprocessing.active_children()) <= before


def test_settings_are_not_tried_once_the_time_is_over(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    gpu_train.main(device="cpu", tiny=True, minutes=0)
    document = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert [setting["outcome"] for setting in document["settings"]] == ["not_tried", "not_tried"]


@pytest.mark.parametrize(
    ("machine", "refused"),
    [
        # An H200 with 128 GB of host memory: XXL is left out but for its first 16 and 32 layers, and both offloads of it.
        (
            Machine(150, 120),
            {"xlm-r-xxl, xnli, ZeRO 0", "xlm-r-xxl, xnli, ZeRO 3, optimizer", "xlm-r-xxl, xnli, ZeRO 3, par"},
        ),
        (Machine(400, 2000), set()),
    ],
)
def test_settings_that_the_machine_cannot_hold_are_left_out_with_the_reason(
    machine: Machine, refused: set[str]
) -> None:
    rows = row_lengths.committed().rows_looked_up
    reasons = {setting.name: left_out(setting, machine, rows) for setting in SETTINGS}
    out = {name: reason for name, reason in reasons.items() if reason is not None}
    assert len(out) == len(refused), out
    assert all(any(name.startswith(start) for start in refused) for name in out)
    for name, reason in out.items():
        assert ("of host memory, of which 120 are available" if "offloaded" in name else "GB on the GPU") in reason


def test_a_setting_that_is_left_out_starts_no_process(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a GPU of one GB; the command's own checks of the device are answered for it."""
    monkeypatch.setattr(gpu_train, "device_problem", lambda *_, **__: None)
    monkeypatch.setattr(gpu_train, "in_child", lambda *_: pytest.fail("a setting that does not fit was started"))
    monkeypatch.setattr(gpu_train, "_context", lambda *_: {"settings": []})
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H200")
    monkeypatch.setattr(Machine, "here", classmethod(lambda _: Machine(1, 1)))
    gpu_train.main(device="cuda", only="xlm-r-xxl")
    settings = json.loads(capsys.readouterr().out.strip().splitlines()[-1])["settings"]
    assert {setting["outcome"] for setting in settings} == {"left_out"}
    assert len(settings) == 5
    assert all("GB on the GPU, which has 1" in setting["reason"] for setting in settings)


def test_model_flops_by_hand() -> None:
    """A body of 10 parameters, 2 layers of width 3: rows of 1 and 5 tokens take 60 + 72 and 300 + 1,800."""
    assert gpu_train.model_flops(body=10, layers=2, attention_width=3, lengths=[1, 5]) == 132 + 2100


def test_goals_take_the_best_setting() -> None:
    def setting(encoder: str, offload: str, mfu: float | None, step_s: float) -> dict[str, Any]:
        return {
            **{"outcome": "measured", "encoder": encoder, "offload": offload, "mfu": mfu},
            **{"step_s": {"median": step_s}, "peak_memory_mb": 1000 * step_s, "start_peak_memory_mb": 45_000},
        }

    settings = [
        setting("xlm-r-large", "none", 0.6, 1.0),
        setting("xlm-r-xl", "none", 0.41, 1.0),
        setting("xlm-r-xl", "optimizer", 0.12, 1.0),
        setting("xlm-r-xxl", "none", 0.5, 1.0),
        setting("xlm-r-xxl", "optimizer", 0.2, 20.0),
        setting("xlm-r-xxl", "parameters", 0.1, 30.0),
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


def test_measurements_on_a_cpu_are_not_saved(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit):
        gpu_train.main(device="cpu", tiny=True, save=True)
    assert "--save" in capsys.readouterr().err


def test_committed_lengths() -> None:
    """XNLI's English dev set has 2,490 pairs; UD English-EWT has 12,543 training sentences, a few split into windows."""
    lengths = row_lengths.committed()
    assert len(lengths.of("xnli")) == 2490
    assert len(lengths.of("udpos")) >= 12_543
    assert all(3 <= rows[0] <= rows[-1] <= row_lengths.MAX_LENGTH for rows in map(lengths.of, lengths.counts))


@pytest.mark.slow
@needs_data
def test_committed_lengths_are_those_of_the_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DATA_ROOT_VARIABLE, str(DATA_ROOT))  # monkeypatch restores it: reading sets it
    assert row_lengths.read_lengths(DATA_ROOT) == row_lengths.committed()


def _plan() -> Plan:
    return Plan("cpu", True, STEPS, row_lengths.committed(), PEAK_TFLOPS)
