"""Launches that are repeated: after a lost machine or worker, and with a smaller micro-batch after running out of memory."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable
from pathlib import Path

import ray
import ray.train
from ray.exceptions import OutOfMemoryError, RayError, RayTaskError

from trainables.hyperparameters import OutOfMemory
from trainables.launch.job import Job
from trainables.training.attempts import halve_after_kill
from trainables.training.micro_batches import known_limits, record_limit

Launch = Callable[[Job], None]
logger = logging.getLogger(__name__)
# Ray's control store checks a node every 3 s, waits up to 10 s for the answer and reports the node as dead after five misses:
# 15 s where its machine refuses connections, and 65 s where nothing answers, as with a spot machine that is taken away.
NODE_LOSS_NOTICE_S = 90.0
AUTOSCALER_DRAIN_IDLE = 4  # of Ray's `NodeDeathInfo`: nothing ran there; `ray.nodes()` has it as `DeathReason`
# What PyTorch writes where NCCL says that a peer is gone (`ncclRemoteError` in NCCLUtils.hpp, and `ncclGetErrorString`). Other
# NCCL errors (`ncclSystemError`) may as well come from this machine's settings.
NCCL_PEER_LOST = ("ncclRemoteError", "remote process exited or there was a network error")
MAX_LOSSES = 10  # machines and workers lost in one launch; each costs the work since the stage's last checkpoint


def retry_lost_workers(job: Job, launch: Launch) -> None:
    """Launch, and launch again where a machine or a worker's process was lost.

    Where replacements do not come in time, the launch continues with half the workers, as far as `fewest_workers` allows.
    """
    smaller_counts, losses = iter(job.resources.worker_counts[1:]), 0
    while True:
        dead_before = _dead_nodes()
        try:
            launch(job)
            return
        except ray.train.TrainingFailedError as error:
            smaller = next(smaller_counts, None) if never_started(error) else None
            if smaller is not None:
                logger.warning(
                    "%s: %d workers did not start in time; continuing with %d",
                    *(job.size, job.resources.workers, smaller),
                )
                job = job.with_resources(workers=smaller)
            elif (
                _out_of_memory(error) is not None
                or losses == MAX_LOSSES
                or not (_lost_a_worker(error) or _lost_a_machine(error, dead_before))
            ):
                raise
            else:
                losses += 1
                logger.warning("%s: a worker was lost; restarting the group", job.size)


def retry_out_of_memory(job: Job, launch: Launch) -> None:
    """Launch, and launch again with half the micro-batch in the stage that ran out of memory: the device's, or the node's.

    Where the node's memory ran out, Ray has killed a worker of a group; what that trained is on record (`attempts`). The global
    batch stays the same, and so does the gradient's expectation, but dropout draws other masks. Finished stages are found in
    the store, and the stage that ran out of memory resumes from its last checkpoint. The limit is recorded in the output
    folder (`micro_batches`) for similar stages.
    """
    output, resources = Path(job.output), job.resources
    job = dataclasses.replace(job, limits=known_limits(output, resources))
    while True:
        try:
            launch(job)
            return
        except Exception as error:
            if killed_for_memory(error) and (smaller := halve_after_kill(output, resources, job.name)) is not None:
                logger.warning("%s: a worker was killed for memory; continuing %s", job.size, smaller)
                job = dataclasses.replace(job, limits={**job.limits, smaller.stage: smaller.rows})
                continue
            exhausted = _out_of_memory(error)
            stage, half = ("", 0) if exhausted is None else (exhausted.stage, exhausted.micro_batch // 2)
            # A single example, or a single group that stays together, cannot be halved.
            if not 1 <= half < job.limits.get(stage, resources.micro_batch):
                raise
            reason, exhausted = str(exhausted), None  # the error's frames reference the model
        job = dataclasses.replace(job, limits={**job.limits, stage: half})
        logger.warning("%s: %s; continuing with %d", job.size, reason, half)
        record_limit(output, resources, stage, micro_batch=half, because=reason)


def killed_for_memory(error: BaseException) -> bool:
    """Whether Ray's memory monitor killed a process whose error this is, or a worker of its group."""
    from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError

    failures = [error, *getattr(error, "worker_failures", {}).values()]
    causes = [
        failure.health_check_failure if isinstance(failure, WorkerHealthCheckFailedError) else failure
        for failure in failures
    ]
    return any(isinstance(cause, OutOfMemoryError) for cause in causes)


def never_started(error: BaseException) -> bool:
    """Whether the cluster did not provide a group's workers in time."""
    from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError

    return isinstance(getattr(error, "controller_failure", None), WorkerGroupStartupTimeoutError)


def _lost_a_worker(error: ray.train.TrainingFailedError) -> bool:
    """Whether a worker's process ended or stopped answering without raising an error.

    So it is where all that workers raised is that NCCL lost a peer: the remaining workers notice that before Ray does.
    """
    from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError, WorkerHealthCheckTimeoutError

    silent = (WorkerHealthCheckFailedError, WorkerHealthCheckTimeoutError)
    failures = list(getattr(error, "worker_failures", {}).values())
    return any(
        isinstance(failure, silent) or (isinstance(failure, RayError) and not isinstance(failure, RayTaskError))
        for failure in failures
    ) or (bool(failures) and all(map(_names_a_lost_peer, failures)))


def _names_a_lost_peer(failure: BaseException) -> bool:
    """Whether it is NCCL's error for a peer that is gone: PyTorch raises it as a `DistBackendError`, a RuntimeError."""
    return isinstance(failure, RuntimeError) and any(phrase in str(failure) for phrase in NCCL_PEER_LOST)


def _lost_a_machine(error: ray.train.TrainingFailedError, dead_before: set[str]) -> bool:
    """Whether a node died during the launch.

    The remaining workers may fail a minute before Ray reports the node: their connection breaks at once, and Ray waits for
    five missed health checks.
    """
    failures = getattr(error, "worker_failures", {}).values()
    several_nodes = len(ray.nodes()) > 1
    suspicious = any(isinstance(failure, (RuntimeError, OSError)) for failure in failures)
    until = time.monotonic() + (NODE_LOSS_NOTICE_S if suspicious and several_nodes else 0.0)
    while not (lost := _dead_nodes() - dead_before) and time.monotonic() < until:
        time.sleep(1.0)
    return bool(lost)


def _dead_nodes() -> set[str]:
    """Nodes that have left the cluster, but for those that the autoscaler removed because nothing ran there."""
    return {
        node["NodeID"] for node in ray.nodes() if not node["Alive"] and node.get("DeathReason") != AUTOSCALER_DRAIN_IDLE
    }


def _out_of_memory(error: BaseException) -> OutOfMemory | None:
    """The training loop's out-of-memory error where it is the cause, in this process or in a worker of a group."""
    causes = [error, *getattr(error, "worker_failures", {}).values()]
    return next((cause for cause in causes if isinstance(cause, OutOfMemory)), None)
