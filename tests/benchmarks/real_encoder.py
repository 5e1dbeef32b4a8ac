"""Does a published encoder train the same in every layout, trimmed or not, and after a kill?

    python -m tests.benchmarks.real_encoder --data-root DIR [--encoder e5-small] [--layers 3] [--steps 6]

Tests show this on tiny random networks; here it is checked on real weights: English part-of-speech tagging (UD English-EWT) in
fp32, without dropout, whose masks depend on the number of workers.

1. ZeRO 0 to 3 on two workers (gloo) against one worker: the largest relative difference of a step's loss. Losses after the
   first step depend on gradients and optimizer.
2. A trimmed embedding table against the whole one: the largest difference of a weight after the last step.
3. A process killed (SIGKILL) after half of the steps and resumed, against an uninterrupted one: equal to the last bit, or not.

DIR has the encoder's files under `encoders/` and `ud/`. The last line is one JSON document.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import sys
import tempfile
import time
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from safetensors.torch import load_file

from tests.support.pair import Pair
from trainables.benchmark.probes.hardware import hardware
from trainables.data.source import DATA_ROOT_VARIABLE
from trainables.hyperparameters import Training
from trainables.models.catalogue import published
from trainables.models.published_encoder import FOLDER, pinned_encoder
from trainables.models.task_model import ENCODER
from trainables.resources import Resources
from trainables.stages.base import Workplace, ensure
from trainables.stages.finetune import FineTune
from trainables.stages.import_encoder import ImportEncoder
from trainables.store.stage_store import StageStore
from trainables.store.versions import versions
from trainables.tasks.pinning import pinned
from trainables.tasks.xtreme.udpos import Udpos
from trainables.training.batching import Share

BATCH = 16
DROPOUT = ("hidden_dropout_prob", "attention_probs_dropout_prob", "dropout_rate", "embedding_dropout", "mlp_dropout")
CLOSE = 1e-3  # relative: fp32 sums in another order, over a few steps of Adam

console = Console(highlight=False, width=80)

DataRoot = Annotated[Path, typer.Option(help="folder with the encoder's and UD's files")]
Encoder = Annotated[str, typer.Option(help="a name of the catalogue, or a repository")]
Layers = Annotated[int, typer.Option(min=1, help="the first so many layers")]
Steps = Annotated[int, typer.Option(min=2, help="training steps of each comparison")]


def main(data_root: DataRoot, encoder: Encoder = "e5-small", layers: Layers = 3, steps: Steps = 6) -> None:
    """Print what differs by how much, and one JSON line; exit code 1 if something differs that must not."""
    started = time.perf_counter()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ[DATA_ROOT_VARIABLE] = str(_without_dropout(data_root.resolve(), encoder, folder / "data"))
        stage = _stage(encoder, layers, steps)
        for parent in stage.parents:
            ensure(parent, Workplace(StageStore(folder)))
        alone, whole = _trained(stage, folder, Resources(trim_vocabulary=False))
        _, trimmed = _trained(stage, folder, Resources(trim_vocabulary=True))
        rows = max(float((trimmed[key] - whole[key]).abs().max()) for key in whole)
        zero = {}
        (folder / "pair").mkdir()
        with Pair(folder / "pair") as pair:
            for zero_stage in range(4):
                losses, other = pair.run(_losses, stage, folder, zero_stage)
                assert losses == other
                zero[f"zero_{zero_stage}"] = max(abs(got / want - 1) for got, want in zip(losses, alone, strict=True))
        resumed = _killed_and_resumed(stage, folder) == alone
    equal = {name: value <= CLOSE for name, value in zero.items()} | {"trimmed": rows <= CLOSE, "resumed": resumed}
    for name, value in zero.items():
        console.print(f"{name} on two workers: losses differ by at most {value:.1e} of one worker's")
    console.print(f"trimmed vocabulary: weights differ by at most {rows:.1e}")
    console.print(f"killed and resumed: {'the same losses' if resumed else 'OTHER losses'}")
    document = {
        "encoder": encoder,
        "layers": layers,
        "steps": steps,
        "losses": alone,
        "zero_loss_max_relative_difference": zero,
        "trimmed_max_absolute_difference": rows,
        "resumed_equal": resumed,
        "wall_s": round(time.perf_counter() - started, 1),
        "hardware": hardware().as_dict(),
        "versions": versions(),
        "command": " ".join(["python", "-m", "tests.benchmarks.real_encoder", *sys.argv[1:]]),
    }
    print(json.dumps(document))
    if not all(equal.values()):
        raise typer.Exit(1)


def _without_dropout(data_root: Path, encoder: str, folder: Path) -> Path:
    """A data root of links to this one, where the encoder's configuration has no dropout."""
    repository = published(encoder).repository
    (folder / FOLDER / repository).mkdir(parents=True)
    for path in data_root.iterdir():
        if path.name != FOLDER:
            (folder / path.name).symlink_to(path)
    for path in (data_root / FOLDER / repository).iterdir():
        target = folder / FOLDER / repository / path.name
        if path.name == "config.json":
            config = json.loads(path.read_text(encoding="utf-8"))
            target.write_text(json.dumps(config | {name: 0.0 for name in DROPOUT if name in config}), encoding="utf-8")
        else:
            target.symlink_to(path)
    return folder


