"""Checkpoints inside a long stage, from which its training resumes after a worker, a machine or the whole run was lost.

DeepSpeed writes and reads the state, each worker its own part. A manifest with size and hash of every file is written last: a
folder without one, or with other content, is not a checkpoint. The parts are pickles, and only files that match a manifest of
the study's own store are unpickled. The final output of a stage is safetensors.
"""

from __future__ import annotations

import contextlib
import io
import logging
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor

from trainables.store.manifests import read_manifest, write_manifest, wrong_contents
from trainables.training.early_stopping import EarlyStopper

logger = logging.getLogger(__name__)

KEPT = 2  # the newest, and its predecessor in case the newest is damaged
BEST = "best.safetensors"


@dataclass(frozen=True)
class Resumed:
    """What a training resumes from: steps done, their losses, the dev scores so far and the weights of the best.

    `skipped` names unusable checkpoints, each with the reason.
    """

    step: int = 0
    losses: tuple[float, ...] = ()
    scores: list[tuple[int, float]] = field(default_factory=list)
    best: Mapping[str, Tensor] = field(default_factory=dict)
    skipped: tuple[str, ...] = ()


class Checkpoints:
    """The checkpoints of one stage, `step-<steps done>/` each. All workers of a group make the same calls.

    Args:
        folder: the stage's own, readable and writable by every worker.
        every_s: least time between two checkpoints, in seconds.
        leads: whether this worker writes the manifests.
        workers, zero_stage, trimmed: of the group, and whether its embedding table is trimmed. Only an equal group can read the
            optimizer's state, without which the training would not continue as the interrupted one.
    """

    def __init__(
        self, folder: Path, every_s: float, *, leads: bool, workers: int, zero_stage: int, trimmed: bool = False
    ) -> None:
        self.folder, self._every_s, self._leads = folder, every_s, leads
        self._workers = workers
        self._group: dict[str, int | str] = {"workers": workers, "ZeRO stage": zero_stage, "trimmed": trimmed}
        if zero_stage in (1, 2):  # DeepSpeed refuses the state of an optimizer that clipped by itself
            self._group["clipping"] = "without DeepSpeed"
        self._last = time.monotonic()

    def due(self) -> bool:
        """Whether a checkpoint is due by the leader's clock; always false on other workers."""
        return self._leads and time.monotonic() - self._last >= self._every_s

    def save(self, engine: Any, losses: Sequence[float], stopper: EarlyStopper | None) -> None:
        """Write the state after the steps with these losses, and remove all but the newest two checkpoints."""
        name = f"step-{len(losses):08d}"
        if self._leads:
            shutil.rmtree(self.folder / name, ignore_errors=True)  # left by an attempt that died while writing
        engine.save_checkpoint(str(self.folder), tag=name, save_latest=False)
        if self._workers > 1:
            dist.barrier()
        if self._leads:
            if stopper is not None and stopper.best:
                save_file(dict(stopper.best), self.folder / name / BEST)
            progress = {"losses": list(losses), "scores": [] if stopper is None else stopper.scores}
            write_manifest(self.folder / name, {"step": len(losses), **progress, "group": self._group})
            unusable = [folder for folder in self._newest_first() if folder.name > name]
            for old in unusable + [folder for folder in self._newest_first() if folder.name <= name][KEPT:]:
                shutil.rmtree(old, ignore_errors=True)
        self._last = time.monotonic()

    def restore(self, engine: Any) -> Resumed:
        """Load the newest intact checkpoint, if there is one, into an engine that has not trained yet.

        Damaged ones and those of other groups are logged and skipped.
        """
        newest: list[Any] = list(self._newest_usable()) if self._leads else [None, ()]
        if self._workers > 1:
            dist.broadcast_object_list(newest, src=0)
        manifest, skipped = newest
        if manifest is None:
            return Resumed(skipped=skipped)
        folder = self.folder / f"step-{manifest['step']:08d}"
        with contextlib.redirect_stdout(io.StringIO()):  # DeepSpeed prints what it reads
            loaded, _ = engine.load_checkpoint(str(self.folder), tag=folder.name)
        if loaded is None:
            raise RuntimeError(f"DeepSpeed could not load the checkpoint {folder}")
        self._last = time.monotonic()
        scores = [(int(done), float(value)) for done, value in manifest["scores"]]
        best = load_file(folder / BEST) if BEST in manifest["files"] and self._leads else {}
        return Resumed(manifest["step"], tuple(manifest["losses"]), scores, best, skipped)

    def _newest_usable(self) -> tuple[dict[str, Any] | None, tuple[str, ...]]:
        skipped: list[str] = []
        for folder in self._newest_first():
            manifest = read_manifest(folder)
            problem = self._problem(folder, manifest)
            if problem is None:
                return manifest, tuple(skipped)
            logger.warning("checkpoint %s of %s is skipped: %s", folder.name, self.folder.name, problem)
            skipped.append(f"{folder.name}: {problem}")
        return None, tuple(skipped)

    def _problem(self, folder: Path, manifest: Mapping[str, Any] | None) -> str | None:
        if manifest is None:
            return "it has no readable manifest: it was not finished"
        if manifest.get("group") != self._group:
            return (
                f"written by another group ({_formatted(manifest.get('group') or {})}; now {_formatted(self._group)})"
            )
        return next(iter(wrong_contents(folder, manifest)), None)

    def _newest_first(self) -> list[Path]:
        return sorted(self.folder.glob("step-*"), reverse=True)


def _formatted(group: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in group.items())
