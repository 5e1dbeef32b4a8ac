"""The interface of a stage, and `ensure`, which returns a finished stage or produces it."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import logging
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
import torch.distributed as dist

from trainables.heads.base import NO_PREFIXES, Prefixes
from trainables.hyperparameters import Diverged, OutOfMemory
from trainables.resources import Resources
from trainables.store.stage_store import ClaimLost, Damaged, Finished, StageStore
from trainables.store.versions import versions
from trainables.training.batching import Share
from trainables.training.micro_batches import Limits

logger = logging.getLogger(__name__)
T = TypeVar("T")
Progress = Callable[
    [str, int, int, float | None], None
]  # stage; steps, sets or examples done, and in all; loss of a training
POLL_S = 0.5  # between two attempts to claim a stage that another process is producing


@dataclass(frozen=True)
class Workplace:
    """Where stages run: the store, this worker's share of every batch, the resources, its device and a progress callback.

    `limits` holds smaller micro-batches than the share's, by the `memory_key` of stages that ran out of memory. `job` names the
    job that runs here, under which its trainings are recorded (`attempts`); without a name they are not.
    """

    store: StageStore
    share: Share = field(default_factory=lambda: Share(0, 1, 64))
    resources: Resources = field(default_factory=Resources)
    limits: Limits = field(default_factory=dict)
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    progress: Progress = lambda stage, done, total, loss: None
    job: str = ""

    @property
    def leads(self) -> bool:
        """Whether this is the leading worker, the only one that reads and writes the store."""
        return self.share.rank == 0

    @property
    def partitions(self) -> bool:
        """Whether parameters are partitioned over workers: then no worker should ever hold the whole model."""
        return self.resources.zero_stage == 3 and self.share.workers > 1

    def with_limit(self, stage: Stage) -> Workplace:
        """With the stage's recorded limit as micro-batch, where there is one; logged where that is less than usual."""
        usual = self.share.micro_batch
        limit = self.limits.get(stage.memory_key, usual)
        if limit >= usual:
            return self
        if self.leads:
            logger.warning("%s: micro-batches of %d, as the usual %d did not fit before", stage.label, limit, usual)
        return dataclasses.replace(self, share=self.share.limited(limit))

    def from_leader(self, decide: Callable[[], T]) -> T:
        """The leading worker's result, on every worker; its error is raised on all of them."""
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
    """A unit of work. Subclasses are frozen dataclasses of plain values and parent stages, which are their whole identity.

    `needs_device`: False where one process on a CPU does the work, whatever the stages after it run on.
    """

    needs_device: ClassVar[bool] = True

    @property
    @abstractmethod
    def label(self) -> str:
        """Short readable name; the first part of the name of the stage's folder."""

    @property
    def memory_key(self) -> str:
        """What, besides the resources, decides the memory that an entry of a batch takes; part of a file name."""
        return self.label

    @property
    @abstractmethod
    def parents(self) -> tuple[Stage, ...]:
        """Stages whose outputs this stage reads."""

    @property
    def prefixes(self) -> Prefixes:
        """Of a stage that saves a tokenizer: what its encoder's texts begin with where sentence vectors are compared."""
        return NO_PREFIXES

    @abstractmethod
    def produce(self, work: Workplace, folder: Path) -> Mapping[str, Any]:
        """Do the work, write outputs into the folder (leader only) and return the metrics. Every worker calls it."""


@dataclass(frozen=True)
class Root(Stage):
    """A stage that fine-tuning starts from. Its outputs are an encoder and the tokenizer."""

    @property
    @abstractmethod
    def short(self) -> str:
        """The encoder's part of the labels of the stages that build on it."""

    @property
    @abstractmethod
    def tokenizer(self) -> Stage:
        """The stage whose tokenizer this encoder uses."""


