"""Stages in a bucket: commit and fetch, one producer at a time, damage, a producer that was taken for dead, and the cache."""

from __future__ import annotations

import json
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest import mock

import pytest

from tests.support.object_http import BUCKET, Fault, ObjectServer
from tests.trainables.store.test_store import Toy, commit
from trainables.store.bucket import client, leases
from trainables.store.bucket.client import ObjectStore, StorageUnavailable, object_store
from trainables.store.bucket.location import WORK_VARIABLE, work_folder
from trainables.store.bucket.stages import BucketStageStore
from trainables.store.kept import sealed
from trainables.store.manifests import MANIFEST, parse_manifest
from trainables.store.opening import open_store
from trainables.store.stage_store import ClaimLost, Damaged, StageStore


@pytest.fixture
def bucket(object_server: ObjectServer) -> ObjectStore:
    return object_store(object_server.new_url())


@pytest.fixture
def node(bucket: ObjectStore, tmp_path: Path) -> BucketStageStore:
    return BucketStageStore(tmp_path / "node", bucket)


@pytest.fixture
def other_node(bucket: ObjectStore, tmp_path: Path) -> BucketStageStore:
    return BucketStageStore(tmp_path / "other", bucket)


def objects_of(bucket: ObjectStore, stage: Toy) -> list[str]:
    return bucket.names(f"stages/{StageStore(Path('/')).folder(stage).name}/")


