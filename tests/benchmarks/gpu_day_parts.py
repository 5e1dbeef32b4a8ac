"""The parts of `gpu_day`: each yields one document per measurement, with an `outcome`, and a `reason` if it is another than
"measured"."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from study.planning.architecture import outline
from tests.benchmarks import gpu_bench, gpu_checks, gpu_train, row_lengths
from tests.benchmarks.children import Document, in_child
from tests.benchmarks.gpu_settings import LARGE, XL, XXL, Plan, Setting
from trainables.benchmark.probes.energy import EnergyRule
from trainables.benchmark.scenarios.warmup import WarmUpRule
from trainables.benchmark.settings import BenchmarkSettings
from trainables.hyperparameters import Precision
from trainables.models.catalogue import published

ROOT = Path(__file__).parents[2]
BASE = "xlm-r-base"
STEPS = 8  # that count
BYTES_A_PARAMETER = 16  # weight, gradient and two moments in fp32
E5 = Path("encoders") / "intfloat" / "multilingual-e5-small" / "model.safetensors"
SHORTEST_S = 15.0  # a process that imports and builds a model takes this long without measuring anything
SETTING_S, SERVED_S = 75.0, 90.0  # at most, for one of many
# Rows of a micro-batch and of a batch, and activation checkpointing. A batch has several times the rows of a micro-batch, so
# that a budget of tokens finds something to cut otherwise.
SIZES: dict[str, tuple[int, int, bool]] = {
    LARGE: (128, 512, False),
    XL: (64, 256, False),
    BASE: (256, 1024, False),
    XXL: (32, 256, True),
}
# Each step of the fast loop adds to the one before. Under a budget of tokens the rows of a micro-batch limit nothing.
COMPILED: Mapping[str, Any] = {"unpad": True, "compiled": True}
BUDGET: Mapping[str, Any] = {**COMPILED, "micro_batch": 1024, "micro_batch_tokens": 16_384}
FASTER: tuple[tuple[str, Mapping[str, Any]], ...] = (
    ("padded", {}),
    ("unpadded", {"unpad": True}),
    ("compiled", COMPILED),
    ("token budget", BUDGET),
    ("bf16_master", {**BUDGET, "precision": "bf16_master"}),
)
SERVED = (LARGE, XL, BASE)
VARIANTS = ("bf16", "graphed_bf16", "compiled_bf16", "packed_bf16", "float8", "fp32")
TINY_VARIANTS = ("graphed_bf16", "fp32")
BATCHES = (1, 32)
SERVING = BenchmarkSettings(
    min_duration_s=2.0,
    max_duration_s=8.0,
    warm_up=WarmUpRule(max_s=4.0),
    batch_sizes=BATCHES,
    sweep_s=1.0,
    scenarios=("SingleStream", "Offline"),
    per_language_s=0.2,
    energy=EnergyRule(windows=2, window_s=3.0, cool_down_s=0.5),
)
TINY_SERVING = dataclasses.replace(
    BenchmarkSettings.for_window(0.5), scenarios=("SingleStream", "Offline"), batch_sizes=BATCHES
)

Left = Callable[[], float]  # seconds that a part still has


@dataclass(frozen=True)
class Day:
    """The device with its data sheet, and what to run on it. What is unknown about the device is None."""

    device: str
    tiny: bool
    data_root: Path | None = None
    memory_gb: float | None = None
    peak_tflops: float | None = None
    bandwidth_gbs: float | None = None


def doctor(day: Day, left: Left) -> Iterator[Document]:
    yield {"name": "doctor", **_command(["doctor"], day, left(), lines=20)}


def attention(day: Day, left: Left) -> Iterator[Document]:
    yield {"name": "over segments", **in_child(gpu_checks.attention, day.device, limit_s=left())}


def losses(day: Day, left: Left) -> Iterator[Document]:
    for document in gpu_checks.agreement(day.device, gpu_checks.PRECISIONS, left()):
        yield {"name": document["precision"], **document}


def training(day: Day, left: Left) -> Iterator[Document]:
    """By size and step of the fast loop: tokens per second, MFU, memory."""
    plan = Plan(day.device, day.tiny, 2 if day.tiny else STEPS, row_lengths.committed(), day.peak_tflops)
    for encoder in (LARGE,) if day.tiny else SIZES:
        for step, changes in FASTER:
            name = f"{encoder}, {step}"
            reason = _impossible(encoder, changes, day)
            if reason is not None:
                yield {"name": name, "outcome": "skipped", "reason": reason}
            elif left() < SHORTEST_S:
                yield _not_tried(name)
            else:
                setting = _setting(encoder, changes, day)
                result = gpu_train.in_child(setting, plan, _limit_s(day, SETTING_S, left))
                yield {"name": name, **dataclasses.asdict(setting), **result}


def _setting(encoder: str, changes: Mapping[str, Any], day: Day) -> Setting:
    micro_batch, batch_size, checkpointing = (4, 8, False) if day.tiny else SIZES[encoder]
    setting = Setting(encoder, "xnli", 0, "none", micro_batch, batch_size, checkpointing)
    return dataclasses.replace(setting, **changes)


def _impossible(encoder: str, changes: Mapping[str, Any], day: Day) -> str | None:
    """Why a setting cannot run: this version lacks it, or weights, gradients and optimizer do not fit the device."""
    if unknown := set(changes) - {field.name for field in dataclasses.fields(Setting)}:
        return f"this version has no setting {', '.join(sorted(unknown))}"
    if (precision := changes.get("precision")) is not None and precision not in get_args(Precision):
        return f"this version has no precision {precision}"
    if day.tiny or day.memory_gb is None:
        return None
    needed_gb = outline(published(encoder), None).count.body * BYTES_A_PARAMETER / 1e9
    if needed_gb < day.memory_gb:
        return None
    return f"weights, gradients and optimizer take {needed_gb:.0f} GB, and the device has {day.memory_gb:.0f}"


def serving(day: Day, left: Left) -> Iterator[Document]:
    """By size and variant: latency at each batch size, its floor, energy."""
    plan = gpu_bench.Plan(day.device, day.tiny, day.bandwidth_gbs, TINY_SERVING if day.tiny else SERVING)
    for encoder in SERVED[:1] if day.tiny else SERVED:
        for variant in TINY_VARIANTS if day.tiny else VARIANTS:
            name = f"{encoder} {variant}"
            if left() < SHORTEST_S:
                yield _not_tried(name)
                continue
            result = gpu_bench.measured(encoder, variant, plan, _limit_s(day, SERVED_S, left))
            if result["outcome"] == "measured":
                result["batches"] = by_batch(result)
            yield {"name": name, "encoder": encoder, "variant": variant, **result}


def by_batch(result: Mapping[str, Any]) -> dict[str, Document]:
    """Milliseconds of each batch size, and the share of them that reading the weights once takes.

    A batch of one is timed by LoadGen, query by query; larger ones by short runs of batches of similar length.
    """
    batches: dict[str, Document] = {}
    for size in BATCHES:
        speed = result["context"]["sweep_sps"].get(str(size))
        batch_ms = result["p50_ms"] if size == 1 else None if speed is None else 1000 * size / speed
        floor_ms = result["floor_ms"]
        achieved = None if batch_ms is None or floor_ms is None else floor_ms / batch_ms
        batches[str(size)] = {"ms": batch_ms, "floor_ms": floor_ms, "achieved": achieved, "samples_per_s": speed}
    return batches


def study(day: Day, left: Left) -> Iterator[Document]:
    """A whole study with a published encoder, from data files to report."""
    if day.data_root is None or not (day.data_root / E5).is_file():
        where = "no --data-root" if day.data_root is None else f"no {E5} in {day.data_root}"
        yield {"name": "laptop_tiny", "outcome": "skipped", "reason": where}
        return
    own = Path(__file__).with_name("gpu_study.py").relative_to(ROOT)
    recipe = "laptop_tiny" if day.device == "cpu" else f"{own}:laptop_tiny_on_a_gpu"
    with tempfile.TemporaryDirectory() as folder:
        options = ["--data-root", str(day.data_root.resolve()), "--output", folder]
        yield {"name": "laptop_tiny", **_command(["run", recipe, *options], day, left(), lines=1)}


def _command(arguments: list[str], day: Day, limit_s: float, *, lines: int) -> Document:
    """`python -m study` with its exit code and its last lines of output; ended when its time is over."""
    hidden = {"CUDA_VISIBLE_DEVICES": ""} if day.device == "cpu" else {}
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "study", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "COLUMNS": "160", **hidden},
        start_new_session=True,
    )
    try:
        out, _ = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)  # it stops Ray, whose processes are not its children
        try:
            process.communicate(timeout=15)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
        return {"outcome": "timed_out", "reason": f"not finished after {limit_s:.0f} s"}
    outcome: Document = {"code": process.returncode, "seconds": round(time.perf_counter() - started, 1)}
    last = out.strip().splitlines()[-lines:]
    if process.returncode != 0:
        return {"outcome": "failed", "reason": "; ".join(last)[-300:], **outcome}
    return {"outcome": "measured", "output": last, **outcome}


def _limit_s(day: Day, most_s: float, left: Left) -> float:
    """For one of many; at tiny size nothing but a busy machine takes long."""
    return left() if day.tiny else min(most_s, left())


def _not_tried(name: str) -> Document:
    return {"name": name, "outcome": "not_tried", "reason": "the part's time was over"}
