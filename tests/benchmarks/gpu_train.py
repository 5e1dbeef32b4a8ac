"""How fast do the large published encoders fine-tune on one data-centre GPU, and which settings fit it?

    python -m tests.benchmarks.gpu_train [--data-root ../shared/data] [--only xlm-r-xl] [--save]
    python -m tests.benchmarks.gpu_train --device cpu --tiny --peak-tflops 1      # the same code on two-layer encoders

XLM-R large, XL and XXL with random weights created on the device (speed does not depend on them), under the study's loop
(`trainables.training.loop.train`: DeepSpeed engine, length buckets, fp32 weights and optimizer with bf16 products), head and
vocabulary trimming; ZeRO 0 and 3, with and without offload, padding and compiled layers. Rows have the lengths of XNLI's and
UD's (`row_lengths`) and random words, as many different ones as these data contain. Needs neither Ray nor a network. Every
setting runs in a fresh process within a budget of seconds; one that does not fit, fails or takes too long is recorded with its
outcome, and the next one starts.

Each step ends with a synchronisation of the device; warm-up steps do not count. Then the same steps run once more as in a
study, which does not wait for the device between two reads of the losses: `window_tokens_per_s` and `window_mfu` are over all
of them together. Reported per second:

    tokens   without padding
    MFU      share of the device's peak: sum over rows of n tokens of 6 x body x n + 12 x layers x attention width x n^2,
             over seconds and peak. `body` is every parameter of the encoder except its embedding tables; 6 and 12 count
             forward and backward (Korthikanti et al. 2022, arXiv 2205.05198). Padding, head, optimizer and the recomputation
             of activation checkpointing do not count as work.

Peak memory is that of torch's allocator from the first counted step on, and separately before it (building the engine, first
steps), with the device memory in use at the end according to NVML and the peak resident set of the process. Peak FLOP rates are
those of NVIDIA's data sheets for dense bf16; `--peak-tflops` for other devices.

A setting that this machine's GPU or host memory cannot hold, by estimate, is left out with the reason. Offload needs host
memory: DeepSpeed keeps a second fp32 copy of the weights in addition to gradients and moments, 20 bytes a parameter in total,
about 200 GB for XXL. Of XXL the first 16 and 32 layers are measured too, which one card of 80 or 141 GB holds without.

Goals: at least 45% MFU for XL in bf16 on one H100 (`xl_mfu`, the best setting); an XXL step that fits 80 GB with offload
(`xxl_offload_step_s` is not null and its peak is below that). `--save` writes the document to docs/measured/, from a GPU only.
The last line is one JSON document.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import re
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Annotated, Any, NoReturn

import torch
import typer
from rich.console import Console
from rich.table import Table

from study.planning.operations import row_flops
from tests.benchmarks import children, row_lengths
from tests.benchmarks.children import Document, outcome_of
from tests.benchmarks.gpu_settings import (
    SETTINGS,
    TINY_SETTINGS,
    XL,
    XXL,
    Machine,
    Plan,
    Setting,
    device_problem,
    left_out,
    peak_of,
)
from tests.benchmarks.gpu_steps import WARM_UP, prepared, start_device
from trainables.benchmark.probes.hardware import hardware
from trainables.benchmark.probes.memory import PeakMemory, host_peak_mb
from trainables.benchmark.probes.nvml import gpu_uuid, read_gpu
from trainables.data.source import DataError
from trainables.heads.base import padded_length
from trainables.store.versions import PACKAGES

MEASURED = Path(__file__).parents[2] / "docs" / "measured"

console = Console(highlight=False, width=140)
DeviceName = Annotated[str, typer.Option(help="cuda or cpu")]
Tiny = Annotated[bool, typer.Option("--tiny", help="encoders of two layers, two settings")]
DataRoot = Annotated[Path | None, typer.Option(help="count lengths in its files instead of the committed histogram")]
Only = Annotated[str, typer.Option(help="settings whose name contains this")]
Steps = Annotated[int, typer.Option(min=1, help="steps that count; fewer where the budget is used up")]
Budget = Annotated[float, typer.Option(min=1, help="seconds a setting may take, start-up included")]
Minutes = Annotated[float, typer.Option(min=0.1, help="limit for all settings together; the rest are not tried")]
PeakTflops = Annotated[float | None, typer.Option(min=0, help="the device's dense bf16 peak")]
Save = Annotated[bool, typer.Option("--save", help="write the document to docs/measured/")]


def main(
    device: DeviceName = "cuda",
    tiny: Tiny = False,
    data_root: DataRoot = None,
    only: Only = "",
    steps: Steps = 12,
    budget_s: Budget = 180.0,
    minutes: Minutes = 18.0,
    peak_tflops: PeakTflops = None,
    save: Save = False,
) -> None:
    """Print a table and one JSON line."""
    if (problem := device_problem(device, tiny=tiny, save=save)) is not None:
        _stop(problem)
    if device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # for the child processes: DeepSpeed uses a GPU if it sees one
    settings = [setting for setting in (TINY_SETTINGS if tiny else SETTINGS) if only in setting.name]
    if not settings:
        _stop(f"--only {only}: no setting of that name; names begin with the encoder's, such as {XL}")
    try:
        lengths = row_lengths.committed() if data_root is None else row_lengths.read_lengths(data_root)
    except (DataError, OSError) as error:
        _stop(str(error))
    name = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    plan = Plan(device, tiny, steps, lengths, peak_tflops or peak_of(name))
    machine = Machine.here() if device == "cuda" else None
    started, document = time.perf_counter(), _context(plan, name)
    for setting in settings:
        left_s = 60 * minutes - (time.perf_counter() - started)
        result: Document = {"outcome": "not_tried", "reason": f"the {minutes:g} minutes were over"}
        if machine is not None and (reason := left_out(setting, machine, plan.rows_looked_up)) is not None:
            result = {"outcome": "left_out", "reason": reason}
        elif left_s > 0:
            result = in_child(setting, plan, min(budget_s, left_s))
        document["settings"].append({"name": setting.name, **asdict(setting), **result})
        document |= goals(document["settings"]) | {"wall_s": round(time.perf_counter() - started, 1)}
        console.print(f"{setting.name}: {result['outcome']} {result.get('reason', '')}", markup=False)
        if save:  # after each: the machine may be reclaimed
            _save(document, name)
    _show(document["settings"])
    print(json.dumps(document))


def _stop(message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    raise typer.Exit(2)


# --- the document


def model_flops(*, body: int, layers: int, attention_width: int, lengths: Sequence[int]) -> float:
    """Floating-point operations of training on rows of these lengths, by the formula in the module's docstring."""
    return sum(row_flops(n, body=body, layers=layers, attention_width=attention_width) for n in lengths)


