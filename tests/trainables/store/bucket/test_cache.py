"""The cache of a node: one process replaces an entry at a time, and nothing that somebody uses is removed."""

from __future__ import annotations

import gc
import os
import pickle
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support.object_server import ObjectServer
from tests.trainables.store.test_store import Toy, commit
from trainables.benchmark.subjects import checkpoint
from trainables.benchmark.subjects.checkpoint import CheckpointBenchmark
from trainables.store.bucket.cache import StageCache
from trainables.store.bucket.client import object_store
from trainables.store.bucket.location import WORK_VARIABLE, work_folder
from trainables.store.bucket.stages import BucketStageStore
from trainables.store.opening import open_store


def cache(folder: Path, most_bytes: int = 10**9) -> StageCache:
    return StageCache(folder / "entries", folder / "locks", most_bytes)


def test_a_finished_workspace_waits_for_a_process_that_fetches_the_entry(tmp_path: Path) -> None:
    fetching, adopting = cache(tmp_path), cache(tmp_path)
    started, may_end, adopted = threading.Event(), threading.Event(), threading.Event()

    def fetch(folder: Path) -> None:
        started.set()
        assert may_end.wait(60.0)
        (folder / "model").write_text("fetched")

    def adopt() -> None:
        adopting.adopt("stage", workspace)
        adopted.set()

    workspace = adopting.workspace()
    (workspace / "model").write_text("produced here")
    fetcher = threading.Thread(target=fetching.hold, args=("stage", fetch, lambda folder: (folder / "model").exists()))
    adopter = threading.Thread(target=adopt)
    fetcher.start()
    assert started.wait(60.0)
    adopter.start()
    assert not adopted.wait(0.2)
    may_end.set()
    fetcher.join()
    adopter.join()
    assert (tmp_path / "entries" / "stage" / "model").read_text() == "produced here"
    assert [path.name for path in (tmp_path / "entries").iterdir()] == ["stage"]


def test_what_was_adopted_is_not_removed_while_its_cache_lives(tmp_path: Path) -> None:
    own, other = cache(tmp_path), cache(tmp_path, most_bytes=0)
    workspace = own.workspace()
    (workspace / "model").write_text("weights")
    folder = own.adopt("stage", workspace)
    assert other.trim() == []
    own.release("stage")
    assert other.trim() == ["stage"]
    assert not folder.exists()


def test_a_disk_that_others_have_filled_keeps_room_for_what_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others take what the entries leave of 10,000 bytes, so a bound of half of the disk alone would remove nothing."""
    for number in range(4):
        producer = cache(tmp_path)
        workspace = producer.workspace()
        (workspace / "model").write_bytes(b"w" * 1000)
        producer.adopt(f"stage-{number}", workspace)
        producer.release(f"stage-{number}")
        os.utime(tmp_path / "locks" / f"stage-{number}.use", (number, number))
    others = [5900]

    def usage(folder: Path) -> SimpleNamespace:
        used = others[0] + sum(path.stat().st_size for path in folder.rglob("model"))
        return SimpleNamespace(total=10_000, free=10_000 - used)

    monkeypatch.setattr("trainables.store.bucket.cache.shutil.disk_usage", usage)
    node = cache(tmp_path, most_bytes=5000)
    assert node.trim() == ["stage-0"], "2% of the disk stay free"
    assert node.trim(needed=1900) == ["stage-1"]
    others[0] = 0
    assert node.trim(needed=1000) == []


def test_models_stay_while_they_are_benchmarked(
    object_server: ObjectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(WORK_VARIABLE, str(tmp_path))
    monkeypatch.setattr(checkpoint, "ensure", lambda stage, work: None)
    url = object_server.new_url()
    output, bucket = work_folder(url), object_store(url)
    for number in range(2):
        commit(open_store(output), Toy(number))
    subject, evaluation = CheckpointBenchmark(str(output), (), 1), SimpleNamespace(model=Toy(), features=None)
    chosen: Any = evaluation
    folder = subject.folder(chosen)
    assert pickle.loads(pickle.dumps(subject)) == subject, "it is sent to the process that measures"
    gc.collect()
    BucketStageStore(output, bucket, cache_bytes=0).local(Toy(1))
    assert folder.is_dir()
    del subject
    gc.collect()
    BucketStageStore(output, bucket, cache_bytes=0).local(Toy(1))
    assert not folder.exists()


def test_what_a_killed_process_left_unfinished_is_removed(tmp_path: Path) -> None:
    own, other = cache(tmp_path), cache(tmp_path)
    workspace = own.workspace()
    (workspace / "model").write_text("half")
    (left := tmp_path / "entries" / ".removed-1").mkdir()
    other.trim()
    assert (workspace / "model").is_file(), "its process lives"
    assert not left.exists()
    del own
    gc.collect()
    other.trim()
    assert not workspace.exists()
    assert not [path for path in (tmp_path / "locks").iterdir() if "unfinished" in path.name]
