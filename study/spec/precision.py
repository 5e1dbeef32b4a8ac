"""The training precision that suits this CPU, measured. A recipe resolves it once; then it is part of the study's identity."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import torch
from torch import Tensor
from torch.nn import functional

from trainables.benchmark.scenarios.timing import timed_calls
from trainables.hyperparameters import Precision
from trainables.store.kept import KeptFileUnusable, read_object

if TYPE_CHECKING:
    from study.spec.study import Study

# bf16 is chosen only where it wins clearly: a CPU can have the instructions and be slower with them. One thread of a Sapphire
# Rapids with AVX512 bf16 and no AMX does 130 GFLOP/s in fp32 and 77 in bf16.
CLEARLY_FASTER = 1.2
MEASURED_S = 0.15  # for both precisions together
FEWEST_ROUNDS = 5
WIDTH, TOKENS = 192, 768  # the quickstart's largest encoder, and a batch of 32 rows of 24 tokens

_resumed: ContextVar[Precision | None] = ContextVar("resumed", default=None)


@dataclass(frozen=True)
class ResolvedPrecision:
    """A training precision and the reason for it."""

    value: Precision
    reason: str


def cpu_precision(*, width: int = WIDTH, tokens: int = TOKENS) -> ResolvedPrecision:
    """bf16 matrix products if they are clearly faster on this CPU, else fp32.

    `width` and `tokens` are those of the study's batches: which precision wins depends on the shape. Inside
    `resumed_precision` it is the stored study's.
    """
    resumed = _resumed.get()
    if resumed is not None:
        return ResolvedPrecision(resumed, "as the study in the output folder was started")
    return _measured(width, tokens)


@contextmanager
def resumed_precision(output: Path) -> Iterator[None]:
    """Meanwhile a recipe gets the precision of the study that the output folder holds: a resumed study keeps it.

    A folder without a readable `study.json` changes nothing; what is wrong with it is for `study.run.identity` to say.
    """
    token = _resumed.set(_stored(output / "study.json"))
    try:
        yield
    finally:
        _resumed.reset(token)


def _stored(path: Path) -> Precision | None:
    try:
        stored = read_object(path, ("tuning",)) or {}
    except KeptFileUnusable:
        return None
    tuning = stored.get("tuning")
    precision = tuning.get("precision") if isinstance(tuning, dict) else None
    return precision if precision in get_args(Precision) else None


def training_gflops(precision: Precision) -> float:
    """What one thread of this CPU does in a precision, in GFLOP/s, as `cpu_precision` measured it."""
    return _rates(WIDTH, TOKENS)["fp32" if precision == "fp32" else "bf16"]


def _measured(width: int, tokens: int) -> ResolvedPrecision:
    rates = _rates(width, tokens)
    return resolve(rates["fp32"], rates["bf16"])


@lru_cache
def _rates(width: int, tokens: int) -> dict[str, float]:
    step, operations = _training_step(width, tokens)
    seconds = interleaved_medians({"fp32": lambda: step(False), "bf16": lambda: step(True)})
    return {name: operations / seconds[name] / 1e9 for name in ("fp32", "bf16")}


def resolve(fp32_gflops: float, bf16_gflops: float) -> ResolvedPrecision:
    """The precision for measured rates, in GFLOP/s on one thread."""
    ratio = bf16_gflops / fp32_gflops
    numbers = f"measured here on one thread: fp32 {fp32_gflops:.0f} GFLOP/s, bf16 {bf16_gflops:.0f}, {ratio:.1f} times"
    return ResolvedPrecision("bf16_mixed" if ratio >= CLEARLY_FASTER else "fp32", numbers)


def _training_step(width: int, tokens: int) -> tuple[Callable[[bool], None], float]:
    """A feed-forward block's forward and backward pass, in bf16 or not, and its floating-point operations.

    The casts of weights and activations are part of it, as they are of training.
    """
    hidden_TD = torch.randn(tokens, width)
    up_FD = torch.randn(4 * width, width, requires_grad=True)
    down_DF = torch.randn(width, 4 * width, requires_grad=True)

    def step(bf16: bool) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            inner_TF: Tensor = functional.gelu(functional.linear(hidden_TD, up_FD))
            outer_TD = functional.linear(inner_TF, down_DF)
        outer_TD.float().sum().backward()  # type: ignore[no-untyped-call]

    products = (
        2  # of the forward pass; the backward pass has twice as many, less the one for the input, which needs none
    )
    return step, (3 * products - 1) * 2.0 * tokens * width * 4 * width


def interleaved_medians(candidates: dict[str, Callable[[], None]]) -> dict[str, float]:
    """Median seconds of each candidate, in turns on one thread after one round to warm up."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        names = list(candidates)
        times: dict[str, list[float]] = {name: [] for name in names}
        calls = timed_calls(lambda number: candidates[names[number % len(names)]](), time.perf_counter)
        elapsed_s = 0.0
        for number, timed in enumerate(calls):
            if number >= len(names):
                times[names[number % len(names)]].append(timed.seconds)
                elapsed_s += timed.seconds
            if elapsed_s >= MEASURED_S and len(times[names[-1]]) >= FEWEST_ROUNDS:
                break
    finally:
        torch.set_num_threads(threads)
    return {name: statistics.median(values) for name, values in times.items()}


def explain_precision(study: Study) -> str:
    """A study's training precision and the reason, as `plan` and `run` print it."""
    precision = study.tuning.precision
    if all(size.resources.gpus for size in study.sizes):
        return f"{precision}, as the recipe says"
    here = cpu_precision()
    if here.value == precision:
        return f"{precision} ({here.reason})"
    return f"{precision}, as the recipe says; {here.reason}"
