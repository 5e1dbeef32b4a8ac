"""Between two reads of the losses, the host waits for the device in no step."""

from __future__ import annotations

import dataclasses
import threading
from pathlib import Path

import pytest
import torch

from tests.support.networks import PAD, classifier, roberta
from tests.support.synchronisations import synchronisations
from trainables.heads.features import read_features
from trainables.hyperparameters import Diverged, Precision, Training
from trainables.tasks.micro.entailment import MicroEntailment
from trainables.training.batching import BatchOrder, FeatureBatches, Share
from trainables.training.engine import Layout, managed_engine
from trainables.training.loop import train
from trainables.training.resuming import uploads
from trainables.training.resuming.checkpoints import Checkpoints

TRAINING = Training(learning_rate=1e-3, steps=8, batch_size=16, seed=1)
SHARE = Share(0, 1, 8)
CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("one_thread")


def _batches(features: Path) -> FeatureBatches:
    table = read_features(features)
    order = BatchOrder(table.lengths, TRAINING.batch_size, TRAINING.seed)
    return FeatureBatches(table, MicroEntailment(), PAD, order)


def test_the_counter_sees_what_waits() -> None:
    values = torch.arange(4.0)
    with synchronisations() as calls:
        values.sum().item()
        float(values[0])
        bool(values[0] > 1)
        values.cpu()
        values.tolist()
        values[values > 1]
        torch.nonzero(values)
        values * torch.tensor(2.0, device=values.device)
        values * torch.tensor(2.0)  # on the host
        (values * 2).sum().sqrt()
    names = [call.split(" ")[0].split(".")[-1] for call in calls]
    scalar = "_local_scalar_dense"
    assert names == [scalar, scalar, scalar, "cpu", "tolist", "index", "nonzero", "tensor"], calls


@pytest.mark.parametrize(
    ("zero_stage", "precision"),
    [(0, "fp32"), (0, "bf16_mixed"), (1, "bf16_mixed"), (2, "bf16_mixed"), (1, "bf16_master"), (2, "bf16_master")],
)
def test_no_step_waits_for_the_device(features: Path, zero_stage: int, precision: Precision) -> None:
    """Micro-batches, clipping, optimizer and losses of four steps; the first four make the optimizer's state."""
    training = dataclasses.replace(TRAINING, precision=precision)
    seen: list[int] = []

    with (
        managed_engine(classifier(roberta()), training, Layout(SHARE, zero_stage)) as engine,
        synchronisations() as calls,
    ):

        def observe(step: int, loss: float) -> None:
            seen.append(step)
            if step == 3:
                calls.clear()

        train(engine, _batches(features), training, share=SHARE, device=CPU, observe=observe, read_every=4)
    assert seen == list(range(TRAINING.steps))
    # In each padded micro-batch transformers asks whether there is padding at all. Packed ones have no mask.
    others = [call for call in calls if "transformers/masking_utils.py" not in call]
    assert [call.split(" ")[0] for call in others] == ["new_tensor", "tolist"], "\n".join(calls)  # after the last step


def _losses(features: Path, read_every: int | None, **options: object) -> list[float]:
    torch.manual_seed(0)
    observed: list[tuple[int, float]] = []
    with managed_engine(classifier(roberta()), TRAINING, Layout(SHARE)) as engine:
        trained = train(
            engine,
            _batches(features),
            TRAINING,
            share=SHARE,
            device=CPU,
            observe=lambda step, loss: observed.append((step, loss)),
            read_every=read_every,
            **options,  # type: ignore[arg-type]
        )
    assert observed == list(enumerate(trained.losses))
    return trained.losses


def test_losses_read_later_are_the_same(features: Path) -> None:
    """Five steps between reads, of eight: the last three are read at the end."""
    assert _losses(features, 5) == _losses(features, None)


def test_a_checkpoint_is_written_after_a_read_with_the_losses_of_its_steps(features: Path, tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, 0.0, leads=True, workers=1, zero_stage=0)
    losses = _losses(features, 3, checkpoints=checkpoints)
    for thread in threading.enumerate():
        if thread.name == uploads.THREAD:
            thread.join()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000006", "step-00000008"]
    for path in sorted(tmp_path.iterdir()):
        folder = tmp_path.parent / f"only-{path.name}"
        folder.mkdir()
        path.rename(folder / path.name)
        again = Checkpoints(folder, 1e9, leads=True, workers=1, zero_stage=0)
        assert _losses_after(features, again) == losses


def _losses_after(features: Path, checkpoints: Checkpoints) -> list[float]:
    with managed_engine(classifier(roberta()), TRAINING, Layout(SHARE)) as engine:
        trained = train(
            engine, _batches(features), TRAINING, share=SHARE, device=CPU, checkpoints=checkpoints, read_every=3
        )
    assert trained.resumed.step
    return trained.losses


def test_divergence_is_found_at_the_next_read_and_no_later_checkpoint_exists(features: Path, tmp_path: Path) -> None:
    wild = dataclasses.replace(TRAINING, learning_rate=1e30, warmup=0.0)
    observed: list[int] = []
    found = []
    for read_every in (1, 3):
        folder = tmp_path / str(read_every)
        checkpoints = Checkpoints(folder, 0.0, leads=True, workers=1, zero_stage=0)
        torch.manual_seed(0)
        observed.clear()
        with managed_engine(classifier(roberta()), wild, Layout(SHARE)) as engine, pytest.raises(Diverged) as error:
            train(
                *(engine, _batches(features), wild),
                share=SHARE,
                device=CPU,
                observe=lambda step, loss: observed.append(step),
                checkpoints=checkpoints,
                read_every=read_every,
            )
        found.append(error.value.step)
        assert observed == list(range(error.value.step))
        assert all(int(path.name[-8:]) <= error.value.step for path in folder.glob("step-*"))
    assert found[0] == found[1]
