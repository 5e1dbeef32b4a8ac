"""A resumed training equals an uninterrupted one: it continues at its exact step from the newest intact checkpoint."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.support.killed import Killed
from tests.support.pair import Pair
from tests.trainables.training.resuming.helpers import KILLED_AT, STEPS, assert_same, interrupt_network, train_network
from trainables.store.manifests import MANIFEST
from trainables.training.batching import Share

# With several threads sums have another order, and these tests compare bits.
pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_resumed_training_is_the_uninterrupted_one(features: Path, tmp_path: Path) -> None:
    """Dropout, data order and optimizer continue; the initial weights of the second process have no effect."""
    whole = train_network(features, None)
    interrupt_network(features, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000005", "step-00000006"]
    resumed = train_network(features, tmp_path, weights=5)
    assert resumed.skipped == ()
    assert_same(resumed, whole)


def _killed(features: Path, folder: Path) -> None:
    torch.set_num_threads(1)
    train_network(features, folder, until=KILLED_AT, end=lambda: os.kill(os.getpid(), signal.SIGKILL))


@pytest.mark.slow
def test_a_process_killed_outright_is_resumed(features: Path, tmp_path: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(target=_killed, args=(features, tmp_path))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert_same(train_network(features, tmp_path, weights=5), train_network(features, None))


def _resumed(rank: int, zero_stage: int, features: Path, folder: Path) -> list[float]:
    """The losses of an interrupted training on one of two workers, compared with an uninterrupted one."""
    share = Share(rank, 2, 8)
    whole = train_network(features, None, share=share, zero_stage=zero_stage)
    with pytest.raises(Killed):
        train_network(features, folder, until=KILLED_AT, share=share, zero_stage=zero_stage)
    resumed = train_network(features, folder, weights=5, share=share, zero_stage=zero_stage)
    assert_same(resumed, whole)
    return resumed.losses


@pytest.mark.parametrize("zero_stage", [0, 2, 3])
def test_two_workers_resume_under_zero(zero_stage: int, features: Path, tmp_path: Path, pair: Pair) -> None:
    first, second = pair.run(_resumed, zero_stage, features, tmp_path)
    assert len(first) == STEPS
    assert first == second
    # The upload of the last step's may have been cut short by the end of the training.
    manifest = json.loads(max(tmp_path.glob(f"step-*/{MANIFEST}")).read_text())
    assert manifest["group"]["workers"] == 2
    assert manifest["step"] >= STEPS - 1
    whole = [path.parent for path in tmp_path.glob(f"step-*/{MANIFEST}")]
    assert not [note for folder in whole for note in folder.glob(".files-*")], "the workers' notes stay"


def _largest(folder: Path) -> Path:
    return max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


def _truncate(folder: Path) -> str:
    path = _largest(folder)
    path.write_bytes(path.read_bytes()[:-1])
    return "expected"


def _flip(folder: Path) -> str:
    content = bytearray(_largest(folder).read_bytes())
    content[len(content) // 2] ^= 1
    _largest(folder).write_bytes(content)
    return "sha256 differs"


def _remove(folder: Path) -> str:
    _largest(folder).unlink()
    return ": missing"


def _unfinished(folder: Path) -> str:
    (folder / MANIFEST).unlink()
    return "was not finished"


@pytest.mark.slow
@pytest.mark.parametrize("damage", [_truncate, _flip, _remove, _unfinished])
def test_a_damaged_checkpoint_is_reported_and_its_predecessor_used(
    damage: Callable[[Path], str], features: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    interrupt_network(features, tmp_path)
    reason = damage(tmp_path / "step-00000006")
    trained = train_network(features, tmp_path)
    assert trained.steps == list(range(5, STEPS))
    assert trained.losses == train_network(features, None).losses
    assert len(trained.skipped) == 1
    assert "step-00000006" in trained.skipped[0]
    assert reason in trained.skipped[0]
    assert "step-00000006" in caplog.text


@pytest.mark.slow
def test_checkpoints_of_another_group_are_not_used(features: Path, tmp_path: Path) -> None:
    """Another ZeRO stage cannot read the optimizer's state; the training restarts and reports it."""
    interrupt_network(features, tmp_path)
    trained = train_network(features, tmp_path, zero_stage=1)
    assert [reason.split(":")[0] for reason in trained.skipped] == ["step-00000006", "step-00000005"]
    assert "now workers 1, ZeRO stage 1" in trained.skipped[0]
    assert trained.losses == pytest.approx(train_network(features, None).losses, rel=1e-3)


def test_unusable_checkpoints_do_not_displace_new_ones(features: Path, tmp_path: Path) -> None:
    """The old checkpoints have later steps than the restarted training, which is interrupted and resumed too."""
    interrupt_network(features, tmp_path, until=10)
    with pytest.raises(Killed):
        train_network(features, tmp_path, until=5, zero_stage=1)
    assert sorted(path.name for path in tmp_path.glob("step-*")) == ["step-00000003", "step-00000004"]
    assert train_network(features, tmp_path, weights=5, zero_stage=1).skipped == ()
