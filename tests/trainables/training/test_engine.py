"""The DeepSpeed engine: its settings, the device it runs on, and the lock of the operator that it compiles."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import deepspeed
import pytest
import torch
from torch import nn

from trainables.hyperparameters import Training
from trainables.training.batching import Share
from trainables.training.engine import (
    CPU,
    Layout,
    engine_settings,
    import_deepspeed,
    join_process_group,
    managed_engine,
    wait_for_build_lock,
)

TRAINING = Training(learning_rate=1e-3, steps=1, batch_size=4, seed=0)
ALONE = Share(0, 1, 4)


def test_no_timer_synchronises_the_device() -> None:
    """DeepSpeed's throughput timer does so twice a micro-batch, and is on by default."""
    with managed_engine(nn.Linear(2, 1), TRAINING, Layout(ALONE)) as engine:
        assert not engine.tput_timer.config.enabled
        assert not engine.wall_clock_breakdown()
        assert engine.device == CPU


@pytest.mark.parametrize(("device", "pinned"), [(CPU, False), (torch.device("cuda", 0), True)])
def test_host_memory_is_pinned_where_a_gpu_copies_from_it(
    monkeypatch: pytest.MonkeyPatch, device: torch.device, pinned: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: not pinned)
    settings = engine_settings(TRAINING, Layout(ALONE, 3, "parameters", device=device))
    for part in ("offload_optimizer", "offload_param"):
        assert settings["zero_optimization"][part] == {"device": "cpu", "pin_memory": pinned}


def test_deepspeed_on_another_device_than_the_stage_is_refused() -> None:
    assert import_deepspeed(CPU) is deepspeed
    with pytest.raises(RuntimeError, match="DeepSpeed runs on cpu in this process, and the training on cuda"):
        import_deepspeed(torch.device("cuda"))


# --- the lock of the compiled operator


class _Clocks:
    """A wall clock `ahead_s` ahead of the stamps of files, and a monotonic one; sleeping advances both."""

    def __init__(self, ahead_s: float = 0.0) -> None:
        self.slept_s, self._start_s = 0.0, time.time() + ahead_s
        self.on_sleep: Callable[[float], None] = lambda slept_s: None

    def wait(self, lock: Path) -> bool:
        return wait_for_build_lock(
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


def test_joining_a_group_prints_nothing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    joined: list[dict[str, object]] = []

    def init(**options: object) -> None:
        joined.append(options)
        print("DeepSpeed deepspeed.ops.comm.deepspeed_shm_comm_op built successfully")

    monkeypatch.setattr(deepspeed, "init_distributed", init)
    monkeypatch.setattr(deepspeed.comm, "is_initialized", lambda: False)
    join_process_group()
    assert len(joined) == 1
    assert capsys.readouterr().out == ""


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
