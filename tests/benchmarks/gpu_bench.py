"""How fast does one data-centre GPU serve the large published encoders, and how close is that to its memory bandwidth?

    python -m tests.benchmarks.gpu_bench [--only xlm-r-xl] [--variants fp32,bf16] [--save]
    python -m tests.benchmarks.gpu_bench --device cpu --tiny --bandwidth-gbs 10      # the same code on two-layer encoders

XLM-R base to XXL and the encoders of mT5 with random weights created on the device (speed does not depend on them), under the
study's own benchmark (`trainables.benchmark`): LoadGen's SingleStream, Server and Offline, memory, and energy by NVML over
windows of 5 s. Rows have XNLI's lengths. Needs neither Ray nor a network. Each measurement runs in a fresh process within a
budget of seconds; one that does not fit, fails or takes too long is recorded with its outcome, and the next one starts.

The floor of a single row is the time to read the weights once: the bytes of every parameter except the embedding tables, over
the device's peak memory bandwidth (NVIDIA's data sheets; `--bandwidth-gbs` for others). `achieved` is the floor over p50: at 1,
memory bandwidth is the only limit. `--variants` takes any, but int8 is for CPUs. `--save` writes the
document to docs/measured/ after each measurement, from a GPU only. The last line is JSON.
"""

from __future__ import annotations

import datetime
import json
import re
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NoReturn

import torch
import typer
from rich.console import Console
from rich.table import Table

from tests.benchmarks.gpu_settings import TINY, device_problem, of_device
from trainables.benchmark.measurement import Unavailable
from trainables.benchmark.probes.energy import EnergyRule
from trainables.benchmark.probes.hardware import hardware
from trainables.benchmark.probes.nvml import gpu_uuid, read_gpu
from trainables.benchmark.settings import BenchmarkSettings
from trainables.benchmark.subjects.fresh import MeasurementBroke, run_fresh
from trainables.benchmark.subjects.plain import ArchitectureBenchmark
from trainables.benchmark.variants import VARIANTS
from trainables.models.catalogue import CATALOGUE
from trainables.store.versions import versions

MEASURED = Path(__file__).parents[2] / "docs" / "measured"
ENCODERS = ("xlm-r-base", "xlm-r-large", "xlm-r-xl", "xlm-r-xxl", "mt5-base", "mt5-large", "mt5-xl", "mt5-xxl")
# The most informative first: time may run out.
USUAL = "bf16,compiled_bf16,graphed_bf16,packed_bf16,float8,fp32,fp16"
ONE_BYTE = ("float8", "int8", "cut_int8", "onnx_int8", "cut_onnx_int8")  # a weight of a matrix product
# GB/s of device memory by words of the device's name, from NVIDIA's data sheets (nvidia.com/en-us/data-center, one a card).
BANDWIDTHS = {
    "A10": 600,
    "A40": 696,
    "A100 40GB": 1555,
    "A100 80GB": 2039,
    "A100 80GB PCIe": 1935,
    "L4": 300,
    "L40S": 864,
    "H100": 3350,
    "H100 PCIe": 2000,
    "H100 NVL": 3900,
    "H200": 4800,
    "H200 NVL": 4800,
}
SETTINGS = BenchmarkSettings(
    min_duration_s=4.0,
    max_duration_s=20.0,
    batch_sizes=(1, 8, 32, 128, 512),
    sweep_s=1.0,
    probe_s=1.5,
    probes=6,
    per_language_s=0.5,
    energy=EnergyRule(windows=2, window_s=5.0, cool_down_s=1.0),
    server_s=15.0,
)
# TINY in mT5's names; its inner attention width is heads x d_kv.
TINY_CHANGES = {
    "mt5": {"vocab_size": 1000, "d_model": 32, "num_layers": 2, "num_heads": 2, "d_kv": 16, "d_ff": 128},
}

console = Console(highlight=False, width=150)
Document = dict[str, Any]

DeviceName = Annotated[str, typer.Option(help="cuda or cpu")]
Tiny = Annotated[bool, typer.Option("--tiny", help="encoders of two layers, measured for a second")]
Only = Annotated[str, typer.Option(help="encoders whose name contains this")]
Variants = Annotated[str, typer.Option(help="serving variants: fp32,bf16")]
Budget = Annotated[float, typer.Option(min=1, help="seconds a measurement may take, start-up included")]
Minutes = Annotated[float, typer.Option(min=0, help="limit for all measurements together; the rest are not tried")]
Bandwidth = Annotated[float | None, typer.Option(min=0, help="the device's peak memory bandwidth, GB/s")]
Save = Annotated[bool, typer.Option("--save", help="write the document to docs/measured/")]


@dataclass(frozen=True)
class Plan:
    """What all measurements share."""

    device: str
    tiny: bool
    bandwidth_gbs: float | None
    settings: BenchmarkSettings | None = None  # instead of this command's own

    def subject(self, encoder: str) -> ArchitectureBenchmark:
        settings = self.settings or (BenchmarkSettings.for_window(1.0) if self.tiny else SETTINGS)
        changes: tuple[tuple[str, int], ...] = ()
        if self.tiny:
            changes = tuple(TINY_CHANGES.get(CATALOGUE[encoder].encoder.family, TINY).items())
        return ArchitectureBenchmark(encoder, threads=1, settings=settings, device=self.device, changes=changes)


