"""Training over several nodes: ZeRO groups across raylets of their own, one of which is lost in the middle of a stage."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import ray.train
from ray.cluster_utils import Cluster
from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError, WorkerHealthCheckFailedError

from study.cluster.connection import CannotRun, capacity, connected
from study.cluster.progress_actor import Board, Poster
from study.spec import Size
from tests.support import recipes
from trainables.launch import job as launch
from trainables.launch.job import Job, run_task
from trainables.resources import Resources
from trainables.stages.base import Workplace, ensure
from trainables.stages.finetune import FineTune
from trainables.store.stage_store import StageStore

NODE = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "resources": {"accelerator_type:A100": 1}}


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A head that takes no tasks and two nodes of one core, each with a raylet of its own; this process is connected to it."""
    with tempfile.TemporaryDirectory(prefix="ray", dir="/tmp") as folder:  # sockets want a short path
        monkeypatch.setenv("RAY_TMPDIR", folder)
        monkeypatch.delenv("RAY_ADDRESS", raising=False)
        nodes = Cluster(
            initialize_head=True,
            head_node_args={"num_cpus": 0, "object_store_memory": 80 * 2**20, "include_dashboard": True},
        )
        try:
            for _ in range(2):
                nodes.add_node(**NODE)
            with connected(nodes.address):
                yield nodes
        finally:
            nodes.shutdown()


def test_a_zero_3_group_over_two_nodes_outlives_one_of_them(cluster: Cluster, tmp_path: Path) -> None:
    resources = Resources(workers=2, zero_stage=3, accelerator_type="A100", checkpoint_every_s=1.0)
    size = Size("across", recipes.tiny().sizes[0].encoder, resources)
    assert capacity([size])["CPU"] == 2
    with pytest.raises(CannotRun, match=r"size across needs 3 x \(1 CPU, A100\).*2 of 1 CPU, A100"):
        capacity([dataclasses.replace(size, resources=dataclasses.replace(resources, workers=3))])

    stage, store = recipes.interruptible(), StageStore(tmp_path)
    ensure(stage.base, Workplace(store))
    job = Job(str(tmp_path), resources, stages=(stage,), size="across")
    board = Board.remote()  # type: ignore[attr-defined]
    running = run_task.options(num_cpus=0, resources={"node:__internal_head__": 0.001}).remote(
        job, "across", Poster(board)
    )
    _wait(lambda: _checkpoints(store, stage), running)
    assert all(node["Resources"].get("CPU", 0) <= 1 for node in ray.nodes()), "two workers cannot be on one node"
    cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)
    cluster.add_node(**NODE)
    ray.get(running, timeout=240)

    found = store.find(stage)
    assert found is not None
    assert found.metrics["resumed_at"] > 0, "it went on from a checkpoint"
    assert store.verify(stage) == []
    assert found.manifest["context"]["workers"] == 2
    alone = StageStore(tmp_path / "alone")
    undisturbed = ensure(stage, Workplace(alone))
    assert found.metrics["final_loss"] == pytest.approx(undisturbed.metrics["final_loss"], rel=1e-3)
    assert found.metrics["first_loss"] == pytest.approx(undisturbed.metrics["first_loss"], rel=1e-3)


def _checkpoints(store: StageStore, stage: FineTune) -> list[Path]:
    return list(store.checkpoints(stage).glob("step-*/manifest.json"))


def _wait(what: Callable[[], Any], running: Any) -> None:
    deadline = time.monotonic() + 180
    while not what():
        ended, _ = ray.wait([running], timeout=0.2)
        if ended:
            ray.get(ended)
            pytest.fail("the stage ended before it was interrupted")
        assert time.monotonic() < deadline, "the stage did not begin"


# --- the rules of starting again, without a cluster


