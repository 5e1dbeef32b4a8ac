"""Checkpoints reach the store while training continues, count once they are whole, and take little of the training's time."""

from __future__ import annotations

import itertools
import logging
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from torch import nn

from trainables.hyperparameters import Diverged
from trainables.store.manifests import read_manifest, wrong_contents
from trainables.training.resuming import shelves, uploads
from trainables.training.resuming.checkpoints import Checkpoints
from trainables.training.resuming.uploads import Staging


class Engine:
    """Writes one file, as DeepSpeed does, which takes some seconds of the clock."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.now, self.seconds = 0.0, seconds
        self.module = nn.Linear(2, 2)
        self.written: list[Path] = []

    def clock(self) -> float:
        return self.now

    def save_checkpoint(self, folder: str, *, tag: str, save_latest: bool) -> None:
        path = Path(folder) / tag / "state.pt"
        path.write_bytes(bytes(range(256)) * 1000)
        self.written.append(path)
        self.now += self.seconds


@pytest.fixture(autouse=True)
def own_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The node's disk; the store is another folder."""
    folder = tmp_path / "local"
    folder.mkdir()
    monkeypatch.setattr("trainables.training.resuming.uploads.tempfile.gettempdir", lambda: str(folder))
    return folder


@pytest.fixture
def copying(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Copies to the store wait until it is set."""
    allowed = threading.Event()
    copied = shelves._copied

    def held(source: Path, target: Path, cancelled: threading.Event) -> str | None:
        while not allowed.wait(0.01):
            if cancelled.is_set():
                return None
        return copied(source, target, cancelled)

    monkeypatch.setattr(shelves, "_copied", held)
    return allowed


def _checkpoints(folder: Path, every_s: float, engine: Engine) -> Checkpoints:
    return Checkpoints(folder, every_s, leads=True, workers=1, zero_stage=0, clock=engine.clock)


def test_training_continues_while_a_checkpoint_is_uploaded(
    tmp_path: Path, own_disk: Path, copying: threading.Event
) -> None:
    engine, folder = Engine(), tmp_path / "store"
    with _checkpoints(folder, 10.0, engine) as checkpoints:
        engine.now = 10.0
        assert checkpoints.due()
        checkpoints.save(engine, [1.0], None)
        assert engine.written[0].is_relative_to(own_disk)
        engine.now = 20.0
        assert not checkpoints.due(), "the next one waits for the upload, and training does not"
        assert read_manifest(folder / "step-00000001") is None, "it is no checkpoint before all of it is in the store"
        copying.set()
        while not checkpoints.due():
            pass
        checkpoints.save(engine, [1.0, 0.5], None)
    manifests = [read_manifest(folder / f"step-0000000{step}") for step in (1, 2)]
    assert manifests[0] is not None
    assert list(manifests[0]["files"]) == ["state.pt"]
    assert wrong_contents(folder / "step-00000001", manifests[0]) == []
    assert not [path for path in own_disk.rglob("*") if path.is_file()], "the node's disk is free again"


def test_a_training_that_ends_with_an_error_finishes_the_upload_and_one_that_succeeds_drops_it(
    tmp_path: Path, copying: threading.Event
) -> None:
    engine = Engine()

    def train(folder: Path, end: Callable[[], None]) -> None:
        with _checkpoints(folder, 10.0, engine) as checkpoints:
            checkpoints.save(engine, [1.0], None)
            end()

    train(tmp_path / "succeeded", lambda: None)
    assert read_manifest(tmp_path / "succeeded" / "step-00000001") is None

    def fail() -> None:
        copying.set()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train(tmp_path / "failed", fail)
    assert read_manifest(tmp_path / "failed" / "step-00000001") is not None


def test_a_store_that_cannot_be_written_ends_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shelves, "_copied", full)

    def train() -> None:
        engine = Engine()
        with _checkpoints(tmp_path / "store", 10.0, engine) as checkpoints:
            checkpoints.save(engine, [1.0], None)
            while True:
                checkpoints.due()

    with pytest.raises(OSError, match="No space left"):
        train()


def test_the_error_of_a_training_is_raised_and_not_that_of_its_upload(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def damaged(*_: object) -> str:
        raise ValueError("a note that is no note")

    monkeypatch.setattr(shelves, "_copied", damaged)

    def train() -> None:
        engine = Engine()
        with _checkpoints(tmp_path / "store", 10.0, engine) as checkpoints:
            checkpoints.save(engine, [1.0], None)
            raise Diverged(1, float("nan"))

    with pytest.raises(Diverged):
        train()
    assert "was not stored: a note that is no note" in caplog.text


def test_expensive_checkpoints_are_saved_less_often_and_that_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    engine = Engine(seconds=60.0)
    with caplog.at_level(logging.WARNING), _checkpoints(tmp_path / "stage", 600.0, engine) as checkpoints:
        saved: list[float] = []
        while engine.now < 5000.0:
            engine.now += 10.0
            if checkpoints.due():
                checkpoints.save(engine, [0.0] * (len(saved) + 1), None)
                saved.append(engine.now)
                for thread in threading.enumerate():
                    if thread.name == uploads.THREAD:
                        thread.join()  # far less than ten seconds of the clock
    assert saved[0] == 660.0
    # Twenty times the minute that workers wait, and that minute.
    assert [later - earlier for earlier, later in itertools.pairwise(saved)] == [1260.0] * 3
    assert [record.getMessage() for record in caplog.records] == [
        "stage: workers waited 60.0 s for a checkpoint: one every 1200 s from now on, not every 600 s"
    ]


def test_cheap_checkpoints_keep_their_interval(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    engine = Engine(seconds=29.0)
    with _checkpoints(tmp_path / "stage", 600.0, engine) as checkpoints:
        checkpoints.save(engine, [1.0], None)
        engine.now += 600.0
        while not checkpoints.due():
            pass
    assert not caplog.records


def test_what_killed_processes_left_on_the_disk_is_removed(tmp_path: Path, own_disk: Path) -> None:
    abandoned, alive = Staging(tmp_path, 0), Staging(tmp_path, 0)
    abandoned._lock.close()  # as when its process ends
    (alive.folder / "state.pt").touch()
    newest = Staging(tmp_path, 0)
    assert not abandoned.folder.exists()
    assert (alive.folder / "state.pt").exists()
    for staging in (alive, newest):
        staging.remove()
    assert [path for path in own_disk.rglob("*") if path.parent != own_disk] == []


@pytest.mark.parametrize("planted", ["link", "open to others", "of another"])
def test_a_folder_that_others_prepared_is_refused(
    tmp_path: Path, own_disk: Path, monkeypatch: pytest.MonkeyPatch, planted: str
) -> None:
    folder = own_disk / f"xstilts-checkpoints-{os.getuid()}"
    if planted == "link":
        (tmp_path / "theirs").mkdir(mode=0o700)
        folder.symlink_to(tmp_path / "theirs")
    else:
        folder.mkdir()
        folder.chmod(0o777 if planted == "open to others" else 0o700)
    if planted == "of another":
        owner = os.getuid() + 1
        folder.rename(folder.with_name(f"xstilts-checkpoints-{owner}"))
        monkeypatch.setattr(os, "getuid", lambda: owner)
    with pytest.raises(PermissionError, match="xstilts-checkpoints"):
        Staging(tmp_path, 0)


def test_a_disk_without_space_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=95.0))
    engine = Engine()  # six weights, of 16 bytes each
    with _checkpoints(tmp_path / "store", 10.0, engine) as checkpoints:
        checkpoints.save(engine, [1.0], None)
        assert engine.written[0].is_relative_to(tmp_path / "store")
        assert checkpoints.folder.is_dir()
