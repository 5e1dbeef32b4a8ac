"""The share of a GPU's peak that training and scoring reach (MFU): as measured on that GPU, else assumed.

An eager layer costs the time of its kernels' launches whatever it computes, about 2 ms forward and backward. What decides is
therefore the work of a layer in one micro-step: the tokens that a GPU processes at once, times the layer's parameters. The
tables are keyed by the milliseconds which that work would take at the card's peak, so that they hold for every size and card.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from statistics import median
from typing import Any

from study.planning.architecture import Architecture
from trainables.models.catalogue import config_of, published

MEASURED = Path(__file__).parents[2] / "docs" / "measured"
SPREAD = 0.15  # of a measured share: other tasks and lengths than those measured
COMMUNICATION = 0.85  # of a share that several workers keep, in the better case; the worse is its square
Row = tuple[float, float, float]  # ideal milliseconds of a layer in a micro-step, and the shares: low, high

# Arithmetic from launch times and kernel rates of an H100, and no measurement. Between rows, linear in the logarithm.
ASSUMED: tuple[Row, ...] = (
    (0.01, 0.004, 0.006),
    (0.1, 0.04, 0.06),
    (0.35, 0.13, 0.22),
    (1.0, 0.27, 0.40),
    (3.0, 0.35, 0.50),
    (10.0, 0.38, 0.55),
)
SCORING: Row = (0.0, 0.35, 0.7)  # batches of 4096 tokens in fp32 without tensor cores; also assumed


@dataclass(frozen=True)
class Share:
    """A share of the peak with its range, and whether it rests on measurements of the GPU."""

    low: float
    high: float
    measured: bool = False

    @property
    def usual(self) -> float:
        return math.sqrt(self.low * self.high)


def training_share(
    architecture: Architecture, tokens: float, *, peak_tflops: float, workers: int = 1, rows: Sequence[Row] = ()
) -> Share:
    """The share that training reaches with so many real tokens in a GPU's micro-step; `rows` are those measured on the GPU."""
    table = sorted(rows) or ASSUMED
    low, high = _interpolated(table, ideal_ms(architecture.count.body, architecture.layers, tokens, peak_tflops))
    if workers > 1:
        low, high = low * COMMUNICATION**2, high * COMMUNICATION
    return Share(low, high, measured=bool(rows))


def ideal_ms(body: int, layers: int, tokens: float, peak_tflops: float) -> float:
    """Milliseconds that a layer's forward and backward pass over so many tokens take at the peak."""
    return 6 * body / layers * tokens / (peak_tflops * 1e9)


def _interpolated(table: Sequence[Row], ms: float) -> tuple[float, float]:
    first, last = table[0], table[-1]
    if ms <= first[0]:  # launches alone take the time
        return first[1] * ms / first[0], first[2] * ms / first[0]
    for left, right in itertools.pairwise(table):
        if ms <= right[0]:
            part = math.log(ms / left[0]) / math.log(right[0] / left[0])
            return left[1] + part * (right[1] - left[1]), left[2] + part * (right[2] - left[2])
    return last[1], last[2]


@lru_cache(maxsize=8)
def measured_rows(accelerator: str, folder: Path = MEASURED) -> tuple[Row, ...]:
    """What was measured on a GPU of this name of Ray, from the documents in docs/measured.

    They are those of `tests.benchmarks.gpu_train` and `gpu_day`. Of several measurements of the same work the median counts.
    """
    words = set(accelerator.split("-"))
    paths = (path for benchmark in ("gpu_train", "gpu_day") for path in sorted(folder.glob(f"{benchmark}-*.json")))
    documents = (json.loads(path.read_text(encoding="utf-8")) for path in paths)
    matching = [document for document in documents if words <= set(str(document["device"]).replace("-", " ").split())]
    shares: dict[float, list[float]] = {}
    for document in matching:
        settings = document["settings"] if "settings" in document else document["parts"]["training"]
        for setting in settings:
            if _as_recipes_train(setting):
                ms, share = _work_and_share(document["peak_tflops"], setting)
                shares.setdefault(ms, []).append(share)
    middle = [(ms, median(values)) for ms, values in sorted(shares.items())]
    return tuple((ms, share * (1 - SPREAD), share * (1 + SPREAD)) for ms, share in middle)


def _as_recipes_train(setting: Mapping[str, Any]) -> bool:
    """Whether a setting was measured, and as recipes train by default: padded, not compiled, on one GPU without ZeRO 3."""
    return (
        setting["outcome"] == "measured"
        and setting["mfu"] is not None
        and setting["offload"] == "none"
        and setting["zero_stage"] < 3
        and not (setting.get("unpad") or setting.get("compiled"))
        and setting.get("precision", "bf16_mixed") == "bf16_mixed"
    )


def _work_and_share(peak_tflops: float, setting: Mapping[str, Any]) -> tuple[float, float]:
    """A setting's ideal milliseconds of a layer in a micro-step, and the share of the peak with recomputation as work."""
    config = config_of(published(setting["encoder"], layers=setting.get("layers")))
    assert config is not None  # the catalogue has it
    tokens = setting["tokens"] / setting["micro_batches"]
    ms = ideal_ms(setting["parameters_body"], config.num_hidden_layers, tokens, peak_tflops)
    # Plans count the recomputed forward pass as work; the measured MFU does not.
    return ms, setting["mfu"] * (4 / 3 if setting["activation_checkpointing"] else 1)
