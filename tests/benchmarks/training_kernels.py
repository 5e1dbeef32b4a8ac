"""Which way to compute a training step is fastest on this CPU: attention, dropout masks, compiled layers?

    python -m tests.benchmarks.training_kernels [--rounds 7] [--quick]

Training on CPUs uses plain ("eager") attention, dropout masks from packed bits and no compiler. One step (forward pass,
backward pass, fused AdamW) of a 6 x 384 XLM-R body with dropout 0.1 is timed that way and with one thing changed: PyTorch's
fused attention (SDPA), PyTorch's own masks, compiled layers. None of these changes the result beyond rounding or the draw of
the masks. The vocabulary has 8,000 rows, as many as trimming leaves of a small training set.

Contestants take turns in every round, another one first each time. A ratio is the changed step's time over ours, above 1
where ours is faster: the median over rounds, with its range. Compilation is not part of a step and is reported beside it. The
last line is one JSON document.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from dataclasses import dataclass
from statistics import median
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from transformers import XLMRobertaConfig, XLMRobertaModel

from trainables.benchmark.probes.hardware import available_cores, hardware
from trainables.models.dropout import packed_dropout
from trainables.models.encoder import compile_layers
from trainables.store.versions import versions

ROWS, LAYERS, WIDTH, DROPOUT = 8000, 6, 384, 0.1
SHAPES = ((32, 40), (32, 128), (8, 384))  # rows x tokens: pairs of sentences, documents, questions with their passages
CPU = torch.device("cpu")

console = Console(highlight=False, width=80)

Rounds = Annotated[int, typer.Option(min=2, help="steps of each contestant")]
Quick = Annotated[bool, typer.Option("--quick", help="two rounds of a small batch, without the compiler")]
Threads = Annotated[int, typer.Option(min=0, help="threads of PyTorch; 0: one a core")]


@dataclass(frozen=True)
class Way:
    """A way to compute a training step."""

    attention: str = "eager"
    packed_masks: bool = True
    compiled: bool = False


OURS = "ours"
WAYS = {
    OURS: Way(),
    "SDPA": Way(attention="sdpa"),
    "PyTorch's masks": Way(packed_masks=False),
    "compiled layers": Way(compiled=True),
}


class Contestant:
    """A model and its optimizer, trained one way."""

    def __init__(self, way: Way, *, bf16: bool) -> None:
        torch.manual_seed(0)
        config = XLMRobertaConfig(
            vocab_size=ROWS,
            hidden_size=WIDTH,
            num_hidden_layers=LAYERS,
            num_attention_heads=WIDTH // 32,
            intermediate_size=4 * WIDTH,
            max_position_embeddings=514,
            type_vocab_size=1,
            pad_token_id=1,
            hidden_dropout_prob=DROPOUT,
            attention_probs_dropout_prob=DROPOUT,
            attn_implementation=way.attention,
        )
        self.way, self.bf16 = way, bf16
        self.model: nn.Module = XLMRobertaModel(config, add_pooling_layer=False).train()
        if way.compiled:
            compile_layers(self.model)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-5, fused=True)

    def step_s(self, inputs: dict[str, Tensor]) -> float:
        """Seconds of one training step."""
        start = time.perf_counter()
        with packed_dropout(CPU) if self.way.packed_masks else contextlib.nullcontext():
            with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
                hidden_NLD = self.model(**inputs).last_hidden_state
            hidden_NLD.float().pow(2).mean().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return time.perf_counter() - start


@dataclass(frozen=True)
class Measured:
    """Steps of one batch shape in one precision; times in seconds by contestant."""

    precision: str
    rows: int
    tokens: int
    times: dict[str, list[float]]
    first: dict[str, float]

    @property
    def step_ms(self) -> dict[str, float]:
        return {name: round(median(values) * 1e3, 1) for name, values in self.times.items()}

    def ratios(self) -> dict[str, list[float]]:
        """Each changed step's time over ours: sorted, one a round."""
        ours = self.times[OURS]
        return {
            name: sorted(other / own for other, own in zip(values, ours, strict=True))
            for name, values in self.times.items()
            if name != OURS
        }

    def cells(self) -> list[str]:
        return [f"{median(values):.2f} ({values[0]:.2f}-{values[-1]:.2f})" for values in self.ratios().values()]

    def document(self) -> dict[str, Any]:
        return {
            "precision": self.precision,
            "rows": self.rows,
            "tokens": self.tokens,
            "step_ms": self.step_ms,
            "ratios": {name: round(median(values), 3) for name, values in self.ratios().items()},
            "spreads": {name: [round(values[0], 3), round(values[-1], 3)] for name, values in self.ratios().items()},
            "first_step_s": {name: round(value, 1) for name, value in self.first.items()},
        }


def main(rounds: Rounds = 7, quick: Quick = False, threads: Threads = 0) -> None:
    """Print a table and one JSON line."""
    started = time.perf_counter()
    torch.set_num_threads(threads or available_cores())
    ways, shapes = dict(WAYS), list(SHAPES)
    if quick:
        rounds, shapes = 2, [(4, 16)]
        del ways["compiled layers"]
    table = Table("rows x tokens", "precision", "ours ms", *(name for name in ways if name != OURS))
    measured = []
    for bf16 in (False, True):
        contestants = {name: Contestant(way, bf16=bf16) for name, way in ways.items()}
        for rows, tokens in shapes:
            times, first = _times(contestants, _batch(rows, tokens), rounds)
            shape = Measured("bf16" if bf16 else "fp32", rows, tokens, times, first)
            table.add_row(f"{rows} x {tokens}", shape.precision, f"{shape.step_ms[OURS]:.0f}", *shape.cells())
            measured.append(shape)
    console.print(table)
    document = {
        "steps": [shape.document() for shape in measured],
        "rounds": rounds,
        "layers": LAYERS,
        "width": WIDTH,
        "dropout": DROPOUT,
        "threads": torch.get_num_threads(),
        "load_average": os.getloadavg(),
        "wall_s": round(time.perf_counter() - started, 1),
        "hardware": hardware().as_dict(),
        "versions": versions(),
        "command": " ".join(["python", "-m", "tests.benchmarks.training_kernels", *sys.argv[1:]]),
    }
    print(json.dumps(document))


def _batch(rows: int, tokens: int) -> dict[str, Tensor]:
    """Random ids; every third row is a sixth shorter, so that the attention mask has work to do."""
    mask_NL = torch.ones(rows, tokens, dtype=torch.long)
    mask_NL[::3, tokens - tokens // 6 :] = 0
    return {"input_ids": torch.randint(5, ROWS, (rows, tokens)), "attention_mask": mask_NL}


def _times(
    contestants: dict[str, Contestant], inputs: dict[str, Tensor], rounds: int
) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Seconds of each contestant's steps, and of its first one, in which a compiler works."""
    first = {name: contestant.step_s(inputs) for name, contestant in contestants.items()}
    names = list(contestants)
    times: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        start = turn % len(names)
        for name in names[start:] + names[:start]:
            times[name].append(contestants[name].step_s(inputs))
    return times, first


if __name__ == "__main__":
    typer.run(main)
