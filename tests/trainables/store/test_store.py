"""The stage store: which stages count as finished, and that one process at a time produces a stage."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from trainables.store.kept import sealed
from trainables.store.locks import lock_problem, one_node_problem
from trainables.store.manifests import MANIFEST, read_manifest
from trainables.store.stage_store import Damaged, Finished, StageStore


@dataclass(frozen=True)
class Toy:
    """An identity with a label."""

    number: int = 0

    @property
    def label(self) -> str:
        return "toy"


_HOLDER = """
import sys
from pathlib import Path
from tests.trainables.store.test_store import Toy
from trainables.store.stage_store import StageStore

claim = StageStore(Path(sys.argv[1])).try_claim(Toy())
print("held" if claim else "refused", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def store(tmp_path: Path) -> StageStore:
    return StageStore(tmp_path)


def commit(store: StageStore, stage: Toy, content: str = "weights") -> Finished:
    workspace = store.workspace(stage)
    (workspace / "deep").mkdir()
    (workspace / "deep" / "model.bin").write_text(content)
    (workspace / "notes.txt").write_text("notes")
    return store.commit(stage, workspace, {"score": 1.5}, {"seconds": 2})


def test_commit_and_find(store: StageStore) -> None:
    assert store.find(Toy()) is None
    committed = commit(store, Toy())
    found = store.find(Toy())
    assert found == committed
    assert found is not None
    assert found.folder == store.folder(Toy())
    assert found.metrics == {"score": 1.5}
    assert set(found.manifest["files"]) == {"deep/model.bin", "notes.txt"}
    assert (found.folder / "deep" / "model.bin").read_text() == "weights"
    assert store.find(Toy(1)) is None
    assert store.verify(Toy()) == []


def test_a_workspace_is_not_a_stage(store: StageStore) -> None:
    workspace = store.workspace(Toy())
    (workspace / "model.bin").write_text("half")
    assert store.find(Toy()) is None
    assert list(store.workspace(Toy()).iterdir()) == []


def remove_manifest(folder: Path) -> None:
    (folder / MANIFEST).unlink()


def truncate_manifest(folder: Path) -> None:
    text = (folder / MANIFEST).read_text()
    (folder / MANIFEST).write_text(text[: len(text) // 2])


def empty_manifest(folder: Path) -> None:
    (folder / MANIFEST).write_text("")


def list_for_manifest(folder: Path) -> None:
    (folder / MANIFEST).write_text("[]")


def manifest_of_another(folder: Path) -> None:
    manifest = read_manifest(folder) or {}
    manifest["identity"]["number"] = 1
    (folder / MANIFEST).write_text(json.dumps(sealed(manifest)))


def manifest_of_another_format(folder: Path) -> None:
    manifest = read_manifest(folder) or {}
    (folder / MANIFEST).write_text(json.dumps(sealed({**manifest, "format": manifest["format"] + 1})))


def truncate_file(folder: Path) -> None:
    (folder / "deep" / "model.bin").write_text("weigh")


def remove_file(folder: Path) -> None:
    (folder / "deep" / "model.bin").unlink()


@pytest.mark.parametrize(
    "damage",
    [
        remove_manifest,
        truncate_manifest,
        empty_manifest,
        list_for_manifest,
        manifest_of_another,
        manifest_of_another_format,
        truncate_file,
        remove_file,
    ],
)
def test_a_damaged_stage_is_not_finished_and_can_be_produced_again(
    store: StageStore, damage: Callable[[Path], None]
) -> None:
    damage(commit(store, Toy()).folder)
    assert store.find(Toy()) is None
    assert store.verify(Toy())
    commit(store, Toy(), "new weights")
    found = store.find(Toy())
    assert found is not None
    assert (found.folder / "deep" / "model.bin").read_text() == "new weights"
    assert store.verify(Toy()) == []


def test_verify_notices_changed_bytes_of_the_same_size(store: StageStore) -> None:
    folder = commit(store, Toy()).folder
    (folder / "deep" / "model.bin").write_text("weighty")
    assert store.find(Toy()) is not None
    assert ["deep/model.bin" in line for line in store.verify(Toy())] == [True]


def zeros_for_file(folder: Path) -> None:
    path = folder / "deep" / "model.bin"
    path.write_bytes(bytes(path.stat().st_size))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (remove_manifest, "manifest.json: missing or unreadable"),
        (truncate_manifest, "manifest.json: missing or unreadable"),
        (manifest_of_another, "manifest.json: of another stage"),
        (manifest_of_another_format, "manifest.json: of format 2, 1 expected"),
        (truncate_file, "deep/model.bin: 5 bytes, 7 expected"),
        (remove_file, "deep/model.bin: missing"),
        (zeros_for_file, "deep/model.bin: sha256 differs from the manifest's"),
    ],
)
def test_damage_differs_from_a_missing_stage(tmp_path: Path, damage: Callable[[Path], None], reason: str) -> None:
    commit(StageStore(tmp_path / "first"), Toy())
    store = StageStore(Path(shutil.copytree(tmp_path / "first", tmp_path / "second")))  # not verified by this process
    assert store.find_intact(Toy(1)) is None
    damage(store.folder(Toy()))
    with pytest.raises(Damaged, match=re.escape(f"stage {store.folder(Toy()).name} is damaged ({reason})")):
        store.find_intact(Toy())


def test_files_reach_the_disk_before_the_manifest_that_lists_them(
    store: StageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The order of flushes to disk and renames."""
    done: list[str] = []
    sync, replace = os.fsync, os.replace

    def synced(descriptor: int) -> None:
        sync(descriptor)
        done.append(f"{Path(os.readlink(f'/proc/self/fd/{descriptor}')).name} synced")

    def renamed(source: Path, target: Path) -> None:
        replace(source, target)
        done.append(f"{target.name} renamed")

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", renamed)
    committed = commit(store, Toy())
    files, folders = {"model.bin synced", "notes.txt synced"}, done[2:4]
    assert set(done[:2]) == files
    assert folders[0] == "deep synced"
    assert folders[1].startswith(".unfinished-"), "the workspace"
    assert done[4].startswith(f".{MANIFEST}."), "the manifest's temporary file"
    assert done[4].endswith(" synced")
    assert done[5:] == [
        f"{MANIFEST} renamed",
        folders[1],
        f"{committed.folder.name} renamed",
        "stages synced",
    ]


def test_a_failed_commit_leaves_nothing(store: StageStore) -> None:
    workspace = store.workspace(Toy())
    with pytest.raises(ValueError, match="JSON"):
        store.commit(Toy(), workspace, {"loss": float("nan")}, {})
    assert store.find(Toy()) is None
    assert not store.folder(Toy()).exists()


@pytest.fixture
def holder(store: StageStore) -> Iterator[subprocess.Popen[str]]:
    """Another process, which holds the claim on `Toy()`."""
    process = start_holder(store)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def start_holder(store: StageStore) -> subprocess.Popen[str]:
    root = Path(__file__).parents[3]
    return subprocess.Popen(
        [sys.executable, "-c", _HOLDER, str(store.root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
    )


def test_a_claim_excludes_other_processes_until_its_holder_dies(
    store: StageStore, holder: subprocess.Popen[str]
) -> None:
    assert store.try_claim(Toy()) is None
    other = store.try_claim(Toy(1))  # another stage is free
    assert other is not None
    with other:
        pass
    holder.send_signal(signal.SIGKILL)
    holder.wait(timeout=120)
    claim = store.try_claim(Toy())
    assert claim is not None
    with claim:
        assert store.try_claim(Toy()) is None
        second = start_holder(store)
        answer, _ = second.communicate("", timeout=240)
        assert answer == "refused\n"
    reclaimed = store.try_claim(Toy())
    assert reclaimed is not None
    reclaimed.__exit__(None, None, None)


def test_a_file_system_without_locks_is_detected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert lock_problem(tmp_path) is None
    assert not list(tmp_path.iterdir())

    def none_here(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", lambda *_: None)  # some mounts of object stores grant every lock
    assert lock_problem(tmp_path) == "its file system grants one lock to two holders"
    monkeypatch.setattr("fcntl.flock", none_here)
    assert lock_problem(tmp_path) == "its file system has no file locks (No locks available)"


def test_mounts_whose_locks_may_work_on_one_node_only(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(
        "overlay / overlay rw 0 0\n"
        "server:/a /shared nfs4 rw,vers=4.2,local_lock=none 0 0\n"
        "server:/b /shared/old nfs rw,vers=3,nolock,local_lock=all 0 0\n"
        "bucket /mnt/my\\040bucket fuse.gcsfuse rw,user_id=0 0 0\n"
    )
    assert one_node_problem(Path("/home/me"), mounts) is None
    assert one_node_problem(Path("/shared/out"), mounts) is None
    assert (
        one_node_problem(Path("/shared/old/out"), mounts) == "/shared/old is an NFS mount with local_lock=all, nolock"
    )
    assert "fuse.gcsfuse mount" in str(one_node_problem(Path("/mnt/my bucket/out"), mounts))
    assert one_node_problem(tmp_path, tmp_path / "absent") is None
