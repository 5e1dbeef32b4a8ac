"""How fast do the large published encoders fine-tune on one data-centre GPU, and which settings fit it?

    python -m tests.benchmarks.gpu_train [--data-root ../shared/data] [--only xlm-r-xl] [--save]
    python -m tests.benchmarks.gpu_train --device cpu --tiny --peak-tflops 1      # the same code, on encoders of two layers

XLM-R large, XL and XXL with random weights, made on the device (speed does not depend on them), under the study's loop
(`trainables.training.loop.train`: DeepSpeed engine, length buckets, fp32 weights and optimizer with bf16 products), head and vocabulary
trimming; ZeRO 0 and 3, with and without offload, with padding and without it, layers compiled or not. Rows have the lengths of
XNLI's and UD's (`row_lengths`) and random words, as many different ones as these data look up. Needs neither Ray nor a network.
Every setting runs in a process of its own, within a budget of seconds: one that does not fit, fails or takes too long is
recorded as that, and the next one starts afresh.

Each step ends with a synchronisation of the device; the first ones warm up and count for nothing. Per second of the others:

    tokens   without padding
    MFU      share of the device's peak: sum over rows of n tokens of 6 x body x n + 12 x layers x attention width x n^2,
             over seconds and peak. `body` is every parameter of the encoder but its embedding tables; 6 and 12 count
             forward and backward (Korthikanti et al. 2022, arXiv 2205.05198). Padding, head, optimizer and what
             activation checkpointing computes twice are no work by this count.

Peak memory is that of torch's allocator from the first counted step on, and before it (building the engine, first steps);
beside it what NVML says the device has in use at the end, and the peak resident set size of the process. Peaks of the devices
are those of NVIDIA's data sheets for dense bf16; `--peak-tflops` for others.

Offload wants host memory: DeepSpeed keeps a second fp32 copy of the weights beside gradients and moments, 20 bytes a
parameter in all, about 200 GB for XXL.

Goals: at least 45% MFU for XL in bf16 on one H100 (`xl_mfu`, the best setting); an XXL step that fits 80 GB with offload
(`xxl_offload_step_s` is no null, its peak below). `--save` writes the document to docs/measured/, from a GPU only. The last
line is one JSON document.
"""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
import itertools
import json
import os
import platform
import random
import re
import sys
import tempfile
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Annotated, Any, NoReturn

import torch
import torch.distributed as dist
import typer
from rich.console import Console
from rich.table import Table
from transformers import PreTrainedConfig

from tests.benchmarks import row_lengths
from tests.benchmarks.gpu_settings import (
    SETTINGS,
    TASKS,
    TINY_SETTINGS,
    XL,
    XXL,
    Plan,
    Setting,
    device_problem,
    peak_of,
)
from trainables.benchmark.probes.hardware import hardware
from trainables.benchmark.probes.memory import PeakMemory, host_peak_mb
from trainables.benchmark.probes.nvml import gpu_uuid, read_gpu
from trainables.data.source import DataError
from trainables.heads import Feature
from trainables.heads.base import padded_length
from trainables.heads.features import FeatureTable, read_features, write_features
from trainables.hyperparameters import OutOfMemory, Precision, Training
from trainables.models.encoder import checkpoint_activations, compile_layers, count_parameters
from trainables.models.families import FAMILIES
from trainables.models.task_model import TaskModel, new_head
from trainables.store.versions import PACKAGES
from trainables.tasks.base import Task
from trainables.training.batching import BatchOrder, FeatureBatches, Share
from trainables.training.engine import build_engine
from trainables.training.loop import train
from trainables.training.trimming import looked_up, trim
from trainables.training.unpadding import unpad

MEASURED = Path(__file__).parents[2] / "analysis" / "measured"
PRECISION: Precision = "bf16_mixed"
WARM_UP = 3  # steps: kernels are chosen, the allocator and the pinned buffers of offload grow

console = Console(highlight=False, width=140)
Document = dict[str, Any]

