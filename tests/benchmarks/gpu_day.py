"""Does everything work on this GPU, and how fast is it? One command for a bare machine with one GPU and no network.

    python -m tests.benchmarks.gpu_day [--data-root ../shared/data] [--save]
    python -m tests.benchmarks.gpu_day --device cpu --tiny             # the same code on two-layer encoders

Within 12 minutes, in this order, as nothing after a failed check is worth much:

    doctor      `python -m study doctor`
    attention   the kernel for rows of different lengths, against attention row by row in fp32
    losses      ten steps of a tiny model on the CPU and on the GPU are equal up to rounding, in each precision
    training    MFU of XLM-R large, XL, base, and XXL where it fits, after each step of the fast loop (`gpu_train`)
    serving     latency at batch 1 and 32 by variant, with the floor of memory bandwidth and NVML's energy (`gpu_bench`)
    study       `laptop_tiny` on the GPU, if `--data-root` has the weights of multilingual-e5-small

Each part has a budget of seconds, and every measurement runs in a process of its own. What does not fit the device, what this
version has no setting for and what there was no time for is named under `not_measured` with the reason. `--save` writes one
document to `--folder` (docs/measured/), anew after every measurement: a machine that is lost costs only the one that was
running. Only documents from a GPU are saved. The last line is JSON.
"""

from __future__ import annotations

import datetime
import json
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NoReturn

import torch
import typer
from rich.console import Console
from rich.table import Table

from tests.benchmarks import gpu_bench, gpu_day_parts, gpu_train
from tests.benchmarks.children import Document
from tests.benchmarks.gpu_day_parts import Day, Left
from tests.benchmarks.gpu_settings import device_problem, of_device, peak_of
from trainables.benchmark.probes.hardware import hardware
from trainables.benchmark.probes.nvml import gpu_uuid, read_gpu
from trainables.benchmark.scenarios.timing import Clock
from trainables.store.atomic import write_text
from trainables.store.versions import versions

MEASURED = Path(__file__).parents[2] / "docs" / "measured"
SHORTEST_S = 10.0  # a part, or a measurement, is not started with less

console = Console(highlight=False, width=140)

DeviceName = Annotated[str, typer.Option(help="cuda or cpu")]
Tiny = Annotated[bool, typer.Option("--tiny", help="encoders of two layers, and few of them")]
DataRoot = Annotated[Path | None, typer.Option(help="folder of published data and of encoders/intfloat/...")]
Minutes = Annotated[float, typer.Option(min=0, help="limit for all parts together")]
Save = Annotated[bool, typer.Option("--save", help="write the document after every measurement")]
Folder = Annotated[Path, typer.Option(help="where --save writes")]


@dataclass(frozen=True)
class Part:
    """A part of the day. `run` yields one document per measurement, and starts none when no time is left."""

    name: str
    budget_s: float
    run: Callable[[Day, Left], Iterator[Document]]


PARTS = (
    Part("doctor", 60.0, gpu_day_parts.doctor),
    Part("attention", 30.0, gpu_day_parts.attention),
    Part("losses", 90.0, gpu_day_parts.losses),
    Part("training", 240.0, gpu_day_parts.training),
    Part("serving", 240.0, gpu_day_parts.serving),
    Part("study", 240.0, gpu_day_parts.study),  # whatever is left
)
CHECKS = ("doctor", "attention", "losses")


def main(
    device: DeviceName = "cuda",
    tiny: Tiny = False,
    data_root: DataRoot = None,
    minutes: Minutes = 12.0,
    save: Save = False,
    folder: Folder = MEASURED,
) -> None:
    """Print tables and one JSON line. Exit code 1 if a check fails."""
    if (problem := device_problem(device, tiny=tiny, save=save)) is not None:
        _stop(problem)
    card = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    document = _context(device, card, tiny)
    path = folder / f"gpu_day-{re.sub(r'[^a-z0-9]+', '-', card.lower())}-{document['date'][:19].replace(':', '')}.json"
    day = Day(
        device,
        tiny,
        data_root,
        memory_gb=_memory_gb(device),
        peak_tflops=peak_of(card),
        bandwidth_gbs=of_device(card, gpu_bench.BANDWIDTHS),
    )
    run_parts(
        day, PARTS, document, limit_s=60 * minutes, save=(lambda: _save(document, path)) if save else lambda: None
    )
    _show(document)
    print(json.dumps(document))
    if document["failed_checks"]:
        raise typer.Exit(1)


