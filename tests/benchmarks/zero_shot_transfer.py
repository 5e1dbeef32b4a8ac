"""Is zero-shot transfer real? The middle size of the shipped ladder against the same network without pre-training.

    python -m tests.benchmarks.zero_shot_transfer [--output runs/quickstart]

Both are fine-tuned on the English targets with the recipe's default learning rate and no intermediate task, and scored in every
language. What is compared is the margin over chance of the mean over languages without English. With the output folder of a
finished quickstart, its stages are reused. The last line is one JSON document.
"""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table

from study.recipes.micro_ladder import micro_ladder
from study.recipes.quickstart import quickstart
from trainables.stages.base import Workplace
from trainables.stages.chain import run_chain
from trainables.store.stage_store import StageStore
from trainables.store.versions import versions
from trainables.training.batching import Share

console = Console(highlight=False)


def main(
    output: Annotated[Path, typer.Option(help="output folder; the stages of a finished quickstart are reused")] = Path(
        "runs/quickstart"
    ),
    size: Annotated[str, typer.Option(help="a size of the quickstart")] = "2x128",
    seeds: Annotated[int, typer.Option(min=1, help="how many seeds of fine-tuning; 1 is the quickstart's seed")] = 1,
) -> None:
    """Print the margins over chance with and without pre-training, and their ratio."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    table = Table("seed", "target", "chance", "pre-trained", "untrained", "margin ratio")
    results = []
    for seed in range(seeds):
        trained, untrained = (_scores(output, size, seed, trained=trained) for trained in (True, False))
        for name, (pretrained, chance) in trained.items():
            without, _ = untrained[name]
            ratio = (pretrained - chance) / (without - chance) if without > chance else None
            results.append(
                {
                    "seed": seed,
                    "target": name,
                    "chance": chance,
                    "pretrained": pretrained,
                    "untrained": without,
                    "ratio": ratio,
                }
            )
            shown = "untrained not above chance" if ratio is None else f"{ratio:.1f}"
            table.add_row(str(seed), name, f"{chance:.1f}", f"{pretrained:.1f}", f"{without:.1f}", shown)
    console.print(table)
    print(json.dumps({"size": size, "results": results, "versions": versions(), "threads": torch.get_num_threads()}))


def _scores(output: Path, name: str, seed: int, *, trained: bool) -> dict[str, tuple[float, float]]:
    """Test score (percent, mean over languages without English) and chance, by target."""
    study = quickstart(seed)
    size = study.size(name)
    if not trained:
        study = dataclasses.replace(micro_ladder(), targets=study.targets, tuning=study.tuning, seed=seed)
        size = dataclasses.replace(study.size(name), rate_factor=size.rate_factor)
    chain = study.chain(size, quickstart(seed).space.defaults()[0], trained=trained)
    metrics: dict[str, float] = {}
    work = Workplace(StageStore(output), Share(0, 1, size.resources.micro_batch), progress=_show)
    run_chain(chain, work, metrics.update)
    names = [evaluate.task.name for evaluate in chain]
    return {name: (metrics[f"test_without_english/{name}"], metrics[f"chance/{name}"]) for name in names}


def _show(stage: str, done: int, total: int, value: float | None) -> None:
    if done and done % 50 == 0:
        console.print(f"{stage}: {done}/{total}")


if __name__ == "__main__":
    typer.run(main)
