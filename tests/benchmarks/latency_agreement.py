"""Does the benchmark's p50 agree with other tools' on the same model?

    python -m tests.benchmarks.latency_agreement [--rounds 7] [--quick]

One encoder (12 x 384, random weights: speed does not depend on them), one row of tokens, the same threads on the same cores.
In each round, in turns:

1. Ours: SingleStream through LoadGen, as the benchmark measures it. The p50 of service times that include query lookup,
   padding, forward pass and the copy of the answer to the host.
2. `torch.utils.benchmark.Timer` around the forward pass only, in `inference_mode`; the median of its blocks.
3. optimum-benchmark's inference scenario on the same weights saved to a folder, in its own process: the p50 of its forward
   latencies. Where it is not installed (`pip install optimum-benchmark`) it is left out with a message.

`p50_ratio` is ours over torch's: the median over rounds and shapes of the ratio within a round, with its range. Goal: within 3%
of 1. The last line is one JSON document.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch.utils.benchmark import Timer
from transformers import PreTrainedModel, XLMRobertaModel

from trainables.benchmark.placement import pinned, serving_cores
from trainables.benchmark.probes.hardware import available_cores, hardware
from trainables.benchmark.probes.interference import InterferenceWatch
from trainables.benchmark.scenarios.loadgen import LoadSettings, single_stream
from trainables.benchmark.scenarios.serving import ModelServer
from trainables.heads.bitext import EmbeddingModule
from trainables.models.encoder import Shape
from trainables.models.task_model import TaskModel
from trainables.store.versions import versions

CPU = torch.device("cpu")
VOCABULARY, PAD = 4000, 1
LENGTHS = (32, 128)
ALLOWED = 0.03

console = Console(highlight=False, width=120)

Rounds = Annotated[int, typer.Option(min=1, help="how many times each side measures each shape")]
Seconds = Annotated[float, typer.Option(min=0.05, help="duration of each measurement")]
Threads = Annotated[int | None, typer.Option(min=1, help="threads; by default one a core")]
Quick = Annotated[bool, typer.Option("--quick", help="a smaller encoder, two rounds of 0.3 s")]


def main(rounds: Rounds = 7, seconds: Seconds = 4.0, threads: Threads = None, quick: Quick = False) -> None:
    """Print a table and one JSON line."""
    started = time.perf_counter()
    if quick:
        rounds, seconds = 2, 0.3
    threads = threads or available_cores()
    watch = InterferenceWatch(CPU, threads)
    model = _model(Shape(4, 128) if quick else Shape(12, 384))
    p50_s: dict[int, dict[str, list[float]]] = {length: {"ours": [], "torch": [], "optimum": []} for length in LENGTHS}
    with pinned(threads, serving_cores(threads)), tempfile.TemporaryDirectory() as folder:
        model.encoder.save_pretrained(folder)
        for turn in range(rounds):
            for length in LENGTHS:
                contestants: list[tuple[str, Callable[[], float]]] = [
                    ("ours", lambda n=length: _ours(model, n, seconds, threads)),  # type: ignore[misc]
                    ("torch", lambda n=length: _torch(model, n, seconds, threads)),  # type: ignore[misc]
                ]
                for name, measure in contestants if turn % 2 == 0 else reversed(contestants):
                    p50_s[length][name].append(measure())
        missing = _missing_optimum()
        if missing is None:
            for length in LENGTHS:
                p50_s[length]["optimum"].append(_optimum(Path(folder), model, length, seconds, threads))
    ratios = {n: [a / b for a, b in zip(sides["ours"], sides["torch"], strict=True)] for n, sides in p50_s.items()}
    every = [ratio for values in ratios.values() for ratio in values]
    ratio = median(every)
    _show(p50_s, ratios, missing)
    seen = watch.read()
    verdict = "reached" if abs(ratio - 1) <= ALLOWED else "missed"
    if seen.suspected:
        verdict = f"undecided: {seen}"
    console.print(f"p50_ratio {ratio:.4f} ({min(every):.4f} to {max(every):.4f} by round): goal {verdict}")
    document = {
        "p50_ratio": round(ratio, 4),
        "spreads": {"p50_ratio": [round(min(every), 4), round(max(every), 4)]},
        "p50_ratio_by_length": {str(n): round(median(values), 4) for n, values in ratios.items()},
        "p50_ms": {
            str(n): {side: round(median(values) * 1000, 4) for side, values in measured.items() if values}
            for n, measured in p50_s.items()
        },
        "optimum_benchmark": missing or "measured",
        "rounds": rounds,
        "seconds": seconds,
        "threads": threads,
        "interference": str(seen),
        "load_average": os.getloadavg(),
        "wall_s": round(time.perf_counter() - started, 1),
        "hardware": hardware().as_dict(),
        "versions": versions(),
        "command": " ".join(["python", "-m", "tests.benchmarks.latency_agreement", *sys.argv[1:]]),
    }
    print(json.dumps(document))


def _model(shape: Shape) -> TaskModel:
    torch.manual_seed(0)
    encoder: PreTrainedModel = XLMRobertaModel(shape.config(VOCABULARY, PAD), add_pooling_layer=False)
    return TaskModel(encoder, EmbeddingModule()).eval()


def _row(length: int) -> tuple[int, ...]:
    return tuple(10 + position for position in range(length))


def _ours(model: TaskModel, length: int, seconds: float, threads: int) -> float:
    """The p50 in seconds."""
    served = ModelServer(
        model.logits, [(_row(length),)], pad_id=PAD, device=CPU, threads=threads, cores=serving_cores(threads)
    )
    start = time.perf_counter()
    for _ in range(5):
        served.serve(0)
    expected_s = (time.perf_counter() - start) / 5
    load = LoadSettings(min_duration_s=seconds, min_queries=11, max_duration_s=10 * seconds)
    p50_s = single_stream(served.serve, 1, load, expected_latency_s=expected_s).percentile_s(50)
    assert p50_s is not None  # at least 11 queries
    return p50_s


def _torch(model: TaskModel, length: int, seconds: float, threads: int) -> float:
    ids_NL = torch.tensor([_row(length)])
    timer = Timer(
        "with torch.inference_mode(): forward(ids, mask)",
        globals={"torch": torch, "forward": model.logits, "ids": ids_NL, "mask": torch.ones_like(ids_NL)},
        num_threads=threads,
    )
    return float(timer.blocked_autorange(min_run_time=seconds).median)


def _missing_optimum() -> str | None:
    return None if importlib.util.find_spec("optimum_benchmark") else "optimum-benchmark is not installed"


def _optimum(folder: Path, model: TaskModel, length: int, seconds: float, threads: int) -> float:
    from optimum_benchmark import Benchmark, BenchmarkConfig, InferenceConfig, PyTorchConfig
    from optimum_benchmark.launchers.process.config import ProcessConfig

    config = BenchmarkConfig(
        name="latency_agreement",
        launcher=ProcessConfig(),
        backend=PyTorchConfig(
            model=str(folder),
            task="feature-extraction",
            library="transformers",
            model_type=model.encoder.config.model_type,
            device="cpu",
            no_weights=False,
            intra_op_num_threads=threads,
        ),
        scenario=InferenceConfig(
            latency=True,
            memory=False,
            warmup_runs=10,
            iterations=11,
            duration=max(int(seconds), 1),
            input_shapes={"batch_size": 1, "sequence_length": length},
        ),
    )
    latency: Any = Benchmark.launch(config).forward.latency
    return float(latency.p50)


def _show(p50_s: dict[int, dict[str, list[float]]], ratios: dict[int, list[float]], missing: str | None) -> None:
    table = Table("tokens", "ours ms", "torch ms", "optimum ms", "ours / torch", "range")
    for length, sides in p50_s.items():
        ms = [f"{median(values) * 1000:.3f}" if values else "n/a" for values in sides.values()]
        ratio = ratios[length]
        table.add_row(f"1x{length}", *ms, f"{median(ratio):.4f}", f"{min(ratio):.4f} to {max(ratio):.4f}")
    console.print(table)
    if missing:
        console.print(missing)


if __name__ == "__main__":
    typer.run(main)
