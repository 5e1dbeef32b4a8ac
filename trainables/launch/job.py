"""Launchers: run a chain in this process, or on a Ray Train group of workers. Both give the loop the same things.

One CPU worker runs inside the trial's own actor: a fresh Ray Train group costs 10 to 20 s on two cores, more than a small
trial itself. Several workers, and every size on GPUs, run under `TorchTrainer`, whose start-up is nothing beside their stages.
"""

from __future__ import annotations

import dataclasses
import gc
import logging
import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
import ray.cloudpickle
import ray.train
from ray.exceptions import RayError, RayTaskError
from ray.train import FailureConfig, RunConfig, ScalingConfig

from trainables.hyperparameters import OutOfMemory
from trainables.store.fingerprint import fingerprint
from trainables.training.micro_batches import Limits, limits, note

# Ray Train's controller imports this module and does none of the work: what takes seconds to import (torch, transformers,
# DeepSpeed) is imported by the functions that need it, and a group's job travels pickled.
if TYPE_CHECKING:
    import torch

    from trainables.resources import Resources
    from trainables.stages.base import Stage, Workplace
    from trainables.stages.evaluate import Evaluate
    from trainables.training.batching import Share

Report = Callable[[dict[str, Any]], None]
Progress = Callable[[str, int, int, float], None]
logger = logging.getLogger(__name__)
CONTROLLER_FAILURES = 3  # Ray's default retries for ever, also what can never be scheduled
NOTICE_S = 45.0  # until Ray has noticed that a node is gone
MOST_LOSSES = 10  # of machines and workers in one launch; each costs what its stage did since its last checkpoint


class OutputMissing(OSError):
    """The output folder is not there on this node."""


@dataclass(frozen=True)
class Job:
    """What a launcher runs, and where its stages live. `size` names whose resources these are; `limits`, which launchers fill
    in, has smaller micro-batches for stages whose own did not fit."""

    output: str
    resources: Resources
    stages: tuple[Stage, ...] = ()
    chain: tuple[Evaluate, ...] = ()
    size: str = ""
    limits: Limits = field(default_factory=dict)

    def with_resources(self, **changes: Any) -> Job:
        return dataclasses.replace(self, resources=dataclasses.replace(self.resources, **changes))

    def run(self, work: Workplace, report: Report) -> None:
        """Ensure the stages, then the chain with a report after each target; a stage that diverges ends it with a report.

        Divergence is a result of the choice and would come again, so it is no error that launchers should retry.
        """
        from trainables.hyperparameters import Diverged
        from trainables.stages.base import ensure
        from trainables.stages.chain import run_chain

        try:
            for stage in self.stages:
                ensure(stage, work)
            run_chain(self.chain, work, report)
        except Diverged as error:
            if self.stages:
                raise
            report({"diverged": str(error)})


def run_inline(job: Job, *, report: Report, progress: Progress) -> None:
    """Run in this process, which may be a Tune trial's actor that has run other trials before.

    Raises:
        OutOfMemory: not even one example fits.
    """
    import torch

    from trainables.training.batching import Share

    _settle_process(job.resources)

    def launch(job: Job) -> None:
        share = Share(0, 1, job.resources.micro_batch)
        job.run(_workplace(job, share, torch.device("cpu"), progress), report)

    _with_room(job, launch)


