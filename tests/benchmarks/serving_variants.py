"""How much faster than eager fp32 can a trained model be served on a CPU, and what does it cost in score?

    python -m tests.benchmarks.serving_variants [--rounds 5] [--only compiled] [--quick]

All variants serve one model: a 12 x 384 encoder with our tagging head, trained here on MicroXTREME's tagging for a minute or
two from random weights, so that its scores are far from chance. Every variant that this machine can run is prepared in its own
process, which stays alive. The variants then take turns on each shape, another one first in each round:

    1x32, 1x128    one row: what a single user waits for
    32x64          a full batch without padding
    32xXNLI        32 rows with XNLI's lengths (17 to 67 tokens), padded to the longest: what padding costs

The time is that of the forward pass from token ids to logits in host memory. A ratio is eager fp32's median over the variant's
within a round; reported are the median over rounds and the range. The score is the mean test span F1 over all three languages,
served by the variant itself, with its difference from eager fp32. A variant that cannot run here is listed with the reason.

Goals: `best_ratio_1x32` and `best_ratio_1x128` at least 2.5; `best_ratio_32x64` at least 5 where the CPU multiplies bf16 in
tiles (AMX), for which the goal was set; `amx` says whether it does. The last line is one JSON document.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table

from trainables.benchmark.placement import pin, serving_cores
from trainables.benchmark.probes.hardware import available_cores, hardware
from trainables.benchmark.probes.interference import InterferenceWatch
from trainables.benchmark.scenarios.queries import XNLI_LENGTHS
from trainables.benchmark.variants import VARIANTS, VariantUnavailable, variant_named
from trainables.evaluation import Forward
from trainables.hyperparameters import Training
from trainables.models.encoder import Shape
from trainables.models.task_model import load_task_model
from trainables.stages.base import Workplace, ensure
from trainables.stages.evaluate import Evaluate, summary
from trainables.stages.finetune import FineTune
from trainables.stages.pretrain import Pretrain
from trainables.stages.vocabulary import Vocabulary
from trainables.store.stage_store import StageStore
from trainables.store.versions import versions
from trainables.tasks.micro.corpus import MicroCorpus
from trainables.tasks.micro.tagging import MicroTagging
from trainables.training.batching import Share

BASELINE = "fp32"
LANGUAGES = ("en", "de", "fi")
SHAPES: dict[str, tuple[int, ...]] = {
    "1x32": (32,),
    "1x128": (128,),
    "32x64": (64,) * 32,
    "32xXNLI": XNLI_LENGTHS,
}
GOALS = {"1x32": 2.5, "1x128": 2.5, "32x64": 5.0}
CPU = torch.device("cpu")

console = Console(highlight=False, width=140)

Rounds = Annotated[int, typer.Option(min=1, help="turns of each variant")]
Seconds = Annotated[float, typer.Option(min=0.02, help="duration of each shape in each round")]
Threads = Annotated[int | None, typer.Option(min=1, help="threads; by default one a core")]
Only = Annotated[str, typer.Option(help="variants whose name contains this, and eager fp32")]
Quick = Annotated[bool, typer.Option("--quick", help="a tiny model, barely trained; two short rounds")]


@dataclass(frozen=True)
class Trained:
    """The model that every process loads: a finished evaluation in a store."""

    output: str
    quick: bool

    @property
    def evaluation(self) -> Evaluate:
        shape, steps = (Shape(2, 64), 5) if self.quick else (Shape(12, 384), 200)
        corpus = MicroCorpus(languages=LANGUAGES, sentences=500)
        usual = Training(learning_rate=5e-4, steps=1, batch_size=2, seed=0)
        root = Pretrain(Vocabulary(corpus, 2000), shape, usual, 8, trained=False)
        task = MicroTagging(languages_=LANGUAGES, test_size=64)
        tuning = Training(learning_rate=5e-4, steps=steps, batch_size=16, seed=0)
        return Evaluate(FineTune(root, task.for_training(), tuning), task, tuning.max_length)

    @property
    def work(self) -> Workplace:
        return Workplace(StageStore(Path(self.output)), Share(0, 1, 16))


def main(
    rounds: Rounds = 5, seconds: Seconds = 1.0, threads: Threads = None, only: Only = "", quick: Quick = False
) -> None:
    """Print a table and one JSON line."""
    started = time.perf_counter()
    if quick:
        rounds, seconds = 2, 0.05
    threads = threads or available_cores()
    names = [BASELINE, *(name for name in VARIANTS if only in name and name != BASELINE)]
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        trained = Trained(folder, quick)
        _train(trained, threads)
        pools = {
            name: stack.enter_context(ProcessPoolExecutor(1, get_context("spawn"), _settle, (threads,)))
            for name in names
        }
        prepared: dict[str, dict[str, Any]] = {}
        reasons: dict[str, str] = {}
        for name in names:  # one after another: compilers use all cores
            result = pools[name].submit(_prepare, trained, name).result()
            if isinstance(result, str):
                reasons[name] = result
            else:
                prepared[name] = result
            console.print(f"{name}: {result if isinstance(result, str) else 'prepared'}", markup=False)
        ready = list(prepared)
        watch = InterferenceWatch(CPU, threads)
        took: dict[str, dict[str, list[float]]] = {name: {shape: [] for shape in SHAPES} for name in ready}
        for turn in range(rounds):
            for shape in SHAPES:
                for position in range(len(ready)):
                    name = ready[(turn + position) % len(ready)]
                    took[name][shape].append(pools[name].submit(_time, shape, seconds).result())
        seen = watch.read()  # before the variants' processes end: their CPU time counts as this process's
    document = {
        **_best(took),
        "scores": {name: round(result["score"], 3) for name, result in prepared.items()},
        "score_differences": {
            name: round(result["score"] - prepared[BASELINE]["score"], 3) for name, result in prepared.items()
        },
        "p50_ms": {
            name: {shape: round(1000 * median(values), 4) for shape, values in shapes.items()}
            for name, shapes in took.items()
        },
        "ratios": {name: {shape: _ratio(took, name, shape) for shape in SHAPES} for name in ready},
        "prepare_s": {name: round(result["prepare_s"], 1) for name, result in prepared.items()},
        "unavailable": reasons,
        "amx": torch.cpu._is_amx_tile_supported(),
        "rounds": rounds,
        "seconds": seconds,
        "threads": threads,
        "interference": str(seen) if seen.suspected else None,
        "load_average": os.getloadavg(),
        "wall_s": round(time.perf_counter() - started, 1),
        "hardware": hardware().as_dict(),
        "versions": versions(),
        "command": " ".join(["python", "-m", "tests.benchmarks.serving_variants", *sys.argv[1:]]),
    }
    _show(document)
    print(json.dumps(document))


def _ratio(took: Mapping[str, Mapping[str, Sequence[float]]], name: str, shape: str) -> dict[str, float]:
    """Eager fp32's time over the variant's by round: median and range."""
    ratios = [base / own for base, own in zip(took[BASELINE][shape], took[name][shape], strict=True)]
    return {"median": round(median(ratios), 3), "low": round(min(ratios), 3), "high": round(max(ratios), 3)}


def _best(took: Mapping[str, Mapping[str, Sequence[float]]]) -> dict[str, Any]:
    """The fastest variant of each shape."""
    fastest: dict[str, Any] = {}
    for shape in SHAPES:
        ratios = {name: _ratio(took, name, shape)["median"] for name in took}
        best = max(ratios, key=lambda name: ratios[name])
        fastest |= {f"best_ratio_{shape}": ratios[best], f"best_variant_{shape}": best}
    return fastest


def _show(document: Mapping[str, Any]) -> None:
    table = Table("variant", *(f"{shape} ms (ratio, range)" for shape in SHAPES), "score", "difference")
    for name, ms in document["p50_ms"].items():
        cells = []
        for shape, value in ms.items():
            ratio = document["ratios"][name][shape]
            cells.append(f"{value:.2f} ({ratio['median']:.2f}, {ratio['low']:.2f} to {ratio['high']:.2f})")
        table.add_row(name, *cells, f"{document['scores'][name]:.2f}", f"{document['score_differences'][name]:+.2f}")
    console.print(table)
    for shape, goal in GOALS.items():
        best = document[f"best_ratio_{shape}"]
        verdict = "reached" if best >= goal else "missed"
        note = ", set for AMX, which this CPU lacks" if shape == "32x64" and not document["amx"] else ""
        if document["interference"]:
            verdict = f"undecided: {document['interference']}"
        console.print(
            f"best_ratio_{shape} {best:.2f} ({document[f'best_variant_{shape}']}): goal {goal:g}{note}: {verdict}"
        )


# --- in the process of a variant


def _train(trained: Trained, threads: int) -> None:
    """Train in another process, so that this one never loads DeepSpeed."""
    with ProcessPoolExecutor(1, get_context("spawn"), _settle, (threads,)) as pool:
        metrics = pool.submit(_ensure, trained).result()
    console.print(f"trained: {metrics}", markup=False)


def _settle(threads: int) -> None:
    torch.set_num_threads(threads)
    pin(serving_cores(threads))


def _ensure(trained: Trained) -> dict[str, Any]:
    return dict(ensure(trained.evaluation, trained.work).metrics["test"])


_ready: dict[str, Forward] = {}  # the variant of this process


def _prepare(trained: Trained, name: str) -> dict[str, Any] | str:
    """Prepare, score and warm up a variant. Returns its score and the seconds of preparing, or why it cannot run."""
    variant, evaluation = variant_named(name), trained.evaluation
    if reason := variant.unavailable(CPU):
        return reason
    start = time.perf_counter()
    model = load_task_model(trained.work.store.folder(evaluation.model), evaluation.task)
    try:
        _ready["forward"] = variant.prepare(model, CPU)
    except VariantUnavailable as error:
        return error.reason
    for shape in SHAPES:
        _time(shape, 0.1)
    prepare_s = time.perf_counter() - start
    scores = summary(evaluation.task, evaluation.scores(_ready["forward"], trained.work))
    for shape in SHAPES:  # scoring ran in another gradient mode, for which compilers build other graphs
        _time(shape, 0.1)
    return {"score": scores["test_mean"], "prepare_s": prepare_s}


@cache
def _inputs(shape: str) -> tuple[torch.Tensor, torch.Tensor]:
    lengths = SHAPES[shape]
    generator = torch.Generator().manual_seed(0)
    ids_NL = torch.randint(10, 1000, (len(lengths), max(lengths)), generator=generator)
    mask_NL = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    return torch.where(mask_NL.bool(), ids_NL, 1), mask_NL


def _time(shape: str, seconds: float) -> float:
    """Median seconds of as many calls as fit the time, at least three, after one that does not count."""
    ids_NL, mask_NL = _inputs(shape)
    took: list[float] = []
    with torch.inference_mode():
        _ready["forward"](ids_NL, mask_NL)
        end = time.perf_counter() + seconds
        while len(took) < 3 or time.perf_counter() < end:
            start = time.perf_counter()
            _ready["forward"](ids_NL, mask_NL).float().cpu()
            took.append(time.perf_counter() - start)
    return median(took)


if __name__ == "__main__":
    typer.run(main)
