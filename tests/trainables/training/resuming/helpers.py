"""Trainings of a small network with dropout, and of stages, that are interrupted and resumed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from tests.support import recipes
from tests.support.killed import Killed
from tests.support.networks import PAD, classifier, roberta
from trainables.heads.features import read_features
from trainables.hyperparameters import Training
from trainables.stages.base import Stage, Workplace, ensure
from trainables.stages.finetune import FineTune
from trainables.tasks.micro.entailment import MicroEntailment
from trainables.training.batching import BatchOrder, FeatureBatches, Share
from trainables.training.early_stopping import EarlyStopper
from trainables.training.engine import Layout, full_state, managed_engine
from trainables.training.loop import train
from trainables.training.resuming.checkpoints import Checkpoints

STEPS, KILLED_AT = 12, 7
TRAINING = Training(learning_rate=1e-2, steps=STEPS, batch_size=16, seed=1)
STUDY = recipes.tiny()
PRETRAINED = STUDY.encoder_stage(STUDY.sizes[0])
TARGET = STUDY.targets[0]


def tuning(**changes: Any) -> FineTune:
    """A target training on the encoder of the tiny study's first size; `changes` are of its `TRAINING`."""
    return FineTune(PRETRAINED, TARGET.for_training(), dataclasses.replace(TRAINING, **changes))


class Outcome(NamedTuple):
    """What a training gave: losses of all steps, full state, skipped checkpoints, and the steps that this process trained."""

    losses: list[float]
    state: Mapping[str, Tensor]
    skipped: tuple[str, ...]
    steps: list[int]


def train_network(
    features: Path,
    folder: Path | None,
    *,
    until: int = STEPS,
    weights: int = 0,
    share: Share = Share(0, 1, 16),  # noqa: B008 - frozen
    zero_stage: int = 0,
    stopper: EarlyStopper | None = None,
    end: Callable[[], None] | None = None,
) -> Outcome:
    """Train a network with dropout whose initial weights have the seed `weights`; interrupt it after `until` steps."""
    steps: list[int] = []

    def observe(step: int, loss: float) -> None:
        steps.append(step)
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
            device=torch.device("cpu"),
            observe=observe,
            checkpoints=checkpoints,
            stopper=stopper,
        )
        return Outcome(trained.losses, full_state(engine), trained.resumed.skipped, steps)


def interrupt_network(features: Path, folder: Path, until: int = KILLED_AT) -> None:
    """Leave the folder with the checkpoints of a training that is killed after `until` steps."""
    with pytest.raises(Killed):
        train_network(features, folder, until=until)


def assert_same(trained: Outcome, expected: Outcome) -> None:
    """The same losses and state, to the last bit."""
    assert trained.losses == expected.losses
    assert trained.state.keys() == expected.state.keys()
    for name, value in expected.state.items():
        torch.testing.assert_close(trained.state[name], value, rtol=0, atol=0)


def interrupt_stage(stage: Stage, work: Workplace) -> None:
    """Train the stage until it is killed after `KILLED_AT` steps."""

    def interrupt(name: str, done: int, total: int, loss: float | None) -> None:
        if done == KILLED_AT and name == stage.label:
            raise Killed

    with pytest.raises(Killed):
        ensure(stage, dataclasses.replace(work, progress=interrupt))