DeviceName = Annotated[str, typer.Option(help="cuda or cpu")]
Tiny = Annotated[bool, typer.Option("--tiny", help="encoders of two layers, two settings")]
DataRoot = Annotated[Path | None, typer.Option(help="count lengths in its files, not in the committed histogram")]
Only = Annotated[str, typer.Option(help="settings whose name contains this")]
Steps = Annotated[int, typer.Option(min=1, help="steps that count; fewer where the budget ends them")]
Budget = Annotated[float, typer.Option(min=1, help="seconds a setting may take, its start included")]
Minutes = Annotated[float, typer.Option(min=0.1, help="all settings together; those that come later are not tried")]
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
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # for the children: DeepSpeed takes a GPU if it sees one
    settings = [one for one in (TINY_SETTINGS if tiny else SETTINGS) if only in one.name]
    if not settings:
        _stop(f"--only {only}: no setting is named so")
    try:
        lengths = row_lengths.committed() if data_root is None else row_lengths.read_lengths(data_root)
    except (DataError, OSError) as error:
        _stop(str(error))
    name = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    plan = Plan(device, tiny, steps, lengths, peak_tflops or peak_of(name))
    started, document = time.perf_counter(), _context(plan, name)
    for setting in settings:
        left_s = 60 * minutes - (time.perf_counter() - started)
        result: Document = {"outcome": "not_tried", "reason": f"the {minutes:g} minutes were over"}
        if left_s > 0:
            result = in_child(setting, plan, min(budget_s, left_s))
        document["settings"].append({"name": setting.name, **asdict(setting), **result})
        document |= goals(document["settings"]) | {"wall_s": round(time.perf_counter() - started, 1)}
        console.print(f"{setting.name}: {result['outcome']} {result.get('reason', '')}", markup=False)
        if save:  # after each: a machine may be taken away
            _save(document, name)
    _show(document["settings"])
    print(json.dumps(document))


def _stop(message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    raise typer.Exit(2)


# --- what a number rests on


def model_flops(*, body: int, layers: int, attention_width: int, lengths: Sequence[int]) -> int:
    """Floating-point operations of training on rows of these lengths, by the formula above."""
    return sum(6 * body * n + 12 * layers * attention_width * n**2 for n in lengths)


def goals(settings: Sequence[Mapping[str, Any]]) -> Document:
    """The best MFU of XL, and the quickest step of XXL with offload with its peak memory, building the engine included; None
    where none was measured."""
    done = [one for one in settings if one["outcome"] == "measured"]
    xl = [one["mfu"] for one in done if one["encoder"] == XL and one["mfu"] is not None]
    xxl = [one for one in done if one["encoder"] == XXL and one["offload"] != "none"]
    found: Document = {"xl_mfu": max(xl, default=None), "xxl_offload_step_s": None, "xxl_offload_peak_memory_mb": None}
    if xxl:
        quickest = min(xxl, key=lambda one: one["step_s"]["median"])
        found["xxl_offload_step_s"] = quickest["step_s"]["median"]
        found["xxl_offload_peak_memory_mb"] = max(quickest["peak_memory_mb"], quickest["start_peak_memory_mb"])
    return found


def _context(plan: Plan, name: str) -> Document:
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "device": name,
        "peak_tflops": plan.peak_tflops,
        "tiny": plan.tiny,
        "precision": PRECISION,
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
    except importlib.metadata.PackageNotFoundError:  # Ray, where there is no need of it
        return None


def _save(document: Document, name: str) -> None:
    MEASURED.mkdir(parents=True, exist_ok=True)
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower())
    path = MEASURED / f"gpu_train-{slug}-{document['date'][:19].replace(':', '')}.json"
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def _show(settings: Sequence[Mapping[str, Any]]) -> None:
    table = Table("", "tokens/s", "MFU", "s a step", "GB torch", "GB NVML", "GB host")
    for one in settings:
        if one["outcome"] != "measured":
            table.add_row(one["name"], one["outcome"])
            continue
        mfu = "n/a" if one["mfu"] is None else f"{one['mfu']:.1%}"
        gigabytes = [one["peak_memory_mb"], one["nvml_used_mb"], one["host_peak_mb"]]
        memory = ["n/a" if value is None else f"{value / 1e3:.1f}" for value in gigabytes]
        table.add_row(one["name"], f"{one['tokens_per_s']:,.0f}", mfu, f"{one['step_s']['median']:.3g}", *memory)
    console.print(table)


