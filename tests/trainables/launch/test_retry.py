"""Which lost workers and machines are launched again, how often, and with how many workers; without a cluster."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import ray
import ray.train
from ray._raylet import Config  # type: ignore[attr-defined]
from ray.exceptions import OutOfMemoryError
from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError, WorkerHealthCheckFailedError

from tests.support.killed import leave_record
from trainables.launch import retry
from trainables.launch.job import Job
from trainables.resources import Resources
from trainables.training.attempts import Attempt, recorded_attempt


@pytest.fixture
def dead(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The ids of nodes that the cluster lost."""
    lost: list[str] = []
    monkeypatch.setattr(ray, "nodes", lambda: [{"NodeID": node, "Alive": False} for node in lost])
    return lost


def _failure(reason: Exception) -> ray.train.TrainingFailedError:
    return ray.train.v2.api.exceptions.WorkerGroupError("a worker failed", {0: reason})


def test_a_lost_machine_is_retried_and_a_program_error_is_not(dead: list[str]) -> None:
    launched: list[int] = []

    def launch_on_spot(job: Job) -> None:
        launched.append(job.resources.workers)
        if len(launched) < 4:
            dead.append(f"node-{len(launched)}")
            raise _failure(RuntimeError("Connection closed by peer"))

    retry.retry_lost_workers(Job("unused", Resources(workers=4)), launch_on_spot)
    assert launched == [4, 4, 4, 4]

    def launch_broken(job: Job) -> None:
        launched.append(job.resources.workers)
        raise _failure(ZeroDivisionError())

    launched.clear()
    with pytest.raises(ray.train.TrainingFailedError):
        retry.retry_lost_workers(Job("unused", Resources(workers=4)), launch_broken)
    assert launched == [4]


def test_a_worker_killed_on_a_living_machine_is_restarted(dead: list[str]) -> None:
    killed = WorkerHealthCheckFailedError("died", ray.exceptions.ActorDiedError())
    launched: list[int] = []

    def launch_twice(job: Job) -> None:
        launched.append(job.resources.workers)
        if len(launched) < 3:
            raise _failure(killed)

    retry.retry_lost_workers(Job("unused", Resources(workers=2)), launch_twice)
    assert launched == [2, 2, 2]
    launched.clear()

    def launch_on_a_broken_machine(job: Job) -> None:
        launched.append(job.resources.workers)
        raise _failure(killed)

    with pytest.raises(ray.train.TrainingFailedError):
        retry.retry_lost_workers(Job("unused", Resources(workers=2)), launch_on_a_broken_machine)
    assert len(launched) == retry.MAX_LOSSES + 1


NCCL_LOST_PEER = (
    "NCCL error in: /pytorch/torch/csrc/distributed/c10d/ProcessGroupNCCL.cpp:3699, remote process exited or there was a "
    "network error, NCCL version 2.28.9\nncclRemoteError: A call failed possibly due to a network error or a remote process "
    "exiting prematurely.\nLast error:\nsocketProgress: Connection closed by remote peer 10.0.0.7<55912>"
)
NCCL_MISUSED = """NCCL error in: /pytorch/torch/csrc/distributed/c10d/NCCLUtils.cpp:77, invalid usage, NCCL version 2.28.9
ncclInvalidUsage: This usually reflects invalid usage of NCCL library."""


def test_a_peer_that_nccl_lost_is_a_lost_worker_unless_a_worker_has_an_error_of_its_own(dead: list[str]) -> None:
    """Ray has not reported a dead node, and a worker that raised an error takes its peers' connections with it."""
    launched: list[str] = []

    def launch(*failures: Exception) -> Callable[[Job], None]:
        def attempt(job: Job) -> None:
            launched.append("attempt")
            if len(launched) == 1:
                raise ray.train.v2.api.exceptions.WorkerGroupError("failed", dict(enumerate(failures)))

        return attempt

    job = Job("unused", Resources(workers=2, gpus=1))
    retry.retry_lost_workers(job, launch(RuntimeError(NCCL_LOST_PEER), RuntimeError(NCCL_LOST_PEER)))
    assert len(launched) == 2
    for own in (RuntimeError(NCCL_MISUSED), ZeroDivisionError()):
        launched.clear()
        with pytest.raises(ray.train.TrainingFailedError):
            retry.retry_lost_workers(job, launch(RuntimeError(NCCL_LOST_PEER), own))
        assert len(launched) == 1


