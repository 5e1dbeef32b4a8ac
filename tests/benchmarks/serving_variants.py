"""How much faster than eager fp32 can one trained model be served on a CPU, and what does it cost in score?

    python -m tests.benchmarks.serving_variants [--rounds 5] [--only compiled] [--quick]

One model for all: a 12 x 384 encoder with our tagging head, trained here on MicroXTREME's tagging for a minute or two from
random weights, so that its scores are far from chance. Every variant that this machine can run is prepared in a process of its
own, which stays; the variants then take turns, a shape at a time, another one first in each round:

    1x32, 1x128    one row: what a single user waits for
    32x64          a full batch without padding
    32xXNLI        32 rows as long as XNLI's (17 to 67 tokens), padded to the longest: what padding costs

Timed is the forward pass from token ids to logits in host memory. A ratio is eager fp32's median over the variant's, within a
round; the median over rounds stands with its range. The score is the mean test span F1 over the languages trained and not
trained on, by the same way of running; its difference from eager fp32 stands beside the speed. A variant that cannot run here
says why.

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
from trainables.benchmark.scenarios.lengths import XNLI_LENGTHS
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
Seconds = Annotated[float, typer.Option(min=0.02, help="of each shape in each round")]
Threads = Annotated[int | None, typer.Option(min=1, help="threads; as many as there are cores")]
Only = Annotated[str, typer.Option(help="variants whose name contains this, beside eager fp32")]
Quick = Annotated[bool, typer.Option("--quick", help="a tiny model, hardly trained; two short rounds")]


@dataclass(frozen=True)
class Trained:
    """What every process loads: the finished evaluation of one model in a store."""

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
        for name in names:  # one after the other: compilers want all cores
            found = pools[name].submit(_prepare, trained, name).result()
            if isinstance(found, str):
                reasons[name] = found
            else:
                prepared[name] = found
            console.print(f"{name}: {found if isinstance(found, str) else 'prepared'}", markup=False)
        ready = list(prepared)
        watch = InterferenceWatch(CPU, threads)
        took: dict[str, dict[str, list[float]]] = {name: {shape: [] for shape in SHAPES} for name in ready}
        for turn in range(rounds):
            for shape in SHAPES:
                for place in range(len(ready)):
                    name = ready[(turn + place) % len(ready)]
                    took[name][shape].append(pools[name].submit(_time, shape, seconds).result())
        seen = watch.read()  # while the processes of the variants live: their time is this one's
    document = {
        **_best(took),
        "scores": {name: round(one["score"], 3) for name, one in prepared.items()},
        "score_differences": {
            name: round(one["score"] - prepared[BASELINE]["score"], 3) for name, one in prepared.items()
        },
        "p50_ms": {
            name: {shape: round(1000 * median(some), 4) for shape, some in one.items()} for name, one in took.items()
        },
        "ratios": {name: {shape: _ratio(took, name, shape) for shape in SHAPES} for name in ready},
        "prepare_s": {name: round(one["prepare_s"], 1) for name, one in prepared.items()},
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
    """Eager fp32 over the variant, by round: median and range."""
    some = [base / mine for base, mine in zip(took[BASELINE][shape], took[name][shape], strict=True)]
    return {"median": round(median(some), 3), "low": round(min(some), 3), "high": round(max(some), 3)}


def _best(took: Mapping[str, Mapping[str, Sequence[float]]]) -> dict[str, Any]:
    """The quickest variant of each shape."""
    found: dict[str, Any] = {}
    for shape in SHAPES:
        ratios = {name: _ratio(took, name, shape)["median"] for name in took}
        best = max(ratios, key=lambda name: ratios[name])
        found |= {f"best_ratio_{shape}": ratios[best], f"best_variant_{shape}": best}
    return found


def _show(document: Mapping[str, Any]) -> None:
    table = Table("variant", *(f"{shape} ms (ratio, range)" for shape in SHAPES), "score", "difference")
    for name, ms in document["p50_ms"].items():
        cells = []
        for shape, value in ms.items():
            one = document["ratios"][name][shape]
            cells.append(f"{value:.2f} ({one['median']:.2f}, {one['low']:.2f} to {one['high']:.2f})")
        table.add_row(name, *cells, f"{document['scores'][name]:.2f}", f"{document['score_differences'][name]:+.2f}")
    console.print(table)
    for shape, goal in GOALS.items():
        best = document[f"best_ratio_{shape}"]
        verdict = "reached" if best >= goal else "missed"
        note = ", set for AMX, which this CPU lacks" if shape == "32x64" and not document["amx"] else ""
        if document["interference"]:
            verdict = f"not to be told: {document['interference']}"
        console.print(
            f"best_ratio_{shape} {best:.2f} ({document[f'best_variant_{shape}']}): goal {goal:g}{note}: {verdict}"
        )


# --- in a process for each variant


def _train(trained: Trained, threads: int) -> None:
    """In a process of its own: DeepSpeed stays out of this one."""
    with ProcessPoolExecutor(1, get_context("spawn"), _settle, (threads,)) as pool:
        metrics = pool.submit(_ensure, trained).result()
    console.print(f"trained: {metrics}", markup=False)


def _settle(threads: int) -> None:
    torch.set_num_threads(threads)
    pin(serving_cores(threads))


def _ensure(trained: Trained) -> dict[str, Any]:
    return dict(ensure(trained.evaluation, trained.work).metrics["test"])


_ready: dict[str, Forward] = {}  # of this process


def _prepare(trained: Trained, name: str) -> dict[str, Any] | str:
    """Prepare, score and warm up a variant; its score and the seconds of preparing, or why it cannot run."""
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
    found = summary(evaluation.task, evaluation.scores(_ready["forward"], trained.work))
    for shape in SHAPES:  # scoring ran under another mode of gradients, for which compilers make other graphs
        _time(shape, 0.1)
    return {"score": found["test_mean"], "prepare_s": prepare_s}


@cache
def _inputs(shape: str) -> tuple[torch.Tensor, torch.Tensor]:
    lengths = SHAPES[shape]
    generator = torch.Generator().manual_seed(0)
    ids_NL = torch.randint(10, 1000, (len(lengths), max(lengths)), generator=generator)
    mask_NL = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    return torch.where(mask_NL.bool(), ids_NL, 1), mask_NL


def _time(shape: str, seconds: float) -> float:
    """Seconds a call, the median of as many as fit the time, three at least, after one that does not count."""
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
