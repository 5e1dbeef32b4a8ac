"""Who may use an output folder at the same time, and which leftovers a run's start removes."""

from __future__ import annotations

import fcntl
import threading
from pathlib import Path

import pytest

from study.errors import CannotRun
from study.run import output_folder
from study.run.bucket.driving import kept_in_bucket
from study.run.output_folder import LOCK, locked, remove_leftovers, unchanging, undriven
from trainables.store.bucket.client import ObjectStore
from trainables.store.manifests import MANIFEST, write_manifest
from trainables.store.removal import remove_weights

PATIENCE_S = 60.0


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output_folder, "LOOK_S", 0.05)


# --- runs, readers, and copies into the folder


@pytest.mark.parametrize("use", [locked, unchanging])
def test_what_copies_into_the_folder_delays_a_run_and_does_not_refuse_it(use: object, tmp_path: Path) -> None:
    copying, ended, order = threading.Event(), threading.Event(), []

    def copy() -> None:
        with undriven(tmp_path) as free:
            assert free
            copying.set()
            ended.wait(PATIENCE_S)
            order.append("copied")

    with locked(tmp_path):
        pass
    copier = threading.Thread(target=copy)
    copier.start()
    assert copying.wait(PATIENCE_S)
    threading.Timer(0.2, ended.set).start()
    with use(tmp_path):  # type: ignore[operator]
        order.append("used")
    copier.join()
    assert order == ["copied", "used"]


@pytest.mark.usefixtures("impatient")
def test_nothing_is_copied_into_a_folder_in_use(tmp_path: Path) -> None:
    with locked(tmp_path), undriven(tmp_path) as free:
        assert not free
    with undriven(tmp_path) as free:
        assert free
    with unchanging(tmp_path), undriven(tmp_path) as free:
        assert not free


@pytest.mark.usefixtures("impatient")
def test_a_second_run_is_refused_and_a_reader_too(tmp_path: Path) -> None:
    with locked(tmp_path):
        with pytest.raises(CannotRun, match="another run is using it"), locked(tmp_path):
            pass
        with pytest.raises(CannotRun, match="a run is using it"), unchanging(tmp_path):
            pass
    with unchanging(tmp_path), unchanging(tmp_path):
        pass


def test_a_lock_held_for_a_moment_refuses_no_run(tmp_path: Path) -> None:
    look = open(tmp_path / LOCK, "a")  # noqa: SIM115 - closed by another thread
    fcntl.flock(look, fcntl.LOCK_EX)
    threading.Timer(0.2, look.close).start()
    with locked(tmp_path):
        assert look.closed


# --- checkpoints that remain

WHOLE, SHRUNK, BEGUN = "train-whole@1", "train-shrunk@2", "train-begun@3"


def test_checkpoints_of_what_may_still_be_trained_stay(tmp_path: Path) -> None:
    for name in (WHOLE, SHRUNK):
        folder = tmp_path / "stages" / name
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(b"weights")
        manifest = write_manifest(folder, {})
        if name == SHRUNK:  # its weights are wanted again, and a run that was training them was interrupted
            assert remove_weights(folder, manifest)
    for name in (WHOLE, SHRUNK, BEGUN):
        (tmp_path / "checkpoints" / name / "step-5").mkdir(parents=True)
    remove_leftovers(tmp_path)
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {SHRUNK, BEGUN}


def test_checkpoints_of_what_may_still_be_trained_stay_in_a_bucket(
    output: Path, bucket: ObjectStore, tmp_path: Path
) -> None:
    for name in (WHOLE, SHRUNK):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"weights")
        manifest = write_manifest(folder, {})
        if name == SHRUNK:
            remove_weights(folder, manifest)
        bucket.upload(folder / MANIFEST, f"stages/{name}/{MANIFEST}")
    kept = [f"checkpoints/{name}/attempt-1/step-5.pt" for name in (BEGUN, SHRUNK)]
    for name in [*kept, f"checkpoints/{WHOLE}/attempt-1/step-5.pt"]:
        bucket.put(name, b"state")
    with kept_in_bucket(output):
        assert bucket.names("checkpoints/") == kept