def test_a_machine_that_stops_answering_is_noticed_before_its_loss_counts_as_an_error(
    dead: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The longest time until Ray reports a node, by the settings of the installed version."""
    period_ms, timeout_ms = Config.health_check_period_ms(), Config.health_check_timeout_ms()
    reported_s = Config.health_check_failure_threshold() * (period_ms + timeout_ms) / 1000
    now = [0.0]

    def nodes() -> list[dict[str, object]]:
        gone = now[0] >= reported_s
        return [{"NodeID": "a", "Alive": True}, {"NodeID": "b", "Alive": not gone}]

    monkeypatch.setattr(ray, "nodes", nodes)
    monkeypatch.setattr("trainables.launch.retry.time.monotonic", lambda: now[0])
    monkeypatch.setattr("trainables.launch.retry.time.sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    launched: list[float] = []

    def launch(job: Job) -> None:
        launched.append(now[0])
        if len(launched) == 1:
            raise _failure(RuntimeError("Read timeout"))

    retry.retry_lost_workers(Job("unused", Resources(workers=2)), launch)
    assert launched == [0.0, reported_s]


def test_a_group_killed_for_memory_starts_again_with_half_the_rows(dead: list[str], tmp_path: Path) -> None:
    """Another loss leaves the micro-batch as it is, and so does a kill between two trainings."""
    out_of_memory = OutOfMemoryError("Task was killed due to the node running low on memory.")
    losses: list[Exception | None] = [
        WorkerHealthCheckFailedError("died", out_of_memory),
        WorkerHealthCheckFailedError("died", ray.exceptions.ActorDiedError()),
        out_of_memory,
        None,
    ]
    limits: list[dict[str, int]] = []

    def launch(job: Job) -> None:
        loss = losses[len(limits)]
        limits.append(dict(job.limits))
        if loss is not None:
            if len(limits) < 3:
                leave_record(tmp_path, "a-t0000", Attempt("tune", 64 if len(limits) == 1 else 32, 1))
            else:
                (tmp_path / "attempts" / "a-t0000.json").unlink()  # it was not training
            raise _failure(loss)

    job = Job(str(tmp_path), Resources(workers=2), name="a-t0000")
    retry.retry_lost_workers(job, lambda job: retry.retry_out_of_memory(job, launch))
    assert limits == [{}, {"tune": 32}, {"tune": 32}, {"tune": 32}]


def test_a_group_is_halved_where_the_leader_only_lost_its_connection(dead: list[str], tmp_path: Path) -> None:
    """Ray kills the second worker, and the first one's collective operation fails."""
    limits: list[dict[str, int]] = []

    def launch(job: Job) -> None:
        limits.append(dict(job.limits))
        rows = job.limits.get("tune", 64)
        try:
            with recorded_attempt(tmp_path, job.name, Attempt("tune", rows, 1)):
                if rows > 16:
                    raise RuntimeError("Connection closed by peer")
        except RuntimeError as of_leader:
            killed = WorkerHealthCheckFailedError("died", OutOfMemoryError("the node was running low on memory"))
            raise ray.train.v2.api.exceptions.WorkerGroupError("failed", {0: of_leader, 1: killed}) from None

    job = Job(str(tmp_path), Resources(workers=2), name="a-t0000")
    retry.retry_lost_workers(job, lambda job: retry.retry_out_of_memory(job, launch))
    assert limits == [{}, {"tune": 32}, {"tune": 16}]


def test_missing_machines_leave_a_smaller_group_if_the_size_allows_it(dead: list[str]) -> None:
    from ray.train.v2.api.exceptions import ControllerError

    launched: list[int] = []

    def launch_on_two_machines(job: Job) -> None:
        launched.append(job.resources.workers)
        if job.resources.workers > 2:
            raise ControllerError(WorkerGroupStartupTimeoutError(job.resources.workers))

    retry.retry_lost_workers(Job("unused", Resources(workers=8, fewest_workers=2)), launch_on_two_machines)
    assert launched == [8, 4, 2]
    launched.clear()
    with pytest.raises(ControllerError):
        retry.retry_lost_workers(Job("unused", Resources(workers=8, fewest_workers=4)), launch_on_two_machines)
    assert launched == [8, 4]
    launched.clear()
    with pytest.raises(ControllerError):
        retry.retry_lost_workers(Job("unused", Resources(workers=8)), launch_on_two_machines)
    assert launched == [8]


def test_a_smaller_group_is_launched_even_after_the_last_permitted_loss(dead: list[str]) -> None:
    """Ten losses, then machines that do not arrive: a launch with fewer workers is no loss; an eleventh loss is an error."""
    from ray.train.v2.api.exceptions import ControllerError

    killed = WorkerHealthCheckFailedError("died", ray.exceptions.ActorDiedError())
    launched: list[int] = []

    def lose_ten(job: Job) -> None:
        launched.append(job.resources.workers)
        if len(launched) <= retry.MAX_LOSSES:
            raise _failure(killed)
        if job.resources.workers > 2:
            raise ControllerError(WorkerGroupStartupTimeoutError(job.resources.workers))

    retry.retry_lost_workers(Job("unused", Resources(workers=4, fewest_workers=2)), lose_ten)
    assert launched == [4] * (retry.MAX_LOSSES + 1) + [2]
    launched.clear()

    def lose_one_more(job: Job) -> None:
        lose_ten(job)
        raise _failure(killed)

    with pytest.raises(ray.train.TrainingFailedError):
        retry.retry_lost_workers(Job("unused", Resources(workers=4, fewest_workers=2)), lose_one_more)
    assert launched == [4] * (retry.MAX_LOSSES + 1) + [2]


def test_a_machine_that_was_removed_because_nothing_ran_there_is_no_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        {"NodeID": "lives", "Alive": True, "DeathReason": 0},
        {"NodeID": "was idle", "Alive": False, "DeathReason": 4},
        {"NodeID": "crashed", "Alive": False, "DeathReason": 2},
        {"NodeID": "was taken away", "Alive": False, "DeathReason": 3},
        {"NodeID": "of another version", "Alive": False},
    ]
    monkeypatch.setattr("ray.nodes", lambda: rows)
    assert retry._dead_nodes() == {"crashed", "was taken away", "of another version"}