def without_device(stages: Iterable[Stage]) -> list[Stage]:
    """The stages among these and everything that they build on that need no device, each once."""
    found: dict[Stage, None] = {}
    for stage in stages:
        found |= dict.fromkeys(without_device(stage.parents))
        if not stage.needs_device:
            found[stage] = None
    return list(found)


def ensure(stage: Stage, work: Workplace) -> Finished:
    """The finished stage, from the store or produced here after its parents. All workers of a group call it together.

    Single flight: while another process produces the stage, this one waits. The leader checks the content of a finished stage
    and of the parents of a produced one against their manifests, once in its process. A damaged stage is logged and produced
    again. Where another process takes the stage over, this one stops producing it and waits like any other.

    Raises:
        Diverged: its training diverged, now or in an earlier attempt. A repeated attempt would end the same.
    """
    finished = work.from_leader(lambda: _find_intact(stage, work.store))
    if finished is not None:
        return finished
    _raise_recorded_failure(stage, work)
    for parent in stage.parents:
        ensure(parent, work)
    while True:
        try:
            return _claimed(stage, work)
        except ClaimLost as error:
            if work.leads:
                logger.warning("%s", error)


def _claimed(stage: Stage, work: Workplace) -> Finished:
    """The stage, produced here or by the process that had the claim before."""
    with contextlib.ExitStack() as claims:
        while not work.from_leader(lambda: _claim(stage, work.store, claims)):
            time.sleep(POLL_S)
        # Another process may have produced it in the meantime. Only the holder of the claim reports damage.
        finished = work.from_leader(lambda: _find_intact(stage, work.store, warn=True))
        if finished is not None:
            return finished
        _raise_recorded_failure(stage, work)
        if work.leads and work.store.lacks_weights(stage):
            logger.warning("stage %s: its weights were removed; it is produced again", work.store.folder(stage).name)
        return _produce(stage, work)


def _find_intact(stage: Stage, store: StageStore, *, warn: bool = False) -> Finished | None:
    try:
        return store.find_intact(stage)
    except Damaged as error:
        if warn:
            logger.warning("%s; it is produced again", error)
        return None


def _raise_recorded_failure(stage: Stage, work: Workplace) -> None:
    failure = work.from_leader(lambda: work.store.failure(stage))
    if failure is not None:
        raise Diverged(failure["step"], float(failure["loss"]), stage.label)


def _claim(stage: Stage, store: StageStore, claims: contextlib.ExitStack) -> bool:
    claim = store.try_claim(stage)
    if claim is not None:
        claims.enter_context(claim)
    return claim is not None


def _produce(stage: Stage, work: Workplace) -> Finished:
    work = work.with_limit(stage)
    folder = work.from_leader(lambda: work.store.workspace(stage))
    started = time.perf_counter()
    try:
        metrics = stage.produce(work, folder)
        context = {
            "seconds": round(time.perf_counter() - started, 3),
            "workers": work.share.workers,
            "micro_batch": work.share.micro_batch,
            "micro_batch_tokens": work.share.micro_batch_tokens,
            "zero_stage": work.resources.zero_stage,
            "offload": work.resources.offload,
            "device": str(work.device),
            "versions": versions(),
        }
        return work.from_leader(lambda: work.store.commit(stage, folder, metrics, context))
    except BaseException as error:
        if isinstance(error, OutOfMemory):
            error.stage = stage.memory_key
        if isinstance(error, Diverged):
            error.stage = stage.label
        if work.leads and isinstance(error, Diverged):
            work.store.record_failure(stage, {"step": error.step, "loss": str(error.loss)})
        if work.leads:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    finally:
        _return_freed_memory()


def _return_freed_memory() -> None:
    """Return to the system what the stage freed, where the C library can (glibc).

    Workers keep freed memory for the next step (`study.cluster.connection`). Kept from stage to stage, it took a process of the
    quickstart from 1.0 to 1.4 GB; returning it takes 10 to 30 ms.
    """
    if (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
        trim(0)
