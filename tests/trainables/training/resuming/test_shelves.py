"""Checkpoints in a bucket: another node resumes from them, and one that is damaged is passed over."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.support.object_server import Fault, ObjectServer
from tests.trainables.training.resuming.helpers import KILLED_AT, interrupt_stage, tuning
from trainables.resources import Resources
from trainables.stages.base import Workplace, ensure
from trainables.store.bucket.client import ObjectStore, object_store
from trainables.store.bucket.location import WORK_VARIABLE, work_folder
from trainables.store.opening import open_store
from trainables.store.stage_store import StageStore
from trainables.training.attempts import Attempt, halve_after_kill, recorded_attempt
from trainables.training.micro_batches import known_limits
from trainables.training.resuming.shelves import BucketShelf

pytestmark = pytest.mark.slow
STAGE = tuning(seed=3)


@pytest.fixture
def url(object_server: ObjectServer) -> str:
    return object_server.new_url()


def on_node(name: str, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workplace:
    """A workplace on a node with an empty disk of its own."""
    monkeypatch.setenv(WORK_VARIABLE, str(tmp_path / name))
    return Workplace(open_store(work_folder(url)), resources=Resources(checkpoint_every_s=0.0))


def weights_of(folder: Path) -> dict[str, list[float]]:
    (path,) = folder.rglob("model.safetensors")
    return {name: value.flatten().tolist() for name, value in load_file(path).items()}


@pytest.mark.parametrize("damaged", [False, True], ids=["intact", "the newest damaged"])
def test_another_node_resumes_from_a_checkpoint_in_the_bucket(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damaged: bool
) -> None:
    interrupt_stage(STAGE, on_node("first", url, tmp_path, monkeypatch))
    bucket: ObjectStore = object_store(url)
    kept = bucket.names("checkpoints/")
    steps = sorted({int(name.split("/")[3].removeprefix("step-")) for name in kept})
    assert steps[-1] == KILLED_AT - 1
    if damaged:
        bucket.put(next(name for name in kept if f"step-{steps[-1]:08d}" in name and name.endswith(".pt")), b"garbage")
    work = on_node("second", url, tmp_path, monkeypatch)
    finished = ensure(STAGE, work)
    assert finished.metrics["resumed_at"] == steps[-2 if damaged else -1]
    assert bool(finished.metrics.get("skipped_checkpoints")) is damaged
    assert bucket.names("checkpoints/") == []
    assert not list((work.store.root / "checkpoints").rglob("step-*")), "the node's disk is free again"
    uninterrupted = ensure(STAGE, Workplace(StageStore(tmp_path / "disk")))
    assert weights_of(work.store.local(STAGE)) == weights_of(uninterrupted.folder)


def test_a_checkpoint_with_a_file_outside_of_it_is_refused(url: str, tmp_path: Path) -> None:
    shelf = BucketShelf(tmp_path / "checkpoints" / "stage", object_store(url))
    outside = str(tmp_path / "evil")
    problem = shelf.fetch("step-1", {"files": {outside: {"bytes": 4, "sha256": "0"}}})
    assert problem is not None
    assert problem.startswith("refused")
    assert outside in problem
    assert not (tmp_path / "evil").exists()


def test_a_training_survives_a_store_that_throttles(
    url: str, object_server: ObjectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    object_server.faults += [
        Fault("PUT", "checkpoints/", status=503, times=5),
        Fault("PUT", "stages/", lose="answer", times=2),
        Fault("GET", "stages/", lose="half", times=2),
    ]
    work = on_node("first", url, tmp_path, monkeypatch)
    ensure(STAGE, work)
    assert all(fault.times == 0 for fault in object_server.faults)
    assert work.store.verify(STAGE) == []


def test_what_a_job_trains_and_its_limits_are_known_on_every_node(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(WORK_VARIABLE, str(tmp_path / "worker"))
    with pytest.raises(KeyError), recorded_attempt(work_folder(url), "trial", Attempt("stage", 8, 1)):
        raise KeyError
    monkeypatch.setenv(WORK_VARIABLE, str(tmp_path / "head"))
    smaller = halve_after_kill(work_folder(url), Resources(), "trial")
    assert smaller is not None
    assert smaller.rows == 4
    monkeypatch.setenv(WORK_VARIABLE, str(tmp_path / "third"))
    assert known_limits(work_folder(url), Resources()) == {"stage": 4}
    assert halve_after_kill(work_folder(url), Resources(), "trial") is None
