"""Two producers of one stage in a bucket, of which one was taken for dead: neither disturbs the other's checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.object_server import ObjectServer
from tests.trainables.training.resuming.test_uploads import Engine
from trainables.stages.base import Stage, Workplace, ensure
from trainables.store.bucket.client import ObjectStore, object_store
from trainables.store.bucket.location import WORK_VARIABLE, work_folder
from trainables.store.bucket.stages import BucketStageStore
from trainables.store.stage_store import ClaimLost
from trainables.training.resuming.checkpoints import Checkpoints, Claimed

FOLDER = "checkpoints/a-stage"


class Resuming(Engine):
    """Reads the file that it wrote, and keeps its content."""

    loaded = b""

    def zero_optimization_stage(self) -> int:
        return 0

    def load_checkpoint(self, folder: str, *, tag: str) -> tuple[str, None]:
        self.loaded = (Path(folder) / tag / "state.pt").read_bytes()
        return tag, None


@pytest.fixture
def url(object_server: ObjectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv(WORK_VARIABLE, str(tmp_path))
    return object_server.new_url()


@pytest.fixture
def bucket(url: str) -> ObjectStore:
    return object_store(url)


def producer(url: str, token: int, engine: Engine, *, lost: bool = False) -> Checkpoints:
    claim = Claimed(token, lambda: lost)
    folder = work_folder(url) / FOLDER
    return Checkpoints(folder, 0.0, leads=True, workers=1, zero_stage=0, claim=claim, clock=engine.clock)


def saved(checkpoints: Checkpoints, engine: Engine, *steps: int) -> None:
    for step in steps:
        checkpoints.save(engine, [1.0] * step, None)
        upload = checkpoints._upload
        assert upload is not None
        upload.wait()


def kept(bucket: ObjectStore) -> list[str]:
    """The checkpoints that have a manifest."""
    names = bucket.names(f"{FOLDER}/")
    return [name.removeprefix(f"{FOLDER}/").removesuffix("/manifest.json") for name in names if "manifest" in name]


def test_a_producer_that_was_taken_for_dead_leaves_its_successors_checkpoints_alone(
    url: str, bucket: ObjectStore
) -> None:
    engine = Resuming()
    with producer(url, 1, engine) as woken, producer(url, 2, engine) as successor:
        saved(woken, engine, 1, 2)
        saved(successor, engine, 2)
        before = {name: bucket.get(name) for name in bucket.names(f"{FOLDER}/attempt-00000002/")}
        saved(woken, engine, 3, 4, 5)
        assert {name: bucket.get(name) for name in bucket.names(f"{FOLDER}/attempt-00000002/")} == before
        steps = [f"attempt-00000001/step-0000000{step}" for step in (4, 5)]
        assert kept(bucket) == [*steps, "attempt-00000002/step-00000002"]
        saved(successor, engine, 3, 4)
    assert kept(bucket) == [f"attempt-00000002/step-0000000{step}" for step in (3, 4)], (
        "its own are the newest it needs"
    )


@pytest.mark.parametrize("damaged", [False, True], ids=["intact", "the newest damaged"])
def test_the_newest_whole_checkpoint_of_any_producer_is_resumed_from(
    url: str, bucket: ObjectStore, damaged: bool
) -> None:
    engine = Resuming()
    with producer(url, 2, engine) as successor, producer(url, 1, engine) as woken:
        saved(successor, engine, 2)
        saved(woken, engine, 1, 3)
    if damaged:
        bucket.put(f"{FOLDER}/attempt-00000001/step-00000003/state.pt", b"garbage")
    with producer(url, 3, engine) as third:
        resumed = third.restore(engine)
    assert resumed.step == (2 if damaged else 3)
    assert len(resumed.skipped) == damaged
    assert engine.loaded == bytes(range(256)) * 1000
    assert not list(work_folder(url).rglob("state.pt")), "the node's disk is free again"


def test_a_checkpoint_that_a_killed_process_fetched_is_removed_by_the_next_one(url: str) -> None:
    engine = Resuming()
    left = work_folder(url) / "checkpoints" / ".fetched" / "other-stage+step-00000001" / "state.pt"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"left")
    with producer(url, 1, engine) as first:
        saved(first, engine, 1)
    with producer(url, 2, engine) as second:
        assert second.restore(engine).step == 1
    assert not left.exists()


def test_a_checkpoint_copied_from_a_folder_is_resumed_from(url: str, bucket: ObjectStore) -> None:
    engine = Resuming()
    with producer(url, 0, engine) as on_disk:
        saved(on_disk, engine, 2)
    assert kept(bucket) == ["step-00000002"]
    with producer(url, 4, engine) as later:
        assert later.restore(engine).step == 2
        saved(later, engine, 3, 4)
    assert kept(bucket) == [f"attempt-00000004/step-0000000{step}" for step in (3, 4)]


def test_a_training_that_was_taken_over_ends_at_the_next_step_with_one_sentence(url: str, bucket: ObjectStore) -> None:
    engine = Resuming()
    with (  # noqa: PT012 - the checkpoints see the error
        pytest.raises(ClaimLost, match="another process has taken over this training"),
        producer(url, 1, engine, lost=True) as checkpoints,
    ):
        assert checkpoints.due()
        checkpoints.save(engine, [1.0], None)
    assert not bucket.names(f"{FOLDER}/")


@dataclass(frozen=True)
class TakenOver(Stage):
    """Another store finishes it while this process produces it."""

    root: str

    @property
    def label(self) -> str:
        return "taken-over"

    @property
    def parents(self) -> tuple[Stage, ...]:
        return ()

    def produce(self, work: Workplace, folder: Path) -> Mapping[str, Any]:
        other = BucketStageStore(Path(self.root), object_store(Path(self.root).with_suffix(".url").read_text()))
        workspace = other.workspace(self)
        (workspace / "notes.txt").write_text("of its successor")
        other.commit(self, workspace, {"score": 1.0}, {})
        raise ClaimLost("taken over")


def test_a_stage_that_was_taken_over_is_the_successors(
    url: str, bucket: ObjectStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "other.url").write_text(url)
    stage = TakenOver(str(tmp_path / "other"))
    finished = ensure(stage, Workplace(BucketStageStore(tmp_path / "node", bucket)))
    assert finished.metrics["score"] == 1.0
    assert (finished.folder / "notes.txt").read_text() == "of its successor"
    assert [record.message for record in caplog.records if record.name == "trainables.stages.base"] == ["taken over"]


def test_a_finished_stage_drops_the_checkpoints_of_those_before_it_alone(bucket: ObjectStore, tmp_path: Path) -> None:
    store, stage = BucketStageStore(tmp_path / "node", bucket), TakenOver("elsewhere")
    prefix = f"checkpoints/{store.folder(stage).name}"
    for attempt in ("attempt-00000001/", "attempt-00000002/", ""):
        bucket.put(f"{prefix}/{attempt}step-00000001/state.pt", b"state")
    claim = store.try_claim(stage)
    assert claim is not None
    with claim:
        store.record_failure(stage, {"step": 1, "loss": "nan"})
    assert bucket.names(f"{prefix}/") == [f"{prefix}/attempt-00000002/step-00000001/state.pt"]