# --- a process for each setting


def in_child(setting: Setting, plan: Plan, limit_s: float) -> Document:
    """What a fresh process measures, or what became of it."""
    context = get_context("spawn")
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(setting, plan, limit_s, send))
    process.start()
    send.close()  # the child's end is then the only one, and its death is the end of the file
    try:
        if not receive.poll(limit_s):
            return {"outcome": "timed_out", "reason": f"no result after {limit_s:.0f} s"}
        result: Document = receive.recv()
        return result
    except EOFError:
        process.join()
        reason = f"exit code {process.exitcode}; -9 is what the kernel does where host memory runs out"
        return {"outcome": "killed", "reason": reason}
    finally:
        process.kill()  # it has said all: what is left is to take the engine apart
        process.join()


def _child(setting: Setting, plan: Plan, limit_s: float, results: Connection) -> None:
    score = Path("/proc/self/oom_score_adj")
    if score.exists():
        score.write_text("1000")  # should host memory run out, the kernel ends this process and not the one that waits
    warnings.filterwarnings("ignore", category=FutureWarning)  # of PyTorch about what DeepSpeed calls, at every step
    if plan.device == "cpu":
        torch.set_num_threads(1)  # threads that wait for each other are slower than one, on encoders of two layers
    results.send(measured(setting, plan, limit_s))


def measured(setting: Setting, plan: Plan, limit_s: float) -> Document:
    """The setting's figures, from this process, or why there are none."""
    try:
        return {"outcome": "measured", **_figures(setting, plan, time.perf_counter() + 0.8 * limit_s)}
    except Exception as error:  # a setting that cannot run is a result, and the next ones are still to come
        outcome = "out_of_memory" if _lacks_memory(error) else "failed"
        return {"outcome": outcome, "reason": f"{type(error).__name__}: {error}".splitlines()[0][:300]}


def _lacks_memory(error: Exception) -> bool:
    """Also of the host: pinned memory and PyTorch's CPU allocator raise a plain RuntimeError."""
    said = str(error).lower()
    return isinstance(error, (OutOfMemory, torch.OutOfMemoryError, MemoryError)) or any(
        words in said for words in ("out of memory", "can't allocate memory")
    )


# --- the measurement


class Enough(Exception):
    """The steps so far are what the budget had room for."""


class Clock:
    """Observes the loop: when each step ended on the device; after the warm-up, memory is counted anew."""

    def __init__(self, device: torch.device, until: float) -> None:
        self._device, self._until = device, until
        self.ends: list[float] = []
        self.peak = PeakMemory(device)
        self.start_peak_mb = 0.0

    def __call__(self, step: int, loss: float) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        if step + 1 == WARM_UP:
            self.start_peak_mb = self.peak.read().mb
            self.peak = PeakMemory(self._device)
        self.ends.append(time.perf_counter())
        if len(self.ends) > WARM_UP and self.ends[-1] > self._until:
            raise Enough

    @property
    def step_s(self) -> list[float]:
        """Seconds of each step that counts."""
        ends = self.ends[WARM_UP - 1 :]
        return [end - start for start, end in itertools.pairwise(ends)]


@dataclass(frozen=True)
class Rows:
    """A task's rows of the plan's lengths, in the batches of a setting."""

    table: FeatureTable
    batches: FeatureBatches
    order: BatchOrder

    def lengths(self, step: int) -> list[int]:
        return [self.table.lengths[index] for index in self.order.at(step)]

    def padded_tokens(self, step: int, share: Share) -> int:
        """As the micro-batches are padded."""
        cut = [[range(self.table.lengths[index]) for index in indices] for indices in share.cut(self.order.at(step))]
        return sum(len(rows) * padded_length(rows) for rows in cut)


