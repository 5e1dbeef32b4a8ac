"""Where DeepSpeed's operators are compiled: each environment has a folder, and processes that were killed hold nobody up."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import deepspeed
import pytest
import torch

from trainables.training import operators
from trainables.training.operators import FOLDER_VARIABLE, building, load_operator, own_folder, wait_for_lock

OPERATOR = "deepspeed_shm_comm"


def test_environments_do_not_share_a_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folders = {own_folder()}
    assert own_folder() in folders
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    folders.add(own_folder())
    monkeypatch.setattr(torch, "__version__", "2.99.0")
    folders.add(own_folder())
    assert len(folders) == 3


class _Builder:
    """Of an operator that is built at once; it remembers where."""

    NAME = OPERATOR

    def __init__(self) -> None:
        self.built_in = ""

    def load(self) -> None:
        self.built_in = os.environ[FOLDER_VARIABLE]


@pytest.mark.parametrize("given", [False, True])
def test_an_operator_is_compiled_in_the_users_folder_or_in_its_own(
    given: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert deepspeed.ops.__compatible_ops__[OPERATOR]  # asks every builder, once
    builder, asked = _Builder(), dict[Path, bool]()
    real = operators.building

    def spied(folder: Path, *, owned: bool) -> object:
        asked[folder] = owned
        return real(tmp_path / "operator", owned=owned)

    monkeypatch.setattr(operators, "building", spied)
    monkeypatch.setattr(deepspeed.get_accelerator(), "create_op_builder", lambda name: builder)
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    if not given:
        monkeypatch.delenv(FOLDER_VARIABLE)
    load_operator("ShareMemCommBuilder")
    expected = tmp_path if given else own_folder()
    assert builder.built_in == str(expected)
    assert asked == {expected / OPERATOR: not given}


def test_an_operator_that_deepspeed_lacks_is_not_loaded() -> None:
    load_operator("NoSuchBuilder")


def test_one_process_builds_at_a_time(tmp_path: Path) -> None:
    with building(tmp_path, owned=True), (tmp_path / ".building").open("a") as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with (tmp_path / ".building").open("a") as other:
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_killed_builder_holds_nobody_up(tmp_path: Path) -> None:
    """PyTorch's lock is still there, and ours is not."""
    script = f"""
import pathlib, signal, os
from trainables.training.operators import building
with building(pathlib.Path({str(tmp_path)!r}), owned=True):
    pathlib.Path({str(tmp_path / "lock")!r}).touch()
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", script]).returncode == -9
    assert (tmp_path / "lock").exists()
    with building(tmp_path, owned=True):
        assert not (tmp_path / "lock").exists()


def test_the_compiler_of_a_killed_builder_is_waited_for(tmp_path: Path) -> None:
    (tmp_path / "lock").touch()
    compiler = subprocess.Popen(["sleep", "1"], cwd=tmp_path)
    try:
        with building(tmp_path, owned=True):
            assert compiler.poll() is not None
    finally:
        compiler.kill()
        compiler.wait()


def test_in_a_shared_folder_the_lock_of_another_program_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[Path] = []
    monkeypatch.setattr(operators, "wait_for_lock", waited.append)
    (tmp_path / "lock").touch()
    with building(tmp_path, owned=False):
        assert waited == [tmp_path / "lock"]
        assert (tmp_path / "lock").exists()


def test_without_file_locks_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise OSError("no locks available")

    waited: list[Path] = []
    monkeypatch.setattr(operators, "wait_for_lock", waited.append)
    monkeypatch.setattr(fcntl, "flock", refused)
    with building(tmp_path, owned=True):
        assert waited == [tmp_path / "lock"]


# --- the lock of PyTorch


class _Clocks:
    """A wall clock `ahead_s` ahead of the stamps of files, and a monotonic one; sleeping advances both."""

    def __init__(self, ahead_s: float = 0.0) -> None:
        self.slept_s, self._start_s = 0.0, time.time() + ahead_s
        self.on_sleep: Callable[[float], None] = lambda slept_s: None

    def wait(self, lock: Path) -> bool:
        return wait_for_lock(
            lock,
            stale_s=300.0,
            clock=lambda: self._start_s + self.slept_s,
            monotonic=lambda: 7.0 + self.slept_s,
            sleep=self._sleep,
        )

    def _sleep(self, seconds: float) -> None:
        self.slept_s += seconds
        assert self.slept_s < 1000, "waits without end"
        self.on_sleep(self.slept_s)


def test_it_waits_for_a_lock(tmp_path: Path) -> None:
    lock, clocks = tmp_path / "lock", _Clocks()
    assert not clocks.wait(lock)
    assert clocks.slept_s == 0
    lock.touch()
    clocks.on_sleep = lambda slept_s: lock.unlink() if slept_s > 30 else None
    assert not clocks.wait(lock), "its owner finished"


@pytest.mark.parametrize(("ahead_s", "waits_s"), [(0.0, 300), (1000.0, 0), (-3600.0, 300)])
def test_the_lock_of_a_killed_process_is_removed_whatever_its_clock(
    tmp_path: Path, ahead_s: float, waits_s: float
) -> None:
    lock, clocks = tmp_path / "lock", _Clocks(ahead_s)
    lock.touch()
    assert clocks.wait(lock), "its owner never ended"
    assert clocks.slept_s == pytest.approx(waits_s, abs=1)
    assert not lock.exists()


def test_a_lock_that_changes_owners_is_not_removed(tmp_path: Path) -> None:
    """Each owner keeps it for 200 s, with a clock an hour ahead."""
    lock, clocks = tmp_path / "lock", _Clocks(-3600.0)
    lock.touch()

    def change_owner(slept_s: float) -> None:
        owner = int(slept_s // 200)
        if owner > 3:
            lock.unlink()
        else:
            os.utime(lock, (time.time(), 2_000_000_000 + owner))

    clocks.on_sleep = change_owner
    assert not clocks.wait(lock)
    assert clocks.slept_s == pytest.approx(800, abs=1)
