"""The benchmark of serving on a GPU, as far as a CPU can run it: tiny encoders go through all of it but the device."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from torch import Tensor

from tests.benchmarks import gpu_bench
from tests.benchmarks.gpu_settings import of_device
from tests.conftest import ROOT
from trainables.benchmark.subjects.fresh import MeasurementBroke, Subject, outcome
from trainables.benchmark.subjects.plain import ArchitectureBenchmark
from trainables.benchmark.variants.compiled import GraphedRows, graph_length


def test_the_command_measures_in_processes_of_their_own_without_ray(tmp_path: Path) -> None:
    (tmp_path / "ray.py").write_text("raise ImportError('there is no Ray here')\n")
    options = "--device cpu --tiny --only mt5-xxl --variants fp32 --bandwidth-gbs 10"
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.gpu_bench", *options.split()],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout.strip().splitlines()[-1])
    (one,) = document["measurements"]
    assert one["outcome"] == "measured", one
    assert one["floor_ms"] == pytest.approx(
        one["params_body_m"] * 4 / 10
    )  # 4 bytes each at 10 GB/s: M x bytes / GB/s are ms
    assert one["achieved"] == pytest.approx(one["floor_ms"] / one["p50_ms"])
    assert one["weights"] == "random"
    assert one["gpu_process_mb"] is None
    assert {"date", "hardware", "versions", "command", "bandwidth_gbs"} <= document.keys()
    assert "achieved" in done.stdout


def test_what_does_not_fit_or_breaks_is_recorded_and_the_next_one_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fresh(subject: Subject, variant: str, *, limit_s: float) -> dict[str, Any] | str:
        assert isinstance(subject, ArchitectureBenchmark)
        if subject.name == "xlm-r-xl":
            return "out of memory: CUDA out of memory. Tried to allocate 2.00 GiB"
        if subject.name == "xlm-r-xxl":
            raise MeasurementBroke("fp32: the process ended with code -9")
        return outcome(subject, variant, scored=False)

    monkeypatch.setattr(gpu_bench, "run_fresh", fresh)
    monkeypatch.setattr(gpu_bench, "ENCODERS", ("xlm-r-xl", "xlm-r-xxl", "xlm-r-base"))
    gpu_bench.main(device="cpu", tiny=True, variants="fp32")
    document = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert [one["outcome"] for one in document["measurements"]] == ["unavailable", "failed", "measured"]
    assert "Tried to allocate" in document["measurements"][0]["reason"]
    assert document["measurements"][2]["achieved"] is None  # the bandwidth of a CPU is not in the table


def test_measurements_beyond_the_time_are_not_tried(capsys: pytest.CaptureFixture[str]) -> None:
    gpu_bench.main(device="cpu", tiny=True, minutes=0)
    document = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert {one["outcome"] for one in document["measurements"]} == {"not_tried"}


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


class Replayed:
    """Stands in for a CUDA graph: replaying computes from the fixed inputs into the fixed output."""

    def __init__(self, rows: GraphedRows, length: int) -> None:
        self.ids, self.mask = torch.zeros(1, length, dtype=torch.long), torch.zeros(1, length, dtype=torch.long)
        self.output = torch.zeros(1, length, 2)
        self._rows = rows

    def replay(self) -> None:
        self.output.copy_(self._rows._forward(self.ids, self.mask))


def test_a_row_is_padded_to_its_graph_and_cut_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Recording needs a GPU; what goes in and comes out does not."""
    recorded: list[int] = []

    def record(rows: GraphedRows, length: int, device: torch.device) -> Any:
        recorded.append(length)
        graph = Replayed(rows, length)
        return graph, graph.ids, graph.mask, graph.output

    def forward(ids_NL: Tensor, mask_NL: Tensor) -> Tensor:
        return torch.stack([ids_NL * mask_NL, mask_NL], dim=-1).float()

    monkeypatch.setattr(GraphedRows, "_record", record)
    rows = GraphedRows(forward, pad_id=1)
    long, short = torch.arange(10, 30)[None], torch.arange(40, 57)[None]
    for ids_NL in (long, short):
        found = rows(ids_NL, torch.ones_like(ids_NL))
        assert found[0, :, 0].tolist() == ids_NL[0].tolist()
        assert found.shape == (1, ids_NL.shape[1], 2)
    assert recorded == [32]  # 20 and 17 tokens share a graph
    two = torch.ones(2, 5, dtype=torch.long)
    assert rows(two, two).shape == (2, 5, 2)  # a batch goes its own way
    assert recorded == [32]
    assert [graph_length(length) for length in (1, 16, 17)] == [16, 16, 32]