def _figures(setting: Setting, plan: Plan, until: float) -> Document:
    device = torch.device(plan.device)
    if device.type == "cuda":  # as on a worker of a group with a GPU
        device = torch.device("cuda", 0)
        torch.cuda.init()  # type: ignore[no-untyped-call]
        torch.cuda.set_device(device)
        dist.init_process_group("nccl", store=dist.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]
    clock, config = Clock(device, until), plan.config(setting)
    share = Share(0, 1, setting.micro_batch)
    training = Training(1e-5, WARM_UP + plan.steps, setting.batch_size, seed=0, precision=PRECISION)
    with tempfile.TemporaryDirectory() as folder:
        rows = _rows(Path(folder) / "rows.arrow", setting, plan, config, training.seed)
        model = _model(config, TASKS[setting.task], device)
        count = count_parameters(model.encoder)
        lookups = looked_up(model.encoder.get_input_embeddings(), [rows.table], config.pad_token_id)
        if lookups.pays(model):
            trim(model, lookups)
        trained = sum(parameter.numel() for parameter in model.parameters())
        if setting.unpad:
            unpad(model.encoder)
        if setting.activation_checkpointing:
            checkpoint_activations(model)
        if setting.compiled:
            compile_layers(model)
        layout: dict[str, Any] = {"zero_stage": setting.zero_stage, "offload": setting.offload}
        engine = build_engine(model, training, share=share, **layout)  # for as long as its process
        with contextlib.suppress(Enough):
            train(engine, rows.batches, training, share=share, device=device, observe=clock)
        counted = range(WARM_UP, len(clock.ends))
        lengths = [length for step in counted for length in rows.lengths(step)]
        padded = sum(rows.padded_tokens(step, share) for step in counted)
    seconds, gpu, peak = sum(clock.step_s), read_gpu(gpu_uuid(device)), clock.peak.read()
    flops = model_flops(
        body=count.body, layers=config.num_hidden_layers, attention_width=config.hidden_size, lengths=lengths
    )
    return {
        "tokens_per_s": sum(lengths) / seconds,
        "mfu": None if plan.peak_tflops is None else flops / seconds / (plan.peak_tflops * 1e12),
        "step_s": {"median": median(clock.step_s), "low": min(clock.step_s), "high": max(clock.step_s)},
        "steps": len(clock.step_s),
        "seconds": seconds,
        "rows": len(lengths),
        "tokens": sum(lengths),
        "sum_squared_lengths": sum(length**2 for length in lengths),
        "padded_tokens": padded,
        "parameters": count.total,
        "parameters_body": count.body,
        "parameters_trained": trained,
        "peak_memory_mb": peak.mb,
        "peak_memory_source": peak.source,
        "start_peak_memory_mb": clock.start_peak_mb,
        "nvml_used_mb": gpu.memory_used_mb,
        "nvml_unavailable": gpu.unavailable.get("memory_used_mb"),
        "host_peak_mb": host_peak_mb(),
    }


def _rows(path: Path, setting: Setting, plan: Plan, config: PreTrainedConfig, seed: int) -> Rows:
    """Rows of random words, every word as likely as any other, and of random labels."""
    task, rng = TASKS[setting.task], random.Random(seed)
    words = rng.sample(range(config.pad_token_id + 1, config.vocab_size), plan.rows_looked_up)
    features = []
    for example, length in enumerate(plan.lengths.of(setting.task)):
        target = rng.choices(range(len(task.labels)), k=length if task.head == "tagging" else 1)
        features.append(Feature(example, (tuple(rng.choices(words, k=length)),), tuple(target), float(len(target))))
    write_features(path, [("en", features)])
    table = read_features(path)
    order = BatchOrder(table.lengths, setting.batch_size, seed)
    return Rows(table, FeatureBatches(table, task, config.pad_token_id, order), order)


def _model(config: PreTrainedConfig, task: Task, device: torch.device) -> TaskModel:
    """In fp32 on the device, as the engine will have it: XXL is 43 GB, which a CPU would be minutes filling."""
    family = FAMILIES[config.model_type]
    config._attn_implementation = family.attention
    torch.manual_seed(0)
    with device:
        encoder = family.model_class(config, **family.options)
        return TaskModel(encoder, new_head(encoder, task, seed=0))


if __name__ == "__main__":
    typer.run(main)
