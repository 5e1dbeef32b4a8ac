"""Checkpoints inside a long stage: where its training goes on after a worker, a machine or the whole run was lost.

DeepSpeed writes and reads the state, each worker its own part. A manifest with size and hash of every file is written last, so
that what has none, or other bytes, is no checkpoint. The parts are pickles, and only bytes that a manifest of the study's own
store vouches for are unpickled; what a stage leaves in the end is safetensors.
"""

from __future__ import annotations

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
from trainables.training.early_stopping import Watch

logger = logging.getLogger(__name__)

KEPT = 2  # the newest, and the one before in case the newest turns out to be broken
BEST = "best.safetensors"


@dataclass(frozen=True)
class Resumed:
    """What a training goes on from: steps done with their losses, the dev scores until then and the weights of the best, and
    the checkpoints that could not be used, each with the reason."""

    step: int = 0
    losses: tuple[float, ...] = ()
    scores: list[tuple[int, float]] = field(default_factory=list)
    best: Mapping[str, Tensor] = field(default_factory=dict)
    skipped: tuple[str, ...] = ()


class Checkpoints:
    """The checkpoints of one stage, `step-<steps done>/` each. All workers of a group make the same calls.

    Args:
        folder: the stage's own, which every worker can read and write.
        every_s: least time between two checkpoints, in seconds.
        leads: whether this worker writes the manifests.
        workers, zero_stage, trimmed: of the group, and whether its embedding table is trimmed. An equal one alone can read the
            optimizer's state, and without it the training would not be the one that was interrupted.
    """

    def __init__(
        self, folder: Path, every_s: float, *, leads: bool, workers: int, zero_stage: int, trimmed: bool = False
    ) -> None:
        self.folder, self._every_s, self._leads = folder, every_s, leads
        self._workers = workers
        self._group = {"workers": workers, "ZeRO stage": zero_stage, "trimmed": trimmed}
        self._last = time.monotonic()

    def due(self) -> bool:
        """Whether it is time for one, by the leader's clock; other workers say no."""
        return self._leads and time.monotonic() - self._last >= self._every_s

    def save(self, engine: Any, losses: Sequence[float], watch: Watch | None) -> None:
        """Keep the state after the steps that had these losses, and let go of all but the newest two."""
        name = f"step-{len(losses):08d}"
        if self._leads:
            shutil.rmtree(self.folder / name, ignore_errors=True)  # of an attempt that died while it wrote
        engine.save_checkpoint(str(self.folder), tag=name, save_latest=False)
        if self._workers > 1:
            dist.barrier()
        if self._leads:
            if watch is not None and watch.best:
                save_file(dict(watch.best), self.folder / name / BEST)
            seen = {"losses": list(losses), "scores": [] if watch is None else watch.scores}
            write_manifest(self.folder / name, {"step": len(losses), **seen, "group": self._group})
            later = [folder for folder in self._found() if folder.name > name]  # none of them could be used
            for old in later + [folder for folder in self._found() if folder.name <= name][KEPT:]:
                shutil.rmtree(old, ignore_errors=True)
        self._last = time.monotonic()

    def restore(self, engine: Any) -> Resumed:
        """Load the newest whole checkpoint into an engine that has not trained yet, if there is one.

        A broken one, or one of another group, is named in a warning and skipped.
        """
        chosen: list[Any] = list(self._newest()) if self._leads else [None, ()]
        if self._workers > 1:
            dist.broadcast_object_list(chosen, src=0)
        manifest, skipped = chosen
        if manifest is None:
            return Resumed(skipped=skipped)
        folder = self.folder / f"step-{manifest['step']:08d}"
        loaded, _ = engine.load_checkpoint(str(self.folder), tag=folder.name)
        if loaded is None:
            raise RuntimeError(f"DeepSpeed did not load {folder}")
        self._last = time.monotonic()
        scores = [(int(done), float(value)) for done, value in manifest["scores"]]
        best = load_file(folder / BEST) if BEST in manifest["files"] and self._leads else {}
        return Resumed(manifest["step"], tuple(manifest["losses"]), scores, best, skipped)

    def _newest(self) -> tuple[dict[str, Any] | None, tuple[str, ...]]:
        skipped: list[str] = []
        for folder in self._found():
            manifest = read_manifest(folder)
            problem = self._problem(folder, manifest)
            if problem is None:
                return manifest, tuple(skipped)
            logger.warning("checkpoint %s of %s is skipped: %s", folder.name, self.folder.name, problem)
            skipped.append(f"{folder.name}: {problem}")
        return None, tuple(skipped)

    def _problem(self, folder: Path, manifest: Mapping[str, Any] | None) -> str | None:
        if manifest is None:
            return "no readable manifest, so it was not finished"
        if manifest.get("group") != self._group:
            return f"made by another group ({_said(manifest.get('group') or {})}; now {_said(self._group)})"
        return next(iter(wrong_contents(folder, manifest)), None)

    def _found(self) -> list[Path]:
        """Newest first."""
        return sorted(self.folder.glob("step-*"), reverse=True)


def _said(group: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in group.items())