@pytest.fixture
def dead(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Nodes that a cluster has lost."""
    lost: list[str] = []
    monkeypatch.setattr(ray, "nodes", lambda: [{"NodeID": node, "Alive": False} for node in lost])
    return lost


def _failure(reason: Exception) -> ray.train.TrainingFailedError:
    return ray.train.v2.api.exceptions.WorkerGroupError("a worker failed", {0: reason})


def test_lost_machines_are_no_failures_and_broken_programs_are(dead: list[str]) -> None:
    launched: list[int] = []

    def launch_on_spot(job: Job) -> None:
        launched.append(job.resources.workers)
        if len(launched) < 4:
            dead.append(f"node-{len(launched)}")
            raise _failure(RuntimeError("Connection closed by peer"))

    launch._with_machines(Job("unused", Resources(workers=4)), launch_on_spot)
    assert launched == [4, 4, 4, 4]

    def launch_broken(job: Job) -> None:
        launched.append(job.resources.workers)
        raise _failure(ZeroDivisionError())

    launched.clear()
    with pytest.raises(ray.train.TrainingFailedError):
        launch._with_machines(Job("unused", Resources(workers=4)), launch_broken)
    assert launched == [4]


def test_a_worker_that_was_killed_on_a_machine_that_lives_is_started_again(dead: list[str]) -> None:
    killed = WorkerHealthCheckFailedError("died", ray.exceptions.ActorDiedError())
    launched: list[int] = []

    def launch_twice(job: Job) -> None:
        launched.append(job.resources.workers)
        if len(launched) < 3:
            raise _failure(killed)

    launch._with_machines(Job("unused", Resources(workers=2)), launch_twice)
    assert launched == [2, 2, 2]
    launched.clear()

    def launch_on_a_broken_machine(job: Job) -> None:
        launched.append(job.resources.workers)
        raise _failure(killed)

    with pytest.raises(ray.train.TrainingFailedError):
        launch._with_machines(Job("unused", Resources(workers=2)), launch_on_a_broken_machine)
    assert len(launched) == launch.MOST_LOSSES + 1


def test_machines_that_do_not_come_back_leave_a_smaller_group_where_the_size_allows_it(dead: list[str]) -> None:
    from ray.train.v2.api.exceptions import ControllerError

    launched: list[int] = []

    def launch_on_two_machines(job: Job) -> None:
        launched.append(job.resources.workers)
        if job.resources.workers > 2:
            raise ControllerError(WorkerGroupStartupTimeoutError(job.resources.workers))

    launch._with_machines(Job("unused", Resources(workers=8, fewest_workers=2)), launch_on_two_machines)
    assert launched == [8, 4, 2]
    launched.clear()
    with pytest.raises(ControllerError):
        launch._with_machines(Job("unused", Resources(workers=8, fewest_workers=4)), launch_on_two_machines)
    assert launched == [8, 4]
    launched.clear()
    with pytest.raises(ControllerError):
        launch._with_machines(Job("unused", Resources(workers=8)), launch_on_two_machines)
    assert launched == [8]


def test_a_smaller_group_is_launched_also_where_no_more_may_be_lost(dead: list[str]) -> None:
    """Ten losses, and then machines that do not come: a launch with fewer is no loss, and an eleventh loss is an error."""
    from ray.train.v2.api.exceptions import ControllerError

    killed = WorkerHealthCheckFailedError("died", ray.exceptions.ActorDiedError())
    launched: list[int] = []

    def lose_ten(job: Job) -> None:
        launched.append(job.resources.workers)
        if len(launched) <= launch.MOST_LOSSES:
            raise _failure(killed)
        if job.resources.workers > 2:
            raise ControllerError(WorkerGroupStartupTimeoutError(job.resources.workers))

    launch._with_machines(Job("unused", Resources(workers=4, fewest_workers=2)), lose_ten)
    assert launched == [4] * (launch.MOST_LOSSES + 1) + [2]
    launched.clear()

    def lose_one_more(job: Job) -> None:
        lose_ten(job)
        raise _failure(killed)

    with pytest.raises(ray.train.TrainingFailedError):
        launch._with_machines(Job("unused", Resources(workers=4, fewest_workers=2)), lose_one_more)
    assert launched == [4] * (launch.MOST_LOSSES + 1) + [2]