def goals(settings: Sequence[Mapping[str, Any]]) -> Document:
    """The best MFU of XL, and the fastest step of XXL with offload with its peak memory, building the engine included.

    None where nothing was measured.
    """
    finished = [setting for setting in settings if setting["outcome"] == "measured"]
    xl = [setting["mfu"] for setting in finished if setting["encoder"] == XL and setting["mfu"] is not None]
    xxl = [setting for setting in finished if setting["encoder"] == XXL and setting["offload"] != "none"]
    reached: Document = {
        "xl_mfu": max(xl, default=None),
        "xxl_offload_step_s": None,
        "xxl_offload_peak_memory_mb": None,
    }
    if xxl:
        fastest = min(xxl, key=lambda setting: setting["step_s"]["median"])
        reached["xxl_offload_step_s"] = fastest["step_s"]["median"]
        reached["xxl_offload_peak_memory_mb"] = max(fastest["peak_memory_mb"], fastest["start_peak_memory_mb"])
    return reached


def _context(plan: Plan, name: str) -> Document:
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "device": name,
        "peak_tflops": plan.peak_tflops,
        "tiny": plan.tiny,
        "lengths": plan.lengths.source,
        "rows_looked_up": plan.rows_looked_up,
        "warm_up_steps": WARM_UP,
        "hardware": hardware().as_dict(),
        "versions": {"python": platform.python_version(), **{package: _version(package) for package in PACKAGES}},
        "cuda": torch.version.cuda,
        "driver": read_gpu(gpu_uuid(torch.device(plan.device))).driver,
        "command": " ".join(["python", "-m", "tests.benchmarks.gpu_train", *sys.argv[1:]]),
        "settings": [],
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # Ray is not needed here
        return None