def _stop(message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    raise typer.Exit(2)


def run_parts(
    day: Day,
    parts: Sequence[Part],
    document: Document,
    *,
    limit_s: float,
    save: Callable[[], object],
    clock: Clock = time.perf_counter,
) -> None:
    """Run the parts in order, and write their results into the document, which is saved after each of them.

    A part that raises is recorded as failed, and the next one runs.
    """
    started = clock()
    for part in parts:
        ends = min(clock() + part.budget_s, started + limit_s)
        results: list[Document] = []
        document["parts"][part.name] = results

        def left(ends: float = ends) -> float:
            return ends - clock()

        try:
            for result in part.run(day, left) if left() >= SHORTEST_S else [_no_time(part.name)]:
                results.append(result)
                _record(document, clock() - started, save)
        except Exception as error:  # a lost part must not cost the others
            results.append({"outcome": "failed", "reason": f"{type(error).__name__}: {error}"[:300]})
            _record(document, clock() - started, save)
        console.print(f"{part.name}: {', '.join(_words(result) for result in results)}", markup=False)


def _no_time(name: str) -> Document:
    return {"outcome": "not_tried", "reason": f"no time was left for {name}"}


def _record(document: Document, wall_s: float, save: Callable[[], object]) -> None:
    parts: dict[str, list[Document]] = document["parts"]
    document["wall_s"] = round(wall_s, 1)
    document["not_measured"] = [
        {"part": part, "name": result.get("name", part), "outcome": result["outcome"], "reason": result["reason"]}
        for part, results in parts.items()
        for result in results
        if result["outcome"] != "measured"
    ]
    document["failed_checks"] = [
        f"{part}: {result.get('name', part)}"
        for part, results in parts.items()
        for result in results
        if part in CHECKS and (result["outcome"] not in ("measured", "not_tried") or result.get("equal") is False)
    ]
    save()


def _context(device: str, card: str, tiny: bool) -> Document:
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "device": card,
        "peak_tflops": peak_of(card),
        "tiny": tiny,
        "hardware": hardware().as_dict(),
        "versions": versions(),
        "cuda": torch.version.cuda,
        "driver": read_gpu(gpu_uuid(torch.device(device))).driver,
        "command": " ".join(["python", "-m", "tests.benchmarks.gpu_day", *sys.argv[1:]]),
        "parts": {},
    }


def _memory_gb(device: str) -> float | None:
    return torch.cuda.get_device_properties(0).total_memory / 1e9 if device == "cuda" else None


def _save(document: Document, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(document, indent=1) + "\n", durable=True)


def _words(result: Document) -> str:
    """A result in a few words."""
    name, outcome = result.get("name", ""), result["outcome"]
    if outcome != "measured":
        return f"{name} {outcome} ({result['reason']})".strip()
    return f"{name} {'NOT EQUAL' if result.get('equal') is False else 'ok'}".strip()


def _show(document: Document) -> None:
    training = Table("training", "MFU", "tokens/s", "s a step", "MFU in a window", "tokens/s", "GB")
    for result in _measured(document, "training"):
        (tokens, mfu), (window, window_mfu) = gpu_train.rates(result), gpu_train.rates(result, "window_")
        step_s, memory = f"{result['step_s']['median']:.3g}", f"{result['peak_memory_mb'] / 1e3:.1f}"
        training.add_row(result["name"], mfu, tokens, step_s, window_mfu, window, memory)
    serving = Table("serving", "batch", "ms", "floor ms", "achieved", "J a sample")
    for result in _measured(document, "serving"):
        for size, batch in result["batches"].items():
            cells = [_number(batch[key]) for key in ("ms", "floor_ms", "achieved")]
            serving.add_row(result["name"], size, *cells, _number(result["energy_j_per_sample"]))
    for table in (training, serving):
        if table.row_count:
            console.print(table)


def _measured(document: Document, part: str) -> list[Document]:
    return [result for result in document["parts"].get(part, []) if result["outcome"] == "measured"]


def _number(value: Any) -> str:
    return "n/a" if value is None else f"{value:.3g}"


if __name__ == "__main__":
    typer.run(main)
