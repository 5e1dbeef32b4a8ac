"""How fast do the large published encoders fine-tune on one data-centre GPU, and which settings fit it?

    python -m tests.benchmarks.gpu_train [--data-root ../shared/data] [--only xlm-r-xl] [--save]
    python -m tests.benchmarks.gpu_train --device cpu --tiny --peak-tflops 1      # the same code on two-layer encoders

XLM-R large, XL and XXL with random weights created on the device (speed does not depend on them), under the study's loop
(`trainables.training.loop.train`: DeepSpeed engine, length buckets, fp32 weights and optimizer with bf16 products), head and
vocabulary trimming; ZeRO 0 and 3, with and without offload, padding and compiled layers. Rows have the lengths of XNLI's and
UD's (`row_lengths`) and random words, as many different ones as these data contain. Needs neither Ray nor a network. Every
setting runs in a fresh process within a budget of seconds; one that does not fit, fails or takes too long is recorded with its
outcome, and the next one starts.

Each step ends with a synchronisation of the device; warm-up steps do not count. Reported per second:

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
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Annotated, Any, NoReturn

import torch
import torch.distributed as dist
import typer
from rich.console import Console
from rich.table import Table
from transformers import PreTrainedConfig

from study.planning.operations import row_flops
from tests.benchmarks import children, row_lengths
from tests.benchmarks.children import Document, outcome_of
from tests.benchmarks.gpu_settings import (
    SETTINGS,
    TASKS,
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
from trainables.benchmark.probes.hardware import hardware
from trainables.benchmark.probes.memory import PeakMemory, host_peak_mb
from trainables.benchmark.probes.nvml import gpu_uuid, read_gpu
from trainables.data.source import DataError
from trainables.heads import Feature
from trainables.heads.base import padded_length
from trainables.heads.features import FeatureTable, read_features, write_features
from trainables.hyperparameters import Training
from trainables.models.encoder import count_parameters
from trainables.models.families import FAMILIES
from trainables.models.packing import Numbering
from trainables.models.task_model import TaskModel, new_head
from trainables.resources import Resources
from trainables.stages.fit import adapt
from trainables.store.versions import PACKAGES
from trainables.tasks.base import Task
from trainables.training.batching import BatchOrder, FeatureBatches, PackedBatches, Share
from trainables.training.engine import Layout, build_engine
from trainables.training.loop import train
from trainables.training.trimming import looked_up, trim

MEASURED = Path(__file__).parents[2] / "docs" / "measured"
WARM_UP = 3  # steps: kernels are chosen; the allocator and offload's pinned buffers grow

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
    table = Table("", "tokens/s", "MFU", "s a step", "GB torch", "GB NVML", "GB host")
    for setting in settings:
        if setting["outcome"] != "measured":
            table.add_row(setting["name"], setting["outcome"])
            continue
        mfu = "n/a" if setting["mfu"] is None else f"{setting['mfu']:.1%}"
        megabytes = [setting["peak_memory_mb"], setting["nvml_used_mb"], setting["host_peak_mb"]]
        memory = ["n/a" if value is None else f"{value / 1e3:.1f}" for value in megabytes]
        step_s = f"{setting['step_s']['median']:.3g}"
        table.add_row(setting["name"], f"{setting['tokens_per_s']:,.0f}", mfu, step_s, *memory)
    console.print(table)


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


class Enough(Exception):
    """The time budget is used up; the steps so far are the result."""


class Clock:
    """Observer of the loop: records when each step ends on the device, and resets peak memory after the warm-up."""

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
        """Seconds of each counted step."""
        ends = self.ends[WARM_UP - 1 :]
        return [end - start for start, end in itertools.pairwise(ends)]


@dataclass(frozen=True)
class Rows:
    """Rows with the plan's lengths for a task, in the batches of a setting."""

    table: FeatureTable
    batches: FeatureBatches
    order: BatchOrder

    def lengths(self, step: int) -> list[int]:
        return [self.table.lengths[index] for index in self.order.at(step)]

    def padded_tokens(self, step: int, share: Share) -> int:
        """Tokens of a step with the padding of its micro-batches."""
        cut = [[range(self.table.lengths[index]) for index in indices] for indices in share.cut(self.order.at(step))]
        return sum(len(rows) * padded_length(rows) for rows in cut)


def start_device(name: str) -> torch.device:
    """The device, with a process group of one on a GPU, as a worker of a group with a GPU has it."""
    if name != "cuda":
        return torch.device(name)
    device = torch.device("cuda", 0)
    torch.cuda.init()  # type: ignore[no-untyped-call]
    torch.cuda.set_device(device)
    dist.init_process_group("nccl", store=dist.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]
    return device


def _figures(setting: Setting, plan: Plan, until: float) -> Document:
    device = start_device(plan.device)
    clock, config = Clock(device, until), plan.config(setting)
    share = Share(0, 1, setting.micro_batch)
    training = Training(1e-5, WARM_UP + plan.steps, setting.batch_size, seed=0, precision=setting.precision)
    with tempfile.TemporaryDirectory() as folder:
        rows = _rows(Path(folder) / "rows.arrow", setting, plan, config, training.seed)
        model = _model(config, TASKS[setting.task], device)
        count = count_parameters(model.encoder)
        lookups = looked_up(model.encoder.get_input_embeddings(), [rows.table], config.pad_token_id)
        if lookups.pays(model):
            trim(model, lookups)
        trained = sum(parameter.numel() for parameter in model.parameters())
        resources = Resources(
            zero_stage=setting.zero_stage,
            activation_checkpointing=setting.activation_checkpointing,
            unpad=setting.unpad,
            compile=setting.compiled,
        )
        adapt(model, resources, device)
        layout = Layout(share, setting.zero_stage, setting.offload, device=device)
        engine = build_engine(model, training, layout)  # never released: the process ends with it
        with contextlib.suppress(Enough):
            batches = PackedBatches(rows.batches, Numbering.of(model.encoder)) if setting.unpad else rows.batches
            # Each step is timed, so each waits for the device: a training that reads every 20th loss is a little faster.
            train(engine, batches, training, share=share, device=device, observe=clock, read_every=1)
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
    """Rows of uniformly random words with random labels."""
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
    """The model in fp32, created on the device: XXL is 43 GB, which a CPU would take minutes to fill."""
    family = FAMILIES[config.model_type]
    config._attn_implementation = family.attention(device)
    torch.manual_seed(0)
    with device:
        encoder = family.model_class(config, **family.options)
        return TaskModel(encoder, new_head(encoder, task, seed=0))


if __name__ == "__main__":
    typer.run(main)