def run_group(job: Job, *, name: str, progress: Progress, callbacks: Sequence[Any] = (), failures: int = 0) -> None:
    """Run on a Ray Train group; `name` is the resume key and must be the same when the trial is run again.

    Reports go where `callbacks` take them (`TuneReportCallback` inside a trial).

    A machine or a worker's process that is lost is no failure: the group starts again, and its stage goes on from its last
    checkpoint.

    Raises:
        ray.train.TrainingFailedError: a worker failed more than `failures` times, too many were lost, they did not come in time
            (`never_started`), or not even one example fits.
    """
    from ray.train.torch import TorchConfig, TorchTrainer

    def launch(job: Job) -> None:
        resources = job.resources
        trainer = TorchTrainer(
            _work,
            train_loop_config={"job": ray.cloudpickle.dumps(job), "progress": progress},
            torch_config=TorchConfig(backend="nccl" if resources.gpus else "gloo"),
            scaling_config=ScalingConfig(
                num_workers=resources.workers,
                use_gpu=bool(resources.gpus),
                resources_per_worker={"CPU": resources.cpus, **({"GPU": 1} if resources.gpus else {})},
                accelerator_type=resources.accelerator_type,
            ),
            run_config=RunConfig(
                name=_run_name(name, job),
                storage_path=str(Path(job.output) / "ray_train"),
                callbacks=list(callbacks),
                failure_config=FailureConfig(
                    max_failures=failures,
                    # One that may shrink does so once its machines have not come in time.
                    controller_failure_limit=CONTROLLER_FAILURES if len(resources.worker_counts) == 1 else 0,
                ),
            ),
        )
        trainer.fit()

    _with_machines(job, lambda job: _with_room(job, launch))


def _run_name(name: str, job: Job) -> str:
    """Another one for each attempt with smaller micro-batches: a run of Ray Train that failed is not gone on with."""
    smaller = f"-{fingerprint(_Attempt(tuple(sorted(job.limits.items()))))}" if job.limits else ""
    return f"{name}-micro{job.resources.micro_batch}{smaller}"


@dataclass(frozen=True)
class _Attempt:
    limits: tuple[tuple[str, int], ...]


def _with_machines(job: Job, launch: Callable[[Job], None]) -> None:
    """Launch, and again where a machine or a worker was lost; with half the workers where they did not come and the size allows
    it."""
    fewer, losses = iter(job.resources.worker_counts[1:]), 0
    while True:
        gone = _dead_nodes()
        try:
            launch(job)
            return
        except ray.train.TrainingFailedError as error:
            smaller = next(fewer, None) if never_started(error) else None
            if smaller is not None:
                logger.warning(
                    "%s: %d workers did not come; going on with %d", job.size, job.resources.workers, smaller
                )
                job = job.with_resources(workers=smaller)
            elif (
                _out_of_memory(error) is not None
                or losses == MOST_LOSSES
                or not (_lost_a_worker(error) or _lost_a_machine(error, gone))
            ):
                raise
            else:
                losses += 1
                logger.warning("%s: a worker was lost; starting all of them again", job.size)


def _lost_a_worker(error: ray.train.TrainingFailedError) -> bool:
    """Whether a worker's process ended, or stopped answering, without an error of its own."""
    from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError, WorkerHealthCheckTimeoutError

    silent = (WorkerHealthCheckFailedError, WorkerHealthCheckTimeoutError)
    return any(
        isinstance(one, silent) or (isinstance(one, RayError) and not isinstance(one, RayTaskError))
        for one in getattr(error, "worker_failures", {}).values()
    )


def _lost_a_machine(error: ray.train.TrainingFailedError, gone: set[str]) -> bool:
    """Whether a node was lost beside those that were gone before. Workers that it leaves alone say so seconds before Ray does:
    a connection breaks at once, and Ray waits for five missed answers."""
    failures = getattr(error, "worker_failures", {}).values()
    others = len(ray.nodes()) > 1
    suspicious = any(isinstance(one, (RuntimeError, OSError)) for one in failures)
    until = time.monotonic() + (NOTICE_S if suspicious and others else 0.0)
    while not (lost := _dead_nodes() - gone) and time.monotonic() < until:
        time.sleep(1.0)
    return bool(lost)


def _dead_nodes() -> set[str]:
    """Nodes that the cluster had and has no more."""
    return {node["NodeID"] for node in ray.nodes() if not node["Alive"]}


def never_started(error: BaseException) -> bool:
    """Whether the cluster did not give a group its workers in time."""
    from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError

    return isinstance(getattr(error, "controller_failure", None), WorkerGroupStartupTimeoutError)


