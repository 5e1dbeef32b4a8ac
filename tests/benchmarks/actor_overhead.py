"""How much does the benchmark's Ray actor add to the latency it measures?

    python -m tests.benchmarks.actor_overhead [--rounds 5] [--quick]

One encoder with a service time of about 5 ms is measured in turns by the plain class in a fresh process and by the actor under
Ray (`run_in_actor`, as a study does). SingleStream only, same threads, same pinned cores. `p50_ratio` is the actor's p50 over
the plain class's: the median over rounds of the ratio within a round. Goal: under 1.01. The last line is one JSON document.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from statistics import median
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table
from transformers import XLMRobertaModel

from study.benchmarking.placement import placement_of
from study.cluster.connection import connected
from study.spec import BenchmarkPlan
from trainables.benchmark.actor import run_in_actor
from trainables.benchmark.measurement import Unavailable
from trainables.benchmark.probes.hardware import available_cores, hardware
from trainables.benchmark.settings import BenchmarkSettings
from trainables.benchmark.subjects.fresh import Subject, run_fresh
from trainables.benchmark.subjects.plain import FolderBenchmark
from trainables.models.encoder import Shape
from trainables.store.versions import versions
from trainables.tasks.micro.entailment import MicroEntailment

SHAPE = Shape(8, 256)
ALLOWED = 1.01

console = Console(highlight=False, width=100)

Rounds = Annotated[int, typer.Option(min=1, help="measurements of each side")]
Seconds = Annotated[float, typer.Option(min=0.1, help="duration of each measurement")]
Quick = Annotated[bool, typer.Option("--quick", help="one round of 1 s")]


def main(rounds: Rounds = 5, seconds: Seconds = 15.0, quick: Quick = False) -> None:
    """Print a table and one JSON line."""
    started = time.perf_counter()
    if quick:
        rounds, seconds = 1, 1.0
    settings = BenchmarkSettings(seconds, 64, 4 * seconds, scenarios=("SingleStream",), text_s=0.1)
    plain: list[float] = []
    actor: list[float] = []
    with tempfile.TemporaryDirectory() as folder, connected(None, cpus=available_cores()):
        torch.manual_seed(0)
        XLMRobertaModel(SHAPE.config(4000, 1), add_pooling_layer=False).save_pretrained(folder)
        subject = FolderBenchmark(folder, MicroEntailment(), threads=1, settings=settings)
        for turn in range(rounds):
            for side in ("plain", "actor") if turn % 2 == 0 else ("actor", "plain"):
                (plain if side == "plain" else actor).append(_p50_ms(subject, side, turn))
    ratios = [in_actor / bare for in_actor, bare in zip(actor, plain, strict=True)]
    table = Table("", "p50 ms", "range")
    for name, values in (("plain class", plain), ("actor", actor)):
        table.add_row(name, f"{median(values):.3f}", f"{min(values):.3f} to {max(values):.3f}")
    console.print(table)
    verdict = "reached" if median(ratios) < ALLOWED else "missed"
    console.print(f"p50_ratio {median(ratios):.4f} ({min(ratios):.4f} to {max(ratios):.4f} by round): goal {verdict}")
    document = {
        "p50_ratio": round(median(ratios), 4),
        "spreads": {"p50_ratio": [round(min(ratios), 4), round(max(ratios), 4)]},
        "plain_p50_ms": [round(value, 4) for value in plain],
        "actor_p50_ms": [round(value, 4) for value in actor],
        "rounds": rounds,
        "seconds": seconds,
        "load_average": os.getloadavg(),
        "wall_s": round(time.perf_counter() - started, 1),
        "hardware": hardware().as_dict(),
        "versions": versions(),
        "command": " ".join(["python", "-m", "tests.benchmarks.actor_overhead", *sys.argv[1:]]),
    }
    print(json.dumps(document))


def _p50_ms(subject: Subject, side: str, turn: int) -> float:
    if side == "plain":
        measured = run_fresh(subject, "fp32", scored=False)
    else:
        measured = run_in_actor(
            subject, "fp32", scored=False, label=f"overhead {turn}", placement=placement_of(BenchmarkPlan(device="cpu"))
        )
    if isinstance(measured, Unavailable):
        raise RuntimeError(measured.reason)
    return float(measured["p50_ms"])


if __name__ == "__main__":
    typer.run(main)