def _stage(encoder: str, layers: int, steps: int) -> FineTune:
    task = pinned(Udpos(languages_=("en",), train_size=BATCH * steps * 4))
    training = Training(1e-4, steps, BATCH, seed=0, warmup=0.0)
    return FineTune(ImportEncoder(pinned_encoder(published(encoder, layers=layers))), task.for_training(), training)


def _workplace(folder: Path, resources: Resources, share: Share, losses: list[float]) -> Workplace:
    def progress(stage: str, done: int, total: int, loss: float | None) -> None:
        losses.extend([] if loss is None else [loss])

    return Workplace(StageStore(folder), share, resources, progress=progress)


def _trained(stage: FineTune, folder: Path, resources: Resources) -> tuple[list[float], dict[str, torch.Tensor]]:
    """The losses and the encoder's weights of one worker's training, outside the store's bookkeeping."""
    losses: list[float] = []
    with tempfile.TemporaryDirectory(dir=folder) as name:
        stage.produce(_workplace(folder, resources, Share(0, 1, BATCH), losses), Path(name))
        return losses, load_file(Path(name) / ENCODER / "model.safetensors")


def _losses(rank: int, stage: FineTune, folder: Path, zero_stage: int) -> list[float]:
    """The losses of a training on one of two workers."""
    losses: list[float] = []
    with tempfile.TemporaryDirectory(dir=folder) as name:
        stage.produce(
            _workplace(folder, Resources(workers=2, zero_stage=zero_stage), Share(rank, 2, BATCH), losses), Path(name)
        )
    return losses


def _killed_and_resumed(stage: FineTune, folder: Path) -> list[float]:
    """The losses of a training whose process was killed half-way, read from what the second process trained and kept."""
    process = get_context("spawn").Process(target=_killed, args=(stage, folder))
    process.start()
    process.join()
    if process.exitcode != -signal.SIGKILL:
        raise RuntimeError(f"the first process ended with {process.exitcode} before it could be killed")
    losses: list[float] = []
    finished = ensure(stage, _workplace(folder, _keeping(), Share(0, 1, BATCH), losses))
    if not finished.metrics.get("resumed_at"):
        raise RuntimeError("the second process did not resume from a checkpoint")
    return [*_first_losses(stage, folder)[: finished.metrics["resumed_at"]], *losses]


def _first_losses(stage: FineTune, folder: Path) -> list[float]:
    return json.loads((folder / "killed.json").read_text(encoding="utf-8"))


def _keeping() -> Resources:
    """A checkpoint after every step."""
    return Resources(trim_vocabulary=False, checkpoint_every_s=0.0)


def _killed(stage: FineTune, folder: Path) -> None:
    """Train and be killed half-way, after a checkpoint; the losses so far are in `killed.json`."""
    torch.set_num_threads(1)
    losses: list[float] = []
    work = _workplace(folder, _keeping(), Share(0, 1, BATCH), losses)

    def progress(label: str, done: int, total: int, loss: float | None) -> None:
        work.progress(label, done, total, loss)
        if len(losses) > total // 2:
            (folder / "killed.json").write_text(json.dumps(losses), encoding="utf-8")
            os.kill(os.getpid(), signal.SIGKILL)

    ensure(stage, dataclasses.replace(work, progress=progress))


if __name__ == "__main__":
    typer.run(main)
