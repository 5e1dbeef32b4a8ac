"""Checkpoints inside a long stage, from which its training resumes after a worker, a machine or the whole run was lost.

DeepSpeed writes and reads the state, each worker its own part: first to the node's own disk, from which a thread moves it to
the store while training continues (`uploads`). A manifest with size and hash of every file is written last: a folder without
one, or with other content, is not a checkpoint. The parts are pickles, and only files that match a manifest of the study's own
store are unpickled. The final output of a stage is safetensors.
"""

from __future__ import annotations

import contextlib
import io
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any, Self

import torch.distributed as dist
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import load_file, save_file
from torch import Tensor

from trainables.models.task_model import MAX_FILE_BYTES
from trainables.store.manifests import Files
from trainables.store.stage_store import ClaimLost
from trainables.training.early_stopping import EarlyStopper
from trainables.training.resuming.resharding import RESHARDABLE, load_resharded
from trainables.training.resuming.shelves import STEP, shelf_of
from trainables.training.resuming.uploads import Staging, Upload

logger = logging.getLogger(__name__)

KEPT = 2  # the newest, and its predecessor in case the newest is damaged
BEST = "best{suffix}.safetensors"  # several files where one would be large
MOST_SHARE = 1 / 20  # of the training's time, during which workers may wait for checkpoints
BYTES_PER_WEIGHT = (
    16  # of a checkpoint: the weight and AdamW's two moments in fp32, and as much again for the best weights
)
LEAVE_S = 30.0  # for the upload under way when a training ends with an error, so that little of it is repeated


@dataclass(frozen=True)
class Resumed:
    """What a training resumes from: steps done, their losses, the dev scores so far and the weights of the best.

    `skipped` names unusable checkpoints, each with the reason. `workers` is the number of workers that trained until there,
    if it was another one than now.
    """

    step: int = 0
    losses: tuple[float, ...] = ()
    scores: list[tuple[int, float]] = field(default_factory=list)
    best: Mapping[str, Tensor] = field(default_factory=dict)
    skipped: tuple[str, ...] = ()
    workers: int | None = None


@dataclass(frozen=True)
class Claimed:
    """A process's claim on the stage that it trains: its fencing token, and whether another process is known to have it now."""

    token: int
    lost: Callable[[], bool]


UNCONTESTED = Claimed(0, lambda: False)