def main(
    device: DeviceName = "cuda",
    tiny: Tiny = False,
    only: Only = "",
    variants: Variants = USUAL,
    budget_s: Budget = 150.0,
    minutes: Minutes = 18.0,
    bandwidth_gbs: Bandwidth = None,
    save: Save = False,
) -> None:
    """Print a table and one JSON line."""
    if (problem := device_problem(device, tiny=tiny, save=save)) is not None:
        _stop(problem)
    encoders = [name for name in ENCODERS if only in name]
    if not encoders:
        _stop(f"--only {only}: no encoder of that name; there are {', '.join(ENCODERS)}")
    names = [name.strip() for name in variants.split(",")]
    if unknown := [name for name in names if name not in VARIANTS]:
        _stop(f"--variants: no variant {', '.join(unknown)}; there are {', '.join(VARIANTS)}")
    card = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    plan = Plan(device, tiny, bandwidth_gbs or of_device(card, BANDWIDTHS))
    started, document = time.perf_counter(), _context(plan, card)
    for variant in names:
        for encoder in encoders:
            left_s = 60 * minutes - (time.perf_counter() - started)
            result: Document = {"outcome": "not_tried", "reason": f"the {minutes:g} minutes were over"}
            if left_s > 0:
                result = measured(encoder, variant, plan, min(budget_s, left_s))
            document["measurements"].append({"encoder": encoder, "variant": variant, **result})
            document["wall_s"] = round(time.perf_counter() - started, 1)
            console.print(f"{encoder} {variant}: {result['outcome']} {result.get('reason', '')}", markup=False)
            if save:  # after each: the machine may be reclaimed
                _save(document, card)
    _show(document["measurements"])
    print(json.dumps(document))


def _stop(message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    raise typer.Exit(2)


def measured(encoder: str, variant: str, plan: Plan, limit_s: float) -> Document:
    """A measurement in a fresh process, with the floor and the achieved share of it; or the reason why there is none."""
    try:
        result = run_fresh(plan.subject(encoder), variant, limit_s=limit_s)
    except MeasurementBroke as error:
        return {"outcome": "failed", "reason": str(error)[:300]}
    if isinstance(result, Unavailable):
        return {"outcome": "unavailable", "reason": result.reason[:300]}
    floor_ms = bandwidth_floor_ms(result["params_body_m"] * 1e6, weight_bytes(variant), plan.bandwidth_gbs)
    achieved = None if floor_ms is None or result["p50_ms"] is None else floor_ms / result["p50_ms"]
    return {"outcome": "measured", "floor_ms": floor_ms, "achieved": achieved, **result.values}


def weight_bytes(variant: str) -> int:
    """Bytes of a weight of a matrix product; nearly all of the body are such."""
    return 1 if variant in ONE_BYTE else VARIANTS[variant].dtype.itemsize


def bandwidth_floor_ms(body: float, bytes_each: int, bandwidth_gbs: float | None) -> float | None:
    """Milliseconds to read the weights once; None where the bandwidth is unknown."""
    return None if bandwidth_gbs is None else 1000 * body * bytes_each / (bandwidth_gbs * 1e9)


def _context(plan: Plan, card: str) -> Document:
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "device": card,
        "bandwidth_gbs": plan.bandwidth_gbs,
        "tiny": plan.tiny,
        "hardware": hardware().as_dict(),
        "versions": versions(),
        "cuda": torch.version.cuda,
        "driver": read_gpu(gpu_uuid(torch.device(plan.device))).driver,
        "command": " ".join(["python", "-m", "tests.benchmarks.gpu_bench", *sys.argv[1:]]),
        "measurements": [],
    }


def _save(document: Document, card: str) -> None:
    MEASURED.mkdir(parents=True, exist_ok=True)
    slug = re.sub(r"[^a-z0-9]+", "-", card.lower())
    path = MEASURED / f"gpu_bench-{slug}-{document['date'][:19].replace(':', '')}.json"
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def _show(measurements: Sequence[Mapping[str, Any]]) -> None:
    table = Table("", "p50 ms", "p99 ms", "floor ms", "achieved", "Server/s", "Offline/s (batch)", "GB peak", "GB NVML")
    for column in ("J a sample", "idle W", "LoadGen"):
        table.add_column(column)
    for result in measurements:
        name = f"{result['encoder']} {result['variant']}"
        if result["outcome"] != "measured":
            table.add_row(name, result["outcome"])
            continue
        cells = [_number(result[key]) for key in ("p50_ms", "p99_ms", "floor_ms")]
        cells.append("n/a" if result["achieved"] is None else f"{result['achieved']:.0%}")
        cells += [_number(result["server_qps"]), f"{_number(result['throughput_sps'])} ({result['batch_size']})"]
        cells += [
            _number(None if result[key] is None else result[key] / 1e3) for key in ("peak_memory_mb", "gpu_process_mb")
        ]
        cells += [_number(result[key]) for key in ("energy_j_per_sample", "idle_power_w")]
        cells.append("/".join("VALID" if valid else "INVALID" for valid in result["valid"].values()))
        table.add_row(name, *cells)
    console.print(table)


def _number(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.4g}"


if __name__ == "__main__":
    typer.run(main)
