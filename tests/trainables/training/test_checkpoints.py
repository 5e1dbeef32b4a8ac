"""A resumed training equals an uninterrupted one: it continues at its exact step from the newest intact checkpoint."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.support import recipes
from tests.support.networks import PAD, classifier, random_features, roberta
from tests.support.pair import Pair
from trainables.heads.features import read_features
from trainables.hyperparameters import Diverged, EarlyStopping, OutOfMemory, Training
from trainables.launch.inline import run_inline
from trainables.launch.job import Job
from trainables.models.encoder import Shape
from trainables.models.task_model import TaskModel
from trainables.resources import Resources
from trainables.stages.base import Workplace, ensure
from trainables.stages.evaluate import Evaluate
from trainables.stages.finetune import FineTune
from trainables.store.manifests import MANIFEST
from trainables.store.stage_store import StageStore
from trainables.tasks.micro.entailment import MicroEntailment
from trainables.training.batching import BatchOrder, FeatureBatches, Share
from trainables.training.checkpoints import Checkpoints
from trainables.training.early_stopping import EarlyStopper
from trainables.training.engine import Layout, full_state, managed_engine
from trainables.training.loop import train

STEPS, KILLED_AT = 12, 7
TRAINING = Training(learning_rate=1e-2, steps=STEPS, batch_size=16, seed=1)
CPU = torch.device("cpu")
# With several threads sums have another order, and these tests compare bits.
pytestmark = pytest.mark.usefixtures("one_thread")


class Killed(Exception):
    """Interrupts a training."""


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_features(tmp_path_factory.mktemp("features") / "features.arrow")


def _train(
    features: Path,
    folder: Path | None,
    *,
    until: int = STEPS,
    weights: int = 0,
    share: Share = Share(0, 1, 16),  # noqa: B008 - frozen
    zero_stage: int = 0,
    stopper: EarlyStopper | None = None,
    end: Callable[[], None] | None = None,
) -> tuple[list[float], dict[str, Tensor], tuple[str, ...]]:
    """Losses, full state and skipped checkpoints of a network with dropout, interrupted after `until` steps."""

    def observe(step: int, loss: float) -> None:
        if step + 1 == until < STEPS:
            raise Killed if end is None else SystemExit(end())

    table = read_features(features)
    torch.manual_seed(weights)
    kept: AbstractContextManager[Checkpoints | None] = nullcontext()
    if folder is not None:
        kept = Checkpoints(folder, 0.0, leads=share.rank == 0, workers=share.workers, zero_stage=zero_stage)
    order = BatchOrder(table.lengths, TRAINING.batch_size, TRAINING.seed)
    with (
        managed_engine(classifier(roberta(0.1)), TRAINING, Layout(share, zero_stage)) as engine,
        kept as checkpoints,
    ):
        trained = train(
            engine,
            FeatureBatches(table, MicroEntailment(), PAD, order),
            TRAINING,
            share=share,
            device=CPU,
            observe=observe,
            checkpoints=checkpoints,
            stopper=stopper,
        )
        return trained.losses, full_state(engine), trained.resumed.skipped


def _interrupted(features: Path, folder: Path, until: int = KILLED_AT) -> None:
    with pytest.raises(Killed):
        _train(features, folder, until=until)


def _assert_same(trained: tuple[Any, ...], expected: tuple[Any, ...]) -> None:
    assert trained[0] == expected[0]
    assert trained[1].keys() == expected[1].keys()
    for name, value in expected[1].items():
        torch.testing.assert_close(trained[1][name], value, rtol=0, atol=0)


def test_a_resumed_training_is_the_uninterrupted_one(features: Path, tmp_path: Path) -> None:
    """Dropout, data order and optimizer continue; the initial weights of the second process have no effect."""
    whole = _train(features, None)
    _interrupted(features, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000005", "step-00000006"]
    resumed = _train(features, tmp_path, weights=5)
    assert resumed[2] == ()
    _assert_same(resumed, whole)


def _killed(features: Path, folder: Path) -> None:
    torch.set_num_threads(1)
    _train(features, folder, until=KILLED_AT, end=lambda: os.kill(os.getpid(), signal.SIGKILL))


@pytest.mark.slow
def test_a_process_killed_outright_is_resumed(features: Path, tmp_path: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(target=_killed, args=(features, tmp_path))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    _assert_same(_train(features, tmp_path, weights=5), _train(features, None))


def _resumed(rank: int, zero_stage: int, features: Path, folder: Path) -> list[float]:
    """The losses of an interrupted training on one of two workers, compared with an uninterrupted one."""
    share = Share(rank, 2, 8)
    whole = _train(features, None, share=share, zero_stage=zero_stage)
    with pytest.raises(Killed):
        _train(features, folder, until=KILLED_AT, share=share, zero_stage=zero_stage)
    resumed = _train(features, folder, weights=5, share=share, zero_stage=zero_stage)
    _assert_same(resumed, whole)
    return resumed[0]


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
    _interrupted(features, tmp_path)
    reason = damage(tmp_path / "step-00000006")
    steps: list[int] = []
    table = read_features(features)
    order, share = BatchOrder(table.lengths, TRAINING.batch_size, TRAINING.seed), Share(0, 1, 16)
    with (
        managed_engine(classifier(roberta(0.1)), TRAINING, Layout(share)) as engine,
        Checkpoints(tmp_path, 0.0, leads=True, workers=1, zero_stage=0) as checkpoints,
    ):
        trained = train(
            engine,
            FeatureBatches(table, MicroEntailment(), PAD, order),
            TRAINING,
            share=share,
            device=CPU,
            observe=lambda step, loss: steps.append(step),
            checkpoints=checkpoints,
        )
    assert steps == list(range(5, STEPS))
    assert trained.losses == _train(features, None)[0]
    assert len(trained.resumed.skipped) == 1
    assert "step-00000006" in trained.resumed.skipped[0]
    assert reason in trained.resumed.skipped[0]
    assert "step-00000006" in caplog.text


@pytest.mark.slow
def test_checkpoints_of_another_group_are_not_used(features: Path, tmp_path: Path) -> None:
    """Another ZeRO stage cannot read the optimizer's state; the training restarts and reports it."""
    _interrupted(features, tmp_path)
    losses, _, skipped = _train(features, tmp_path, zero_stage=1)
    assert [reason.split(":")[0] for reason in skipped] == ["step-00000006", "step-00000005"]
    assert "now workers 1, ZeRO stage 1" in skipped[0]
    assert losses == pytest.approx(_train(features, None)[0], rel=1e-3)