def _save(document: Document, name: str) -> None:
    MEASURED.mkdir(parents=True, exist_ok=True)
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower())
    path = MEASURED / f"gpu_train-{slug}-{document['date'][:19].replace(':', '')}.json"
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def _show(settings: Sequence[Mapping[str, Any]]) -> None:
    table = Table("", "tokens/s", "MFU", "s a step", "in a window", "MFU", "GB torch", "GB NVML", "GB host")
    for setting in settings:
        if setting["outcome"] != "measured":
            table.add_row(setting["name"], setting["outcome"])
            continue
        (tokens, mfu), window = rates(setting), rates(setting, "window_")
        megabytes = [setting["peak_memory_mb"], setting["nvml_used_mb"], setting["host_peak_mb"]]
        memory = ["n/a" if value is None else f"{value / 1e3:.1f}" for value in megabytes]
        step_s = f"{setting['step_s']['median']:.3g}"
        table.add_row(setting["name"], tokens, mfu, step_s, *window, *memory)
    console.print(table)


def rates(setting: Mapping[str, Any], of: str = "") -> tuple[str, str]:
    """Tokens per second and MFU as a table shows them: of single steps, or `of` the "window_"."""
    tokens, mfu = setting[f"{of}tokens_per_s"], setting[f"{of}mfu"]
    return "n/a" if tokens is None else f"{tokens:,.0f}", "n/a" if mfu is None else f"{mfu:.1%}"


# --- a process for each setting


def in_child(setting: Setting, plan: Plan, limit_s: float) -> Document:
    """A measurement in a fresh process, or what became of it."""
    return children.in_child(_alone, setting, plan, limit_s, limit_s=limit_s)


def _alone(setting: Setting, plan: Plan, limit_s: float) -> Document:
    if plan.device == "cpu":
        torch.set_num_threads(1)  # on two-layer encoders, threads that wait for each other are slower than one
    return measured(setting, plan, limit_s)


def measured(setting: Setting, plan: Plan, limit_s: float) -> Document:
    """The figures of a setting, measured in this process, or why there are none."""
    return outcome_of(_figures, setting, plan, time.perf_counter() + 0.8 * limit_s)


# --- the measurement


def _figures(setting: Setting, plan: Plan, until: float) -> Document:
    device = start_device(plan.device)
    start_peak = PeakMemory(device)
    with tempfile.TemporaryDirectory() as folder:
        run = prepared(setting, plan, device, Path(folder))
        run.steps(WARM_UP, read_every=1)
        start_peak_mb, peak = start_peak.read().mb, PeakMemory(device)
        step_s = run.timed(plan.steps, until)
        counted = range(len(step_s))
        window_s = run.window(len(step_s)) if time.perf_counter() + sum(step_s) < until else None
        lengths = [length for step in counted for length in run.rows.lengths(step)]
        micro_batches = [micro_batch for step in counted for micro_batch in run.rows.micro_batches(step, run.share)]
    gpu, memory = read_gpu(gpu_uuid(device)), peak.read()
    config, seconds = plan.config(setting), sum(step_s)
    flops = model_flops(
        body=run.count.body, layers=config.num_hidden_layers, attention_width=config.hidden_size, lengths=lengths
    )

    def mfu(seconds: float) -> float | None:
        return None if plan.peak_tflops is None else flops / seconds / (plan.peak_tflops * 1e12)

    return {
        "tokens_per_s": sum(lengths) / seconds,
        "mfu": mfu(seconds),
        "step_s": {"median": median(step_s), "low": min(step_s), "high": max(step_s)},
        "steps": len(step_s),
        "seconds": seconds,
        "window_s": window_s,
        "window_tokens_per_s": None if window_s is None else sum(lengths) / window_s,
        "window_mfu": None if window_s is None else mfu(window_s),
        "window_unavailable": "no time was left to repeat the steps" if window_s is None else None,
        "rows": len(lengths),
        "tokens": sum(lengths),
        "sum_squared_lengths": sum(length**2 for length in lengths),
        "padded_tokens": sum(len(rows) * padded_length(rows) for rows in micro_batches),
        "micro_batches": len(micro_batches),
        "parameters": run.count.total,
        "parameters_body": run.count.body,
        "parameters_trained": run.trained,
        "peak_memory_mb": memory.mb,
        "peak_memory_source": memory.source,
        "start_peak_memory_mb": start_peak_mb,
        "nvml_used_mb": gpu.memory_used_mb,
        "nvml_unavailable": gpu.unavailable.get("memory_used_mb"),
        "host_peak_mb": host_peak_mb(),
    }


if __name__ == "__main__":
    typer.run(main)
