"""Training over several nodes: a ZeRO group across two raylets, one of which is lost during a stage."""

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

from study.cluster.connection import connected
from study.cluster.fit import check_capacity
from study.cluster.progress_actor import ProgressActor, ProgressReporter
from study.errors import CannotRun
from study.spec import Size
from tests.support import recipes
from trainables.launch.job import Job
from trainables.launch.task import run_task
from trainables.resources import Resources
from trainables.stages.base import Workplace, ensure
from trainables.stages.finetune import FineTune
from trainables.store.stage_store import StageStore

pytestmark = [pytest.mark.slow, pytest.mark.ray]

NODE = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "resources": {"accelerator_type:A100": 1}}


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A head that runs no tasks and two nodes of one core, each with its own raylet; this process is connected."""
    # socket names need a short path
    with tempfile.TemporaryDirectory(prefix="ray", dir="/tmp", ignore_cleanup_errors=True) as folder:
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


def test_a_zero_3_group_over_two_nodes_survives_the_loss_of_one(cluster: Cluster, tmp_path: Path) -> None:
    resources = Resources(workers=2, zero_stage=3, accelerator_type="A100", checkpoint_every_s=1.0)
    size = Size("across", recipes.tiny().sizes[0].encoder, resources)
    assert check_capacity([size])["CPU"] == 2
    with pytest.raises(CannotRun, match=r"size across needs 3 x \(1 CPU, A100\).*2 of 1 CPU, A100"):
        check_capacity([dataclasses.replace(size, resources=dataclasses.replace(resources, workers=3))])

    stage, store = recipes.interruptible(), StageStore(tmp_path)
    ensure(stage.base, Workplace(store))
    job = Job(str(tmp_path), resources, stages=(stage,), size="across")
    progress_actor = ProgressActor.remote()  # type: ignore[attr-defined]
    running = run_task.options(num_cpus=0, resources={"node:__internal_head__": 0.001}).remote(
        job, "across", ProgressReporter(progress_actor)
    )
    _wait(lambda: _checkpoints(store, stage), running)
    assert all(node["Resources"].get("CPU", 0) <= 1 for node in ray.nodes()), "two workers cannot share a node"
    cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)
    cluster.add_node(**NODE)
    ray.get(running, timeout=600)

    finished = store.find(stage)
    assert finished is not None
    assert finished.metrics["resumed_at"] > 0, "it resumed from a checkpoint"
    assert store.verify(stage) == []
    assert finished.manifest["context"]["workers"] == 2
    alone = StageStore(tmp_path / "alone")
    undisturbed = ensure(stage, Workplace(alone))
    assert finished.metrics["final_loss"] == pytest.approx(undisturbed.metrics["final_loss"], rel=1e-3)
    assert finished.metrics["first_loss"] == pytest.approx(undisturbed.metrics["first_loss"], rel=1e-3)


def _checkpoints(store: StageStore, stage: FineTune) -> list[Path]:
    return list(store.checkpoints(stage).glob("step-*/manifest.json"))


def _wait(condition: Callable[[], Any], running: Any) -> None:
    deadline = time.monotonic() + 480
    while not condition():
        ended, _ = ray.wait([running], timeout=0.2)
        if ended:
            ray.get(ended)
            pytest.fail("the stage ended before it was interrupted")
        assert time.monotonic() < deadline, "the stage did not start"