def test_a_stage_lives_in_every_cloud(cloud: ObjectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two producers at a time, of which one's result counts; another node finds it, and removes its weights."""
    monkeypatch.setattr(client, "PART_BYTES", 5 * 2**20)
    bucket = object_store(cloud.new_url())
    node, other_node, third = (BucketStageStore(tmp_path / name, bucket) for name in ("node", "other", "third"))
    together, put_new = threading.Barrier(2), bucket.put_new

    def together_put_new(key: str, content: bytes) -> str | None:
        together.wait(timeout=240)
        return put_new(key, content)

    with mock.patch.object(bucket, "put_new", together_put_new), ThreadPoolExecutor(2) as pool:
        weights = ["a" * (5 * 2**20 + 1), "b" * (5 * 2**20 + 1)]  # in two parts
        first, second = pool.map(with_weights, (node, other_node), weights)
    assert first == second
    (manifest,) = third.manifests().values()
    assert len(objects_of(bucket, Toy())) == 3, "the other's files are gone"
    kept = [(store.local(Toy()) / "model.safetensors").read_text() for store in (node, other_node, third)]
    assert kept[0] in weights
    assert len(set(kept)) == 1
    assert third.verify(Toy()) == []
    assert third.remove_weights(first) == manifest["files"]["model.safetensors"]["bytes"] == len(weights[0])
    assert node.find(Toy()) is None
    assert len(objects_of(bucket, Toy())) == 2
    with_weights(node, "again")
    assert (third.local(Toy()) / "model.safetensors").read_text() == "again"


def test_another_node_fetches_a_stage_once(
    node: BucketStageStore, other_node: BucketStageStore, object_server: ObjectServer
) -> None:
    assert other_node.find(Toy()) is None
    committed = commit(node, Toy())
    found = other_node.find_intact(Toy())
    assert found is not None
    assert found.manifest == committed.manifest
    folder = other_node.local(Toy())
    assert folder == found.folder == other_node.root / "stages" / committed.folder.name
    assert (folder / "deep" / "model.bin").read_text() == "weights"
    assert other_node.verify(Toy()) == []
    object_server.requests.clear()
    assert BucketStageStore(other_node.root, object_store(node._bucket.url)).local(Toy()) == folder
    assert not [path for _, path in object_server.requests if "model.bin" in path]
    assert set(node.manifests()) == {folder.name}


def test_one_producer_at_a_time(node: BucketStageStore, other_node: BucketStageStore) -> None:
    claim = node.try_claim(Toy())
    assert claim is not None
    with claim:
        assert other_node.try_claim(Toy()) is None
        free = other_node.try_claim(Toy(1))
        assert free is not None
        with free:
            pass
    again = other_node.try_claim(Toy())
    assert again is not None
    with again:
        pass


def test_a_producer_that_was_taken_for_dead_takes_the_result_of_its_successor(
    node: BucketStageStore, other_node: BucketStageStore, bucket: ObjectStore
) -> None:
    """It was stopped, lost its lease, and goes on when the successor has finished: nothing of that result changes."""
    woken = node.workspace(Toy())
    (woken / "model.bin").write_text("of the one that was stopped")
    successor = commit(other_node, Toy(), "of its successor")
    before = objects_of(bucket, Toy())
    finished = node.commit(Toy(), woken, {"score": 0.0}, {})
    assert finished.manifest == successor.manifest
    assert (finished.folder / "deep" / "model.bin").read_text() == "of its successor"
    assert objects_of(bucket, Toy()) == before, "its own objects are gone"


@pytest.mark.parametrize("damage", ["missing", "changed"])
def test_a_damaged_stage_is_named_and_produced_again(
    node: BucketStageStore, other_node: BucketStageStore, bucket: ObjectStore, damage: str
) -> None:
    commit(node, Toy())
    (weights,) = (name for name in objects_of(bucket, Toy()) if name.endswith("model.bin"))
    bucket.delete([weights]) if damage == "missing" else bucket.put(weights, b"weighty")
    with pytest.raises(Damaged, match=r"model\.bin"):
        other_node.find_intact(Toy())
    assert not list(other_node.root.glob("stages/toy*")), "half a stage is not one"
    commit(other_node, Toy(), "anew")
    third = BucketStageStore(other_node.root.with_name("third"), bucket)
    assert (third.local(Toy()) / "deep" / "model.bin").read_text() == "anew"


@pytest.mark.parametrize("name", ["../../../evil", "{outside}/evil"])
def test_a_file_outside_of_its_stage_is_refused(
    node: BucketStageStore, other_node: BucketStageStore, bucket: ObjectStore, tmp_path: Path, name: str
) -> None:
    """Its object is where the manifest says, as far as a bucket has such names, and its hash is right."""
    outside = name.format(outside=tmp_path)
    commit(node, Toy())
    (key,) = (name for name in objects_of(bucket, Toy()) if name.endswith(MANIFEST))
    present = bucket.get(key)
    assert present is not None
    manifest = parse_manifest(present.content)
    assert manifest is not None
    (entry,) = (entry for file, entry in manifest["files"].items() if file.endswith("model.bin"))
    bucket.put(key, json.dumps(sealed({**manifest, "files": {outside: entry}})).encode())
    with (
        mock.patch.object(
            bucket, "download", side_effect=lambda _, target: target.write_text("evil") and entry["sha256"]
        ),
        pytest.raises(Damaged, match="refused"),
    ):
        other_node.local(Toy())
    with pytest.raises(Damaged, match="refused"):
        list(other_node.copies(lambda stage, file: False))
    assert not list(tmp_path.rglob("evil"))


def test_a_damaged_manifest_is_one_of_no_stage(
    node: BucketStageStore, other_node: BucketStageStore, bucket: ObjectStore
) -> None:
    commit(node, Toy())
    (manifest,) = (name for name in objects_of(bucket, Toy()) if name.endswith(MANIFEST))
    bucket.put(manifest, b"{}")
    assert other_node.find(Toy()) is None
    with pytest.raises(Damaged):
        other_node.find_intact(Toy())
    commit(other_node, Toy(), "anew")
    assert node.find_intact(Toy()) is not None


def test_a_copy_in_the_cache_that_was_damaged_is_fetched_again(node: BucketStageStore, bucket: ObjectStore) -> None:
    folder = commit(node, Toy()).folder
    (folder / "deep" / "model.bin").write_text("cut")
    again = BucketStageStore(node.root, bucket).local(Toy())
    assert (again / "deep" / "model.bin").read_text() == "weights"


def test_nothing_is_half_committed_while_the_store_is_away(
    node: BucketStageStore,
    other_node: BucketStageStore,
    object_server: ObjectServer,
    bucket: ObjectStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bucket, "_patience_s", 0.5)
    object_server.faults.append(Fault("PUT", MANIFEST, status=503, times=10**6))
    with pytest.raises(StorageUnavailable):
        commit(node, Toy())
    assert other_node.find(Toy()) is None
    object_server.faults.clear()
    commit(other_node, Toy(), "anew")
    assert node.find_intact(Toy()) is not None


def test_weights_are_removed_from_the_bucket_and_the_stage_can_be_produced_again(
    node: BucketStageStore, other_node: BucketStageStore, bucket: ObjectStore
) -> None:
    workspace = node.workspace(Toy())
    (workspace / "model.safetensors").write_text("weights")
    (workspace / "notes.txt").write_text("notes")
    name = node.commit(Toy(), workspace, {"score": 1.5}, {}).folder.name
    assert node.remove_weights(name) == len("weights")
    assert node.remove_weights(name) == 0
    assert not [key for key in objects_of(bucket, Toy()) if key.endswith(".safetensors")]
    assert other_node.find(Toy()) is None
    assert other_node.lacks_weights(Toy())
    commit(other_node, Toy(), "anew")
    assert other_node.find_intact(Toy()) is not None
    assert not other_node.lacks_weights(Toy())


def with_weights(store: BucketStageStore, weights: str) -> str:
    """The name of a finished stage that has weights."""
    workspace = store.workspace(Toy())
    (workspace / "model.safetensors").write_text(weights)
    (workspace / "notes.txt").write_text("notes")
    return store.commit(Toy(), workspace, {"score": 1.5}, {}).folder.name


def test_an_interrupted_removal_leaves_a_stage_without_weights_and_is_finished_by_the_next(
    node: BucketStageStore, other_node: BucketStageStore, bucket: ObjectStore
) -> None:
    name = with_weights(node, "weights")
    with mock.patch.object(bucket, "delete", side_effect=KeyboardInterrupt), pytest.raises(KeyboardInterrupt):
        node.remove_weights(name)
    assert [key for key in objects_of(bucket, Toy()) if key.endswith(".safetensors")]
    assert other_node.find_intact(Toy()) is None
    assert other_node.lacks_weights(Toy())
    assert other_node.removable([name, "toy@none"]) == {name: len("weights")}
    assert other_node.remove_weights(name) == len("weights")
    assert not [key for key in objects_of(bucket, Toy()) if key.endswith(".safetensors")]
    assert other_node.removable([name]) == {}


def test_a_reader_whose_stage_loses_its_weights_meanwhile_sees_no_damage(
    node: BucketStageStore, other_node: BucketStageStore, bucket: ObjectStore
) -> None:
    name, download = with_weights(node, "weights"), bucket.download
    one_at_a_time = threading.Lock()  # who finds another removing them does not wait for it

    def removed_before(key: str, target: Path) -> str | None:
        with one_at_a_time:
            node.remove_weights(name)
        return download(key, target)

    with mock.patch.object(bucket, "download", removed_before):
        assert other_node.find_intact(Toy()) is None
    assert not list(other_node.root.glob("stages/toy*"))


def test_a_copy_of_removed_weights_is_not_taken_for_those_that_were_trained_again(
    node: BucketStageStore, other_node: BucketStageStore, bucket: ObjectStore
) -> None:
    """They have the same names and sizes."""
    name = with_weights(node, "first.")
    assert (other_node.local(Toy()) / "model.safetensors").read_text() == "first."
    other_node.remove_weights(name)
    assert node.find(Toy()) is None
    with_weights(node, "second")
    assert (other_node.local(Toy()) / "model.safetensors").read_text() == "second"
    assert len([key for key in objects_of(bucket, Toy()) if key.endswith("notes.txt")]) == 1, "the first's are gone"


def test_weights_of_a_stage_that_another_machine_produces_stay(
    node: BucketStageStore, bucket: ObjectStore, tmp_path: Path
) -> None:
    name = with_weights(node, "weights")
    with mock.patch.object(leases, "_boot", return_value="another machine"):
        claim = BucketStageStore(tmp_path / "producer", bucket, lease_s=1.0).try_claim(Toy())
    assert claim is not None
    with claim:
        assert BucketStageStore(tmp_path / "cleaner", bucket, lease_s=1.0).remove_weights(name) == 0
    assert node.find_intact(Toy()) is not None


def test_what_a_killed_producer_put_is_deleted_by_the_one_that_finishes(
    node: BucketStageStore, other_node: BucketStageStore, bucket: ObjectStore
) -> None:
    workspace = node.workspace(Toy())
    (workspace / "notes.txt").write_text("notes")
    with mock.patch.object(bucket, "put_new", side_effect=KeyboardInterrupt), pytest.raises(KeyboardInterrupt):
        node.commit(Toy(), workspace, {}, {})
    assert len(objects_of(bucket, Toy())) == 1
    commit(other_node, Toy())
    assert len(objects_of(bucket, Toy())) == 3
    assert other_node.verify(Toy()) == []


def test_a_producer_that_stalls_after_its_manifest_leaves_its_successors_files(
    node: BucketStageStore, other_node: BucketStageStore, bucket: ObjectStore
) -> None:
    """Between its manifest and its clean-up the stage lost its weights and was trained again."""
    workspace = node.workspace(Toy())
    (workspace / "model.safetensors").write_text("of the one that stalls")
    put_new = bucket.put_new

    def stalling(key: str, content: bytes) -> str | None:
        tag = put_new(key, content)
        if key.endswith(MANIFEST) and tag is not None:
            other_node.remove_weights(key.split("/")[1])
            assert other_node.find(Toy()) is None
            again = other_node.workspace(Toy())
            (again / "model.safetensors").write_text("of its successor")
            other_node.commit(Toy(), again, {}, {})
        return tag

    with mock.patch.object(bucket, "put_new", side_effect=stalling):
        node.commit(Toy(), workspace, {}, {})
    assert other_node.verify(Toy()) == []
    assert (
        BucketStageStore(other_node.root.parent / "third", bucket).local(Toy()) / "model.safetensors"
    ).read_text() == ("of its successor")


def test_a_producer_whose_successors_weights_were_removed_claims_again(
    node: BucketStageStore, other_node: BucketStageStore
) -> None:
    woken, again = node.workspace(Toy()), other_node.workspace(Toy())
    for workspace in (woken, again):
        (workspace / "model.safetensors").write_text("weights")
    finished = other_node.commit(Toy(), again, {}, {})
    other_node.remove_weights(finished.folder.name)
    with pytest.raises(ClaimLost, match="weights removed, by another process"):
        node.commit(Toy(), woken, {}, {})


def test_an_object_that_marks_a_folder_is_no_stage(node: BucketStageStore, bucket: ObjectStore) -> None:
    finished = commit(node, Toy())
    bucket.put("stages/", b"")
    bucket.put(f"stages/{finished.folder.name}/", b"")
    assert node.remove_weights(finished.folder.name) == 0
    assert node.verify(Toy()) == []


def test_a_stage_that_was_copied_from_a_folder_is_found(
    tmp_path: Path, node: BucketStageStore, bucket: ObjectStore
) -> None:
    commit(StageStore(tmp_path / "disk"), Toy())
    for path in (tmp_path / "disk" / "stages").rglob("*"):
        if path.is_file():
            bucket.upload(path, path.relative_to(tmp_path / "disk").as_posix())
    assert node.find_intact(Toy()) is not None
    assert (node.local(Toy()) / "deep" / "model.bin").read_text() == "weights"


def test_the_cache_is_bounded_and_keeps_what_is_in_use(bucket: ObjectStore, tmp_path: Path) -> None:
    writer = BucketStageStore(tmp_path / "writer", bucket)
    for number in range(4):
        commit(writer, Toy(number), "w" * 100_000)
    size = sum(path.stat().st_size for path in writer.folder(Toy()).rglob("*"))
    first = BucketStageStore(tmp_path / "node", bucket, cache_bytes=2 * size)
    used = first.local(Toy(0))
    second = BucketStageStore(tmp_path / "node", bucket, cache_bytes=2 * size)
    folders = [second.folder(Toy(number)) for number in range(4)]
    BucketStageStore(tmp_path / "node", bucket, cache_bytes=2 * size).local(Toy(1))
    BucketStageStore(tmp_path / "node", bucket, cache_bytes=2 * size).local(Toy(2))
    assert [folder.is_dir() for folder in folders] == [True, False, True, False], "the first is in use"
    del first
    BucketStageStore(tmp_path / "node", bucket, cache_bytes=2 * size).local(Toy(3))
    assert [folder.is_dir() for folder in folders] == [False, False, True, True], "the first was used least recently"
    assert not used.exists()


def test_failures_are_seen_by_every_node(node: BucketStageStore, other_node: BucketStageStore) -> None:
    node.record_failure(Toy(), {"step": 3, "loss": "nan"})
    failure = other_node.failure(Toy())
    assert failure is not None
    assert failure["step"] == 3
    assert other_node.failure(Toy(1)) is None


def test_the_lease_of_a_node_that_is_gone_is_taken_over(
    node: BucketStageStore, bucket: ObjectStore, tmp_path: Path
) -> None:
    with mock.patch.object(leases, "_boot", return_value="another machine"):
        claim = BucketStageStore(tmp_path / "gone", bucket, lease_s=10**6).try_claim(Toy())
    assert claim is not None
    successor = BucketStageStore(tmp_path / "node", bucket, lease_s=0.0)
    assert successor.try_claim(Toy()) is None
    taken = successor.try_claim(Toy())
    assert taken is not None
    with taken:
        pass


def test_an_output_folder_knows_its_bucket(
    object_server: ObjectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(WORK_VARIABLE, str(tmp_path))
    url = object_server.new_url()
    output = work_folder(url)
    folder = commit(open_store(output), Toy()).folder
    shutil.rmtree(tmp_path)
    assert open_store(output).local(Toy()) == folder
    assert object_store(f"s3://{BUCKET}").names(url.rpartition("/")[2] + "/")
    assert type(open_store(tmp_path)) is StageStore
    assert client.bucket_of(tmp_path) is None
