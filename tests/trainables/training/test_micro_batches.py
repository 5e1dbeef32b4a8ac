"""A micro-batch that does not fit is halved in its stage, and the limit is used for similar stages and no others."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.support import recipes
from trainables.hyperparameters import OutOfMemory, Training
from trainables.launch.inline import run_inline
from trainables.launch.job import Job
from trainables.models.task_model import TaskModel
from trainables.resources import Resources
from trainables.stages.base import Stage, Workplace
from trainables.stages.finetune import FineTune
from trainables.stages.pretrain import Pretrain
from trainables.store.stage_store import StageStore
from trainables.training.micro_batches import known_limits, record_limit

STUDY = recipes.tiny()
PRETRAINED = STUDY.encoder_stage(STUDY.sizes[0])
TRIED: list[tuple[str, int]] = []


@dataclasses.dataclass(frozen=True)
class Limited(Stage):
    """A stage whose device has memory for `limit` entries of a batch."""

    name: str
    limit: int
    seed: int = 0

    @property
    def label(self) -> str:
        return self.name

    @property
    def parents(self) -> tuple[Stage, ...]:
        return ()

    def produce(self, work: Workplace, folder: Path) -> Mapping[str, Any]:
        TRIED.append((self.name, work.share.micro_batch))
        if work.share.micro_batch > self.limit:
            raise OutOfMemory(0, work.share.micro_batch, "the device is full")
        return {}


@pytest.fixture(autouse=True)
def tried() -> list[tuple[str, int]]:
    """The stages with the micro-batches they were tried with, in order."""
    TRIED.clear()
    return TRIED


def _run(output: Path, *stages: Stage, **resources: Any) -> None:
    job = Job(str(output), Resources(**{"micro_batch": 16, **resources}), stages=stages, size="a")
    run_inline(job, report=lambda metrics: None, progress=lambda *told: None)


def test_only_the_stage_that_did_not_fit_is_halved(
    tmp_path: Path, tried: list[tuple[str, int]], caplog: pytest.LogCaptureFixture
) -> None:
    _run(tmp_path, Limited("pretrain", 2), Limited("tune", 16), Limited("choices", 8))
    assert tried == [("pretrain", size) for size in (16, 8, 4, 2)] + [("tune", 16), ("choices", 16), ("choices", 8)]
    tried.clear()
    caplog.clear()
    _run(tmp_path, Limited("tune", 16, seed=1), Limited("choices", 8, seed=1))
    assert tried == [("tune", 16), ("choices", 8)]
    assert "choices: micro-batches of 8, as the usual 16 did not fit before" in caplog.text
    assert "tune" not in caplog.text


@pytest.mark.parametrize(
    "other",
    [
        {"accelerator_type": "H100"},
        {"zero_stage": 2},
        {"zero_stage": 2, "offload": "optimizer"},
        {"activation_checkpointing": True},
    ],
)
def test_a_limit_does_not_apply_to_other_resources(
    tmp_path: Path, tried: list[tuple[str, int]], other: dict[str, Any]
) -> None:
    _run(tmp_path, Limited("tune", 4), accelerator_type="T4")
    tried.clear()
    _run(tmp_path, Limited("tune", 16, seed=1), **{"accelerator_type": "T4", **other})
    irrelevant = {"checkpoint_every_s": 1.0, "memory_gb": 4.0, "one_node": True}
    _run(tmp_path, Limited("tune", 4, seed=2), accelerator_type="T4", **irrelevant)
    assert tried == [("tune", 16), ("tune", 4)]


def test_a_limit_shrinks_tokens_with_rows(tmp_path: Path) -> None:
    stage = Limited("tune", 4)
    _run(tmp_path, stage, micro_batch_tokens=4096)
    finished = StageStore(tmp_path).find(stage)
    assert finished is not None
    context = finished.manifest["context"]
    assert (context["micro_batch"], context["micro_batch_tokens"]) == (4, 1024)


def test_a_limit_recorded_before_there_were_tokens_still_holds(tmp_path: Path) -> None:
    record_limit(tmp_path, Resources(), "tune", micro_batch=3, because="full")
    (path,) = (tmp_path / "micro_batches").iterdir()
    assert "micro_batch_tokens" not in json.loads(path.read_text())["resources"]
    assert known_limits(tmp_path, Resources()) == {"tune": 3}
    assert known_limits(tmp_path, Resources(micro_batch_tokens=100)) == {}


def test_a_smaller_micro_batch_of_the_recipe_is_kept(tmp_path: Path, tried: list[tuple[str, int]]) -> None:
    _run(tmp_path, Limited("tune", 8))
    tried.clear()
    _run(tmp_path, Limited("tune", 8, seed=1), micro_batch=4)
    assert tried == [("tune", 4)]


def test_a_limit_is_kept_though_the_trial_fails_later(tmp_path: Path) -> None:
    with pytest.raises(OutOfMemory):
        _run(tmp_path, Limited("tune", 8), Limited("never", 0))
    assert known_limits(tmp_path, Resources()) == {"tune": 8, "never": 1}


def test_files_with_other_content_are_skipped(tmp_path: Path, tried: list[tuple[str, int]]) -> None:
    folder = tmp_path / "micro_batches"
    folder.mkdir()
    (folder / "a.json").write_text(json.dumps({"micro_batch": 2, "because": "one number for a whole size"}))
    (folder / "b.json").write_text("[1")
    (folder / "c.json").write_text("[1]")
    _run(tmp_path, Limited("tune", 16))
    assert tried == [("tune", 16)]
    record_limit(tmp_path, Resources(), "tune", micro_batch=3, because="full")
    assert known_limits(tmp_path, Resources()) == {"tune": 3}


def test_similar_stages_share_a_limit() -> None:
    """Length, precision and pairs of a group change the memory of a stage; learning rate and seed do not."""
    assert isinstance(PRETRAINED, Pretrain)
    tuned = FineTune(PRETRAINED, STUDY.targets[0], STUDY.tuning)
    for stage in (tuned, PRETRAINED):
        same = dataclasses.replace(stage.training, learning_rate=1e-5, seed=7, steps=9, batch_size=4)
        longer = dataclasses.replace(stage.training, max_length=384)
        halved = dataclasses.replace(stage.training, precision="bf16_mixed")
        assert dataclasses.replace(stage, training=same).memory_key == stage.memory_key
        assert dataclasses.replace(stage, training=longer).memory_key != stage.memory_key
        assert dataclasses.replace(stage, training=halved).memory_key != stage.memory_key
    assert dataclasses.replace(PRETRAINED, group_pairs=16).memory_key != PRETRAINED.memory_key
    assert dataclasses.replace(tuned, task=STUDY.targets[1]).memory_key != tuned.memory_key


# --- where memory really runs out


def _small_device(monkeypatch: pytest.MonkeyPatch, max_rows: int) -> list[int]:
    """Limit the rows of a forward pass; returns the rows of every pass that succeeded."""
    passes: list[int] = []
    forward = TaskModel.forward

    def limited(self: TaskModel, input_ids: Tensor, attention_mask: Tensor, **targets: Tensor) -> Tensor:
        if len(input_ids) > max_rows:
            raise torch.OutOfMemoryError(f"{len(input_ids)} rows")
        passes.append(len(input_ids))
        return forward(self, input_ids, attention_mask, **targets)

    monkeypatch.setattr(TaskModel, "forward", limited)
    return passes


def _tuned(seed: int, **changes: Any) -> FineTune:
    """A target training of 12 steps with batches of 16."""
    training = Training(learning_rate=1e-2, steps=12, batch_size=16, seed=seed, **changes)
    return FineTune(PRETRAINED, STUDY.targets[0].for_training(), training)


@pytest.mark.usefixtures("one_thread")
def test_out_of_memory_halves_the_micro_batch_and_keeps_the_batch(
    base: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stage, store = _tuned(seed=5), StageStore(base)
    with monkeypatch.context() as patched:
        passes = _small_device(patched, 5)
        _run(base, stage, micro_batch=64)
        assert set(passes) == {4}
        assert len(passes) == stage.training.steps * stage.training.batch_size // 4
        assert "micro-batch of 16" in caplog.text
        assert "micro-batch of 8" in caplog.text
        caplog.clear()
        # Another trial of the size starts with the recorded limit and logs it.
        _run(base, _tuned(seed=6), micro_batch=64)
        assert "out of memory" not in caplog.text
        assert "micro-batches of 4, as the usual 64 did not fit before" in caplog.text
    halved = store.find(stage)
    assert halved is not None
    shutil.rmtree(base / "micro_batches")
    whole = _tuned(seed=5, weight_decay=0.011)
    _run(base, whole, micro_batch=64)
    unlimited = store.find(whole)
    assert unlimited is not None
    assert halved.metrics["first_loss"] == pytest.approx(unlimited.metrics["first_loss"], rel=1e-4)


@pytest.mark.usefixtures("one_thread")
def test_a_device_without_room_for_one_example_is_an_error(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _small_device(monkeypatch, 0)
    with pytest.raises(OutOfMemory, match="micro-batch of 1:"):
        _run(base, _tuned(seed=7), micro_batch=64)