def test_unusable_checkpoints_do_not_displace_new_ones(features: Path, tmp_path: Path) -> None:
    """The old checkpoints have later steps than the restarted training, which is interrupted and resumed too."""
    _interrupted(features, tmp_path, until=10)
    with pytest.raises(Killed):
        _train(features, tmp_path, until=5, zero_stage=1)
    assert sorted(path.name for path in tmp_path.glob("step-*")) == ["step-00000003", "step-00000004"]
    assert _train(features, tmp_path, weights=5, zero_stage=1)[2] == ()


def _stopper(scores: list[float], patience: int) -> EarlyStopper:
    left = iter(scores)
    return EarlyStopper(EarlyStopping(every=2, patience=patience), lambda engine: next(left), STEPS, leads=True)


@pytest.mark.slow
@pytest.mark.parametrize("max_file_bytes", [4 * 10**9, 100_000])
def test_early_stopping_keeps_the_best_weights_also_over_an_interruption(
    features: Path, tmp_path: Path, max_file_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainables.training.checkpoints.MAX_FILE_BYTES", max_file_bytes)
    best = _train(features, tmp_path / "best", until=STEPS)[0]
    stopper = _stopper([50.0, 70.0, 70.0, 60.0, 90.0], patience=2)
    losses, _, _ = _train(features, None, stopper=stopper)
    assert losses == best[:8]  # evaluations after 2, 4, 6 and 8 steps; the last two did not raise the score
    assert stopper.best_step == 4
    with pytest.raises(Killed):
        _train(features, tmp_path / "stopped", until=7, stopper=_stopper([50.0, 70.0, 70.0], patience=2))
    files = [path.name for path in (tmp_path / "stopped" / "step-00000006").glob("best*")]
    assert (files == ["best.safetensors"]) == (max_file_bytes > 100_000), files
    resumed = _stopper([60.0], patience=2)
    assert _train(features, tmp_path / "stopped", weights=5, stopper=resumed)[0] == best[:8]
    assert resumed.scores == [(2, 50.0), (4, 70.0), (6, 70.0), (8, 60.0)]
    assert resumed.best.keys() == stopper.best.keys()
    for name, value in stopper.best.items():
        torch.testing.assert_close(resumed.best[name], value, rtol=0, atol=0)
    # The same training, stopped at the same step: its last weights are not its best.
    stopped = _train(features, None, stopper=_stopper([1.0, 2.0, 0.0, 0.0], patience=2))
    assert any(not torch.equal(stopped[1][name], value) for name, value in stopper.best.items())


# --- stages

STUDY = recipes.tiny()
PRETRAINED = STUDY.encoder_stage(STUDY.sizes[0])
TARGET = STUDY.targets[0]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that holds the pre-trained encoder."""
    root = tmp_path_factory.mktemp("base")
    ensure(PRETRAINED, Workplace(StageStore(root)))
    return root


def test_a_stage_resumes_from_its_checkpoint_and_removes_it(base: Path) -> None:
    stage = FineTune(PRETRAINED, TARGET.for_training(), dataclasses.replace(TRAINING, seed=3))
    store = StageStore(base)

    def interrupt(name: str, done: int, total: int, loss: float | None) -> None:
        if done == KILLED_AT and name == stage.label:
            raise Killed

    work = Workplace(store, resources=Resources(checkpoint_every_s=0.0), progress=interrupt)
    with pytest.raises(Killed):
        ensure(stage, work)
    assert store.find(stage) is None
    assert store.checkpoints(stage).is_dir()
    assert ensure(stage, dataclasses.replace(work, progress=lambda *told: None)).metrics["resumed_at"] == KILLED_AT - 1
    assert not store.checkpoints(stage).exists()


def test_early_stopping_in_a_stage_leaves_the_model_with_the_best_dev_score(base: Path) -> None:
    stopping = dataclasses.replace(
        TRAINING, seed=4, learning_rate=3e-2, early_stopping=EarlyStopping(every=2, patience=1)
    )
    stage = FineTune(PRETRAINED, TARGET.for_training(), stopping, development=TARGET)
    work = Workplace(StageStore(base))
    metrics = ensure(stage, work).metrics
    scores = dict(metrics["dev_scores"])
    assert metrics["steps_done"] == max(scores)
    assert scores[metrics["best_step"]] == max(scores.values())
    scored = ensure(Evaluate(stage, TARGET), work).metrics["dev"]
    assert scored == pytest.approx(max(scores.values()))


def _stopping(rank: int, folder: Path) -> list[tuple[int, float]]:
    """Wide enough for ZeRO 3 to partition its matrices (from 100,000 elements on)."""
    work = Workplace(StageStore(folder), Share(rank, 2, 8), Resources(zero_stage=3))
    scores: list[tuple[int, float]] = ensure(WIDE, work).metrics["dev_scores"]
    return scores


WIDE = FineTune(
    dataclasses.replace(PRETRAINED, shape=Shape(1, 192), trained=False),  # type: ignore[call-arg]
    TARGET.for_training(),
    dataclasses.replace(TRAINING, early_stopping=EarlyStopping(every=4, patience=3)),
    development=TARGET,
)


def test_early_stopping_under_zero3_scores_what_one_worker_scores(tmp_path: Path, pair: Pair) -> None:
    first, second = pair.run(_stopping, tmp_path / "group")
    assert first == second
    alone = ensure(WIDE, Workplace(StageStore(tmp_path / "alone"))).metrics["dev_scores"]
    assert [done for done, _ in first] == [4, 8, 12]
    assert [score for _, score in first] == pytest.approx([score for _, score in alone], abs=3.0)


def test_early_stopping_needs_a_dev_set() -> None:
    stopping = dataclasses.replace(TRAINING, early_stopping=EarlyStopping(every=2, patience=1))
    with pytest.raises(ValueError, match="go together"):
        FineTune(PRETRAINED, TARGET.for_training(), stopping)


def test_a_diverged_stage_is_not_tried_again(base: Path) -> None:
    wild = FineTune(PRETRAINED, TARGET.for_training(), dataclasses.replace(TRAINING, learning_rate=1e30, warmup=0.0))
    steps: list[int] = []
    work = Workplace(StageStore(base), progress=lambda name, done, total, loss: steps.append(done))
    ensure(wild.features, work)
    with pytest.raises(Diverged) as first:
        ensure(wild, work)
    assert steps
    steps.clear()
    with pytest.raises(Diverged) as second:
        ensure(wild, work)
    assert not steps
    assert second.value.step == first.value.step


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


def _job(base: Path, seed: int) -> Job:
    stage = FineTune(PRETRAINED, TARGET.for_training(), dataclasses.replace(TRAINING, seed=seed))
    return Job(str(base), STUDY.sizes[0].resources, stages=(stage,), size="1x32")


def _run(job: Job) -> None:
    run_inline(job, report=lambda metrics: None, progress=lambda *told: None)


def test_out_of_memory_halves_the_micro_batch_and_keeps_the_batch(
    base: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    job, store = _job(base, seed=5), StageStore(base)
    with monkeypatch.context() as patched:
        passes = _small_device(patched, 5)
        _run(job)
        assert set(passes) == {4}
        assert len(passes) == STEPS * TRAINING.batch_size // 4
        assert "micro-batch of 16" in caplog.text
        assert "micro-batch of 8" in caplog.text
        caplog.clear()
        _run(_job(base, seed=6))  # another trial of the size starts with the recorded limit and logs it
        assert "out of memory" not in caplog.text
        assert "micro-batches of 4, as the usual 64 did not fit before" in caplog.text
    halved = store.find(job.stages[0])
    assert halved is not None
    shutil.rmtree(base / "micro_batches")
    whole = FineTune(PRETRAINED, TARGET.for_training(), dataclasses.replace(TRAINING, seed=5, weight_decay=0.011))
    _run(dataclasses.replace(job, stages=(whole,)))
    unlimited = store.find(whole)
    assert unlimited is not None
    assert halved.metrics["first_loss"] == pytest.approx(unlimited.metrics["first_loss"], rel=1e-4)


def test_a_device_without_room_for_one_example_is_an_error(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _small_device(monkeypatch, 0)
    with pytest.raises(OutOfMemory, match="micro-batch of 1:"):
        _run(_job(base, seed=7))
