"""The DeepSpeed engine: its settings, and the device it runs on."""

from __future__ import annotations

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