def _with_room(job: Job, launch: Callable[[Job], None]) -> None:
    """Launch, and where the device's memory does not hold a stage's micro-batch launch again with half of it in that stage.

    The global batch stays, so the result does too: stages that are finished are found, and the one that ran out of memory goes
    on from its last checkpoint. What was learnt is noted in the output folder (`micro_batches`) for stages that are alike.
    """
    output, resources = Path(job.output), job.resources
    job = dataclasses.replace(job, limits=limits(output, resources))
    while True:
        try:
            launch(job)
            return
        except Exception as error:
            found = _out_of_memory(error)
            stage, half = ("", 0) if found is None else (found.stage, found.micro_batch // 2)
            # Nothing to halve: one example, or one group that stays together.
            if not 1 <= half < job.limits.get(stage, resources.micro_batch):
                raise
            reason, found = str(found), None  # the error holds frames that hold the model
        job = dataclasses.replace(job, limits={**job.limits, stage: half})
        logger.warning("%s: %s; going on with %d", job.size, reason, half)
        note(output, resources, stage, half, because=reason)


def _out_of_memory(error: BaseException) -> OutOfMemory | None:
    """The loop's error where it is the cause: in this process, or of a worker of a group."""
    causes = [error, *getattr(error, "worker_failures", {}).values()]
    return next((one for one in causes if isinstance(one, OutOfMemory)), None)


def _settle_process(resources: Resources) -> None:
    """Before the first stage: threads, and the collector. Every training ends with a collection (`engine.release`), which took
    0.3 s of looking through what imports have made; that is no garbage, and is left out from now on."""
    import torch

    torch.set_num_threads(resources.cpus)
    if not gc.get_freeze_count():
        gc.collect()
        gc.freeze()


def _workplace(job: Job, share: Share, device: torch.device, progress: Progress) -> Workplace:
    from trainables.stages.base import Workplace
    from trainables.store.stage_store import StageStore

    resources, output = job.resources, Path(job.output)
    if not output.is_dir():  # made anew it would be this node's own, and every stage be trained again in it
        raise OutputMissing(f"{output} is not there on {platform.node()}: is the shared folder mounted?")
    return Workplace(
        StageStore(output),
        share,
        zero_stage=resources.zero_stage,
        trim_vocabulary=resources.trim_vocabulary,
        offload=resources.offload,
        activation_checkpointing=resources.activation_checkpointing,
        checkpoint_every_s=resources.checkpoint_every_s,
        unpad=resources.unpad,
        compile=resources.compile,
        limits=job.limits,
        device=device,
        progress=progress,
    )


# One call a process: an idle worker that had pre-trained would hold its memory through the whole search.
@ray.remote(max_retries=MOST_LOSSES, max_calls=1)  # type: ignore[untyped-decorator]
def run_task(job: Job, name: str, progress: Progress) -> None:
    """A job whose reports nobody reads (pre-training), as a Ray task of its own."""
    if job.resources.inline:
        run_inline(job, report=_unread, progress=progress)
    else:
        run_group(job, name=name, progress=progress)


def _unread(metrics: dict[str, Any]) -> None:
    """Takes a report that goes nowhere."""


def _work(config: dict[str, Any]) -> None:
    """One worker of a group."""
    from ray.train.torch import get_device

    from trainables.training.batching import Share

    job: Job = ray.cloudpickle.loads(config["job"])
    progress: Progress = config["progress"]
    context = ray.train.get_context()
    os.environ["LOCAL_RANK"] = str(context.get_local_rank())
    _settle_process(job.resources)
    share = Share(context.get_world_rank(), context.get_world_size(), job.resources.micro_batch)
    work = _workplace(job, share, get_device(), progress if share.rank == 0 else _silent)
    job.run(work, ray.train.report)


def _silent(stage: str, done: int, total: int, value: float) -> None:
    """Progress of workers that do not lead."""
