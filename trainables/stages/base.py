"""What a stage is, and `ensure`, which produces it unless it is finished already."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.distributed as dist

from trainables.hyperparameters import Diverged, OutOfMemory
from trainables.store.stage_store import Damaged, Finished, StageStore
from trainables.store.versions import versions
from trainables.training.batching import Share
from trainables.training.micro_batches import Limits

if TYPE_CHECKING:  # importing it imports DeepSpeed
    from trainables.resources import Offload

logger = logging.getLogger(__name__)
T = TypeVar("T")
Progress = Callable[[str, int, int, float], None]  # stage, steps done, steps in all, loss (or share scored)
POLL_S = 0.5  # how often a waiting process looks whether another has finished the stage


@dataclass(frozen=True)
class Workplace:
    """Where stages run: the store, this worker's share, ZeRO stage, device, and whom to tell about progress.

    `trim_vocabulary`, `offload`, `activation_checkpointing`, `checkpoint_every_s`, `unpad` and `compile` are what `Resources`
    says. `limits` has smaller micro-batches than the share's, by the `memory_key` of the stages whose own did not fit.
    """

    store: StageStore
    share: Share = field(default_factory=lambda: Share(0, 1, 64))
    zero_stage: int = 0
    trim_vocabulary: bool | None = None
    offload: Offload = "none"
    activation_checkpointing: bool = False
    checkpoint_every_s: float = 600.0
    unpad: bool = False
    compile: bool = False
    limits: Limits = field(default_factory=dict)
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    progress: Progress = lambda stage, done, total, value: None

    @property
    def leads(self) -> bool:
        """The one worker that reads and writes the store."""
        return self.share.rank == 0

    @property
    def partitions(self) -> bool:
        """Whether parameters are partitioned over workers: then none of them should ever hold the whole model."""
        return self.zero_stage == 3 and self.share.workers > 1

    def narrowed(self, stage: Stage) -> Workplace:
        """With the micro-batch that this stage is tried with; a line of the log says where it is not the usual one."""
        most = self.limits.get(stage.memory_key, self.share.micro_batch)
        if most >= self.share.micro_batch:
            return self
        if self.leads:
            usual = self.share.micro_batch
            logger.warning("%s: micro-batches of %d: the usual %d did not fit before", stage.label, most, usual)
        return dataclasses.replace(self, share=dataclasses.replace(self.share, micro_batch=most))

    def agree(self, decide: Callable[[], T]) -> T:
        """The leading worker's result, on every worker; an error of the leader is raised on all of them."""
        if self.share.workers == 1:
            return decide()
        outcome: list[Any] = [None, None]
        if self.leads:
            try:
                outcome[0] = decide()
            except Exception as error:
                outcome[1] = error
        dist.broadcast_object_list(outcome, src=0)
        if outcome[1] is not None:
            raise outcome[1]
        result: T = outcome[0]
        return result


@dataclass(frozen=True)
class Stage(ABC):
    """One unit of work. Subclasses are frozen dataclasses of plain values and parent stages: their whole identity."""

    @property
    @abstractmethod
    def label(self) -> str:
        """Short readable name, the first part of the stage's folder."""

    @property
    def memory_key(self) -> str:
        """What decides, beside the resources, how much memory an entry of a batch takes; part of a file's name."""
        return self.label

    @property
    @abstractmethod
    def parents(self) -> tuple[Stage, ...]:
        """Stages whose outputs this one reads."""

    @abstractmethod
    def produce(self, work: Workplace, folder: Path) -> Mapping[str, Any]:
        """Do the work, write outputs into the folder (leader only), and return the metrics. Every worker calls it."""


@dataclass(frozen=True)
class Root(Stage):
    """A stage that fine-tuning starts from: it leaves an encoder, and beside it the tokenizer."""

    @property
    @abstractmethod
    def short(self) -> str:
        """The encoder's part of the labels of the stages that rest on it."""

    @property
    @abstractmethod
    def tokenizer(self) -> Stage:
        """The stage whose tokenizer this encoder reads with."""


def ensure(stage: Stage, work: Workplace) -> Finished:
    """The finished stage: found in the store, or produced here, parents first.

    Single flight: while another process produces the stage, this one waits. All workers of a group call it together. What is
    found has the bytes that its manifest names, and so have the parents of what is produced: the leader looks, once in its
    process, and the others trust it. A damaged stage is named in a warning and made again.

    Raises:
        Diverged: its training did, now or in an earlier attempt, which would end the same again.
    """
    found = work.agree(lambda: _whole(stage, work.store))
    if found is not None:
        return found
    _raise_noted(stage, work)
    for parent in stage.parents:
        ensure(parent, work)
    with contextlib.ExitStack() as held:
        while not work.agree(lambda: _claim(stage, work.store, held)):
            time.sleep(POLL_S)
        # Looked at again, as another process may have made it in the meantime; who holds the claim is the one to say so.
        found = work.agree(lambda: _whole(stage, work.store, warn=True))
        if found is not None:
            return found
        _raise_noted(stage, work)
        return _produce(stage, work)


def _whole(stage: Stage, store: StageStore, *, warn: bool = False) -> Finished | None:
    try:
        return store.whole(stage)
    except Damaged as error:
        if warn:
            logger.warning("%s: it is made again", error)
        return None


def _raise_noted(stage: Stage, work: Workplace) -> None:
    noted = work.agree(lambda: work.store.failure(stage))
    if noted is not None:
        raise Diverged(noted["step"], float(noted["loss"]))


def _claim(stage: Stage, store: StageStore, held: contextlib.ExitStack) -> bool:
    claim = store.try_claim(stage)
    if claim is not None:
        held.enter_context(claim)
    return claim is not None


def _produce(stage: Stage, work: Workplace) -> Finished:
    work = work.narrowed(stage)
    folder = work.agree(lambda: work.store.workspace(stage))
    started = time.perf_counter()
    try:
        metrics = stage.produce(work, folder)
        context = {
            "seconds": round(time.perf_counter() - started, 3),
            "workers": work.share.workers,
            "micro_batch": work.share.micro_batch,
            "zero_stage": work.zero_stage,
            "offload": work.offload,
            "device": str(work.device),
            "versions": versions(),
        }
        return work.agree(lambda: work.store.commit(stage, folder, metrics, context))
    except BaseException as error:
        if isinstance(error, OutOfMemory):
            error.stage = stage.memory_key
        if work.leads and isinstance(error, Diverged):
            work.store.note_failure(stage, {"step": error.step, "loss": str(error.loss)})
        if work.leads:
            shutil.rmtree(folder, ignore_errors=True)
        raise
