"""Runs a job on a Ray Train group of workers: every size on GPUs, and CPU sizes with several workers."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
import ray.cloudpickle
import ray.train
from ray.train import FailureConfig, RunConfig, ScalingConfig

from trainables.launch.inline import run_inline
from trainables.launch.job import Job, no_progress, workplace
from trainables.launch.process import NO_GPU, gpu_memory, prepare_process
from trainables.launch.retry import MAX_LOSSES, retry_lost_workers, retry_out_of_memory
from trainables.resources import Resources, worker_request
from trainables.store.fingerprint import fingerprint
from trainables.store.opening import open_store
from trainables.store.stage_store import Damaged, StageStore

if TYPE_CHECKING:
    from trainables.stages.base import Progress, Stage

# Ray Train's controller imports this module and trains nothing. Slow imports (torch, transformers, DeepSpeed) are inside the
# functions that need them, and a group's job travels pickled.
CONTROLLER_FAILURES = 3  # Ray retries without end by default, even a request that can never be scheduled


def run_group(job: Job, *, name: str, progress: Progress, callbacks: Sequence[Any] = (), failures: int = 0) -> None:
    """Run on a Ray Train group; `name` is the resume key and must be the same when the trial is run again.

    Reports go to `callbacks` (`TuneReportCallback` inside a trial). A lost machine or worker process is not a failure: the
    group restarts, and its stage resumes from its last checkpoint.

    Raises:
        ray.train.TrainingFailedError: a worker failed more than `failures` times, too many workers were lost, they did not
            start in time (`never_started`), or not even one example fits.
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
                resources_per_worker=worker_request(resources),
                placement_strategy="STRICT_PACK" if resources.one_node else "PACK",
            ),
            run_config=RunConfig(
                name=_run_name(name, job),
                storage_path=str(Path(job.output) / "ray_train"),
                callbacks=list(callbacks),
                failure_config=FailureConfig(
                    max_failures=failures,
                    # A group that may shrink does so as soon as its workers did not start in time.
                    controller_failure_limit=CONTROLLER_FAILURES if len(resources.worker_counts) == 1 else 0,
                ),
                # Workers import torch before `prepare_process` runs.
                worker_runtime_env={"env_vars": gpu_memory() if resources.gpus else NO_GPU},
            ),
        )
        trainer.fit()

    if job.resources.gpus:
        _produce_on_cpus(job, progress)
    retry_lost_workers(job, lambda job: retry_out_of_memory(job, launch))


def _produce_on_cpus(job: Job, progress: Progress) -> None:
    """Produce what the job needs and the store lacks that no GPU helps with, before the group takes its GPUs.

    Tokenising a task's sets in fifty languages takes minutes of one core, for which a whole group would wait. A merge of
    encoders of which some are still to be trained is left to the group: on a CPU their training would take days.
    """
    from trainables.stages.base import without_device
    from trainables.stages.finetune import Tuned

    store = open_store(Path(job.output))
    missing = tuple(
        stage
        for stage in without_device((*job.stages, *job.chain))
        if store.find(stage) is None
        and all(_intact(store, parent) for parent in stage.parents if isinstance(parent, Tuned))
    )
    if missing:
        on_cpu = Job(job.output, Resources(), stages=missing, size=job.size)
        # Outside the trial's placement group, which has no core and would capture the task.
        ray.get(cpu_task.options(num_cpus=1, scheduling_strategy="DEFAULT").remote(on_cpu, progress))


def _intact(store: StageStore, stage: Stage) -> bool:
    """Whether a stage can be read as it is; one with damaged files would be trained again."""
    try:
        return store.find_intact(stage) is not None
    except Damaged:
        return False


def _run_on_cpu(job: Job, progress: Progress) -> None:
    run_inline(job, report=lambda metrics: None, progress=progress)


cpu_task = ray.remote(max_retries=MAX_LOSSES, max_calls=1)(_run_on_cpu)


def _run_name(name: str, job: Job) -> str:
    """A new name for each attempt with smaller micro-batches: Ray Train does not resume a run that failed."""
    limits = f"-{fingerprint(_Attempt(tuple(sorted(job.limits.items()))))}" if job.limits else ""
    return f"{name}-micro{job.resources.micro_batch}{limits}"


@dataclass(frozen=True)
class _Attempt:
    limits: tuple[tuple[str, int], ...]


def local_index(gpu: int | None, local_rank: int) -> int:
    """The value of `LOCAL_RANK`, which DeepSpeed takes for the number of this worker's GPU (None: it has none).

    Ray orders a node's workers by the numbers of their GPUs, and the GPUs that each of them sees by their names: from the
    eleventh GPU of a node on ("10" comes before "9") a worker's place is not that of its GPU.
    """
    return local_rank if gpu is None else gpu


def _work(config: dict[str, Any]) -> None:
    """The work of one worker of a group."""
    job: Job = ray.cloudpickle.loads(config["job"])
    prepare_process(job.resources)
    import torch
    from ray.train.torch import get_device

    from trainables.training.batching import Share

    context = ray.train.get_context()
    share = Share.of(job.resources, context.get_world_rank(), context.get_world_size())
    # Outside of `use_gpu`, Ray's `get_device` returns the first GPU that PyTorch sees.
    device = get_device() if job.resources.gpus else torch.device("cpu")
    os.environ["LOCAL_RANK"] = str(local_index(device.index, context.get_local_rank()))
    progress: Progress = config["progress"] if share.rank == 0 else no_progress
    job.run(workplace(job, share, device=device, progress=progress), ray.train.report)