class Checkpoints:
    """The checkpoints of one stage, `step-<steps done>/` each. All workers of a group make the same calls.

    A context manager: at the end of the block no thread of this process writes to the folder any more.

    Args:
        folder: the stage's own in the output folder: readable and writable by every worker, or a bucket's (`shelves`).
        claim: of this process on the stage.
        every_s: least time between two checkpoints, in seconds. It is raised where workers would wait for them for more than a
            twentieth of the time. 0 saves after every step, and each step waits for the upload of the one before.
        leads: whether this worker writes the manifests.
        workers, zero_stage, trimmed: of the group, and whether its embedding table is trimmed. Only a group that is equal, or
            differs in its number of workers outside ZeRO 3 (`resharding`), can read the optimizer's state, without which the
            training would not continue as the interrupted one.
        deepspeed_clips: whether DeepSpeed clips gradients, which its optimizer's state depends on under ZeRO 1 and 2.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        folder: Path,
        every_s: float,
        *,
        leads: bool,
        workers: int,
        zero_stage: int,
        trimmed: bool = False,
        deepspeed_clips: bool = False,
        claim: Claimed = UNCONTESTED,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.folder, self._every_s, self._leads = folder, every_s, leads
        self._shelf, self._claim = shelf_of(folder, claim.token), claim
        self._workers, self._clock = workers, clock
        self._group: dict[str, int | str] = {"workers": workers, "ZeRO stage": zero_stage, "trimmed": trimmed}
        if zero_stage in (1, 2) and not deepspeed_clips:  # it refuses the state of an optimizer that clipped by itself
            self._group["clipping"] = "without DeepSpeed"
        self._upload: Upload | None = None
        self._staging: Staging | None = None
        self._last = clock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if self._upload is not None:
            if error is not None and kind is not ClaimLost:
                self._upload.leave(LEAVE_S)  # the training's own error says more than one of the upload
            self._upload.cancel()  # a finished stage needs no checkpoint
        if self._staging is not None:
            self._staging.remove()
        if error is None and self._workers > 1:
            dist.barrier()  # the leader removes the folder next

    def due(self) -> bool:
        """Whether a checkpoint is due by the leader's clock, or `save` to end a training whose claim is lost.

        Always false on other workers.

        Raises:
            OSError: this worker's part of the last one could not be stored.
        """
        if self._leads and self._claim.lost():
            return True
        uploading = self._upload is not None and self._upload.running
        if self._every_s == 0:
            return self._leads
        return self._leads and not uploading and self._clock() - self._last >= self._every_s

    def save(self, engine: Any, losses: Sequence[float], stopper: EarlyStopper | None) -> None:
        """Write the state after the steps with these losses to the node's disk, and start to move it to the store.

        Once it is there, all but the newest two checkpoints are removed.

        Raises:
            OSError: this disk is full, or the last upload failed.
            ClaimLost: another process has taken over the stage; on all workers together.
        """
        self._stop_if_superseded()
        started, name = self._clock(), self._shelf.name_of(len(losses))
        if self._upload is not None:
            self._upload.wait()
        if self._leads:
            self._shelf.remove(name)  # left by an attempt that died while writing
        staged = self._staged(engine, STEP.format(step=len(losses)))
        engine.save_checkpoint(str(staged.parent), tag=staged.name, save_latest=False)  # begins with a barrier
        if self._leads and stopper is not None and stopper.best:
            _save_best(stopper.best, staged)
        progress = {"losses": list(losses), "scores": [] if stopper is None else list(stopper.scores)}
        content = {"step": len(losses), **progress, "group": self._group}
        self._upload = Upload(
            *(staged, self._shelf, name),
            rank=dist.get_rank() if self._workers > 1 else 0,
            workers=self._workers,
            finish=partial(self._finish, name, content) if self._leads else None,
        )
        if self._workers > 1:
            dist.barrier()  # all wait for the slowest disk, which the leader's clock then includes
        self._last = self._clock()
        self._pace(self._last - started)

    def _stop_if_superseded(self) -> None:
        lost = [self._leads and self._claim.lost()]
        if self._workers > 1:
            dist.broadcast_object_list(lost, src=0)
        if lost[0]:
            raise ClaimLost(
                f"{self.folder.name}: another process has taken over this training, as its claim was not renewed in time; "
                "it stops here and waits for the other's result"
            )

    def _staged(self, engine: Any, name: str) -> Path:
        """A new folder for this worker's files of a checkpoint."""
        if self._staging is None:
            weights = sum(getattr(weight, "ds_numel", weight.numel()) for weight in engine.module.parameters())
            self._staging = Staging(self.folder, BYTES_PER_WEIGHT * weights)
        staged = self._staging.folder / name
        staged.mkdir()
        return staged

    def _finish(self, name: str, content: Mapping[str, Any], files: Files) -> None:
        """Make an uploaded checkpoint one that `restore` finds, and remove those that nothing needs any more."""
        self._shelf.finish(name, content, files, workers=self._workers)
        names = self._shelf.own()
        if name not in names:  # removed by a process that has taken over
            return
        place = names.index(name)
        for old in names[:place] + names[place + KEPT :]:  # before it are those that could not be used
            self._shelf.remove(old)

    def _pace(self, cost_s: float) -> None:
        """Save less often where workers waited `cost_s` for a checkpoint and that is more than their share of the time."""
        if 0 < self._every_s < cost_s / MOST_SHARE:
            if self._leads:
                logger.warning(
                    "%s: workers waited %.1f s for a checkpoint: one every %.0f s from now on, not every %.0f s",
                    *(self.folder.name, cost_s, cost_s / MOST_SHARE, self._every_s),
                )
            self._every_s = cost_s / MOST_SHARE

    def restore(self, engine: Any) -> Resumed:
        """Load the newest intact checkpoint, if there is one, into an engine that has not trained yet.

        Damaged ones and those that this group cannot read are logged and skipped.
        """
        stage = engine.zero_optimization_stage()
        newest: list[Any] = list(self._newest_usable(stage)) if self._leads else ["", {}, ()]
        if self._workers > 1:
            dist.broadcast_object_list(newest, src=0)
        name, manifest, skipped = newest
        if not name:
            return Resumed(skipped=skipped)
        if not self._leads and (problem := self._shelf.fetch(name, manifest)) is not None:
            raise OSError(f"checkpoint {name} of {self.folder.name}: {problem}")
        try:
            resumed = self._loaded(engine, self._shelf.folder(name), manifest, skipped)
            if self._workers > 1:
                dist.barrier()  # until then another worker of the node may be about to read it
        finally:
            self._shelf.release(name)
        return resumed

    def _loaded(self, engine: Any, folder: Path, manifest: Mapping[str, Any], skipped: tuple[str, ...]) -> Resumed:
        before = manifest["group"]["workers"]
        if before == self._workers:
            with contextlib.redirect_stdout(io.StringIO()):  # DeepSpeed prints what it reads
                loaded, _ = engine.load_checkpoint(str(folder.parent), tag=folder.name)
            if loaded is None:
                raise RuntimeError(f"DeepSpeed could not load the checkpoint {folder}")
        else:
            if self._leads:
                logger.warning(
                    "%s: resumes at step %d on %d workers, trained by %d until there; other dropout masks from now on",
                    *(self.folder.name, manifest["step"], self._workers, before),
                )
            load_resharded(engine, folder, workers=before)
        self._last = self._clock()
        scores = [(int(done), float(value)) for done, value in manifest["scores"]]
        best = _load_best(folder, manifest["files"]) if self._leads else {}
        other = None if before == self._workers else before
        return Resumed(manifest["step"], tuple(manifest["losses"]), scores, best, skipped, other)

    def _newest_usable(self, stage: int) -> tuple[str, dict[str, Any], tuple[str, ...]]:
        """The name of the newest checkpoint that this engine can load, with its manifest, and what was skipped; "" if none can.

        Its files are on this node then.
        """
        skipped: list[str] = []
        for name in self._shelf.newest_first():
            manifest = self._shelf.manifest(name)
            problem = self._problem(name, manifest, stage)
            if manifest is not None and problem is None:
                return name, manifest, tuple(skipped)
            logger.warning("checkpoint %s of %s is skipped: %s", name, self.folder.name, problem)
            skipped.append(f"{name}: {problem}")
        return "", {}, tuple(skipped)

    def _problem(self, name: str, manifest: Mapping[str, Any] | None, stage: int) -> str | None:
        """Why an engine of this ZeRO stage cannot load a checkpoint; None if it can."""
        if manifest is None:
            return "it has no readable manifest: it was not finished"
        group = manifest.get("group") or {}
        same_apart = {**group, "workers": self._workers} == self._group
        if group != self._group and not (same_apart and stage in RESHARDABLE and group.get("workers")):
            return f"written by another group ({_formatted(group)}; now {_formatted(self._group)})"
        return self._shelf.problem(name, manifest)


def _save_best(state: Mapping[str, Tensor], folder: Path) -> None:
    split = split_torch_state_dict_into_shards(dict(state), filename_pattern=BEST, max_shard_size=MAX_FILE_BYTES)
    for name, tensors in split.filename_to_tensors.items():
        save_file({tensor: state[tensor] for tensor in tensors}, folder / name)


def _load_best(folder: Path, files: Iterable[str]) -> dict[str, Tensor]:
    names = [name for name in files if fnmatch(name, BEST.format(suffix="*"))]
    return {tensor: value for name in names for tensor, value in load_file(folder / name).items()}


def _formatted(group: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in group.items())
