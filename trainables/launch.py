"""Launchers: run a chain in this process, or on a Ray Train group of workers. Both give the loop the same things.

One CPU worker runs inside the trial's own actor: a fresh Ray Train group costs 10 to 20 s on two cores, more than a small
trial itself. Several workers, and every size on GPUs, run under `TorchTrainer`, whose start-up is nothing beside their stages.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
import ray.cloudpickle
import ray.train
from ray.train import FailureConfig, RunConfig, ScalingConfig

# Ray Train's controller imports this module and does none of the work: what takes seconds to import (torch, transformers,
# DeepSpeed) is imported by the functions that need it, and a group's job travels pickled.
if TYPE_CHECKING:
    from trainables.engine import Resources
    from trainables.stages.base import Stage, Workplace
    from trainables.stages.evaluate import Evaluate

Report = Callable[[dict[str, Any]], None]
Progress = Callable[[str, int, int, float], None]
CONTROLLER_FAILURES = 3  # Ray's default retries for ever, also what can never be scheduled


@dataclass(frozen=True)
class Job:
    """What a launcher runs, and where its stages live."""

    output: str
    resources: Resources
    stages: tuple[Stage, ...] = ()
    chain: tuple[Evaluate, ...] = ()

    def run(self, work: Workplace, report: Report) -> None:
        """Ensure the stages, then the chain with a report after each target; a stage that diverges ends it with a report.

        Divergence is a result of the choice and would come again, so it is no error that launchers should retry.
        """
        from trainables.chain import run_chain
        from trainables.loop import Diverged
        from trainables.stages.base import ensure

        try:
            for stage in self.stages:
                ensure(stage, work)
            run_chain(self.chain, work, report)
        except Diverged as error:
            if self.stages:
                raise
            report({"diverged": str(error)})


def run_inline(job: Job, *, report: Report, progress: Progress) -> None:
    """Run in this process, which may be a Tune trial's actor that has run other trials before."""
    import torch

    from trainables.batching import Share
    from trainables.stages.base import Workplace
    from trainables.store import StageStore

    torch.set_num_threads(job.resources.cpus)
    work = Workplace(
        StageStore(Path(job.output)),
        Share(0, 1, job.resources.micro_batch),
        zero_stage=job.resources.zero_stage,
        progress=progress,
    )
    job.run(work, report)


def run_group(job: Job, *, name: str, progress: Progress, callbacks: Sequence[Any] = (), failures: int = 0) -> None:
    """Run on a Ray Train group; `name` is the resume key and must be the same when the trial is run again.

    Reports go where `callbacks` take them (`TuneReportCallback` inside a trial).

    Raises:
        ray.train.TrainingFailedError: a worker failed more than `failures` times.
    """
    from ray.train.torch import TorchConfig, TorchTrainer

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
            name=name,
            storage_path=str(Path(job.output) / "ray_train"),
            callbacks=list(callbacks),
            failure_config=FailureConfig(max_failures=failures, controller_failure_limit=CONTROLLER_FAILURES),
        ),
    )
    trainer.fit()


# One call a process: an idle worker that had pre-trained would hold its memory through the whole search.
@ray.remote(max_retries=1, max_calls=1)  # type: ignore[untyped-decorator]
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
    import torch
    from ray.train.torch import get_device

    from trainables.batching import Share
    from trainables.stages.base import Workplace
    from trainables.store import StageStore

    job: Job = ray.cloudpickle.loads(config["job"])
    progress: Progress = config["progress"]
    context = ray.train.get_context()
    os.environ["LOCAL_RANK"] = str(context.get_local_rank())
    torch.set_num_threads(job.resources.cpus)
    share = Share(context.get_world_rank(), context.get_world_size(), job.resources.micro_batch)
    work = Workplace(
        StageStore(Path(job.output)),
        share,
        zero_stage=job.resources.zero_stage,
        device=get_device(),
        progress=progress if share.rank == 0 else _silent,
    )
    job.run(work, ray.train.report)


def _silent(stage: str, done: int, total: int, value: float) -> None:
    """Progress of workers that do not lead."""
