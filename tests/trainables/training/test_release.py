"""A training leaves nothing in its process, however often it trains and however it ends.

Bytes are those of all tensors known to the collector, by storage. A leak grows by an engine with each training. Comparing with
the first training leaves out what is created once a process.
"""

from __future__ import annotations

import gc
import itertools
from pathlib import Path

import deepspeed
import pytest
import torch
from torch import nn
from torch.nn import functional

from tests.support.networks import PAD, classifier, roberta
from trainables.heads.features import FeatureTable
from trainables.hyperparameters import OutOfMemory, Training
from trainables.models.task_model import TaskModel
from trainables.resources import Resources
from trainables.stages.base import Workplace
from trainables.stages.fit import fit
from trainables.store.stage_store import StageStore
from trainables.tasks.micro.entailment import MicroEntailment
from trainables.training.batching import BatchOrder, FeatureBatches, Share

pytestmark = pytest.mark.usefixtures("one_thread")

TRAINING = Training(learning_rate=1e-2, steps=2, batch_size=16, seed=1)


def _fit(features: FeatureTable, zero_stage: int, *, passes: int | None = None) -> TaskModel:
    """The model, which a stage still references when it writes the state; memory runs out after `passes` forward passes."""
    model, done = classifier(roberta()), itertools.count()

    def fill(layer: nn.Module, given: object) -> None:
        if next(done) == passes:
            raise torch.OutOfMemoryError("the device is full")

    model.encoder.encoder.layer[0].output.register_forward_pre_hook(fill)
    batches = FeatureBatches(features, MicroEntailment(), PAD, BatchOrder(features.lengths, 16, 1))
    work = Workplace(StageStore(Path("/nowhere")), Share(0, 1, 16), Resources(zero_stage=zero_stage))
    state, _ = fit(model, batches, TRAINING, work, "tuned")
    assert all(value.numel() for value in state.values())
    return model


def _live() -> tuple[int, int]:
    """The number of engines and the bytes of tensors once collections find nothing: a finaliser can leave work for the next."""
    while gc.collect():
        pass
    return sum(isinstance(item, deepspeed.DeepSpeedEngine) for item in gc.get_objects()), _tensor_bytes()


def _tensor_bytes() -> int:
    tensors = [item for item in gc.get_objects() if type(item) in (torch.Tensor, nn.Parameter)]
    storages = [tensor.untyped_storage() for tensor in tensors]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
def test_a_second_training_leaves_no_more_than_the_first(feature_table: FeatureTable, zero_stage: int) -> None:
    before, _ = _live()  # from other tests
    _fit(feature_table, zero_stage)
    engines, held = _live()
    assert engines == before
    _fit(feature_table, zero_stage)
    engines_after, held_after = _live()
    assert engines_after == engines
    assert held_after <= held  # what earlier tests left can go meanwhile


@pytest.mark.parametrize("zero_stage", [0, 2, 3])
def test_weights_moments_and_buckets_are_freed_while_the_stage_has_its_model(
    feature_table: FeatureTable, zero_stage: int
) -> None:
    """They are freed without a collection and while the model is still referenced."""
    _fit(feature_table, zero_stage)
    _, held = _live()
    gc.disable()
    try:
        model = _fit(feature_table, zero_stage)
        left = _tensor_bytes() - held
    finally:
        gc.enable()
    assert left < sum(parameter.numel() for parameter in roberta().parameters()), "a byte a parameter or more"
    assert next(model.parameters()).numel() == 0


def test_a_training_under_zero3_does_not_affect_later_ones(feature_table: FeatureTable) -> None:
    """DeepSpeed's linear function rounds differently from PyTorch's: scores depended on earlier trainings of the process."""
    before = functional.linear
    _fit(feature_table, 3)
    assert functional.linear is before


@pytest.mark.parametrize("zero_stage", [0, 2, 3])
def test_a_training_that_runs_out_of_memory_leaves_nothing_either(feature_table: FeatureTable, zero_stage: int) -> None:
    """In the encoder in the second step, when activations, gradients and moments exist."""
    _fit(feature_table, zero_stage)
    left = _live()
    with pytest.raises(OutOfMemory):
        _fit(feature_table, zero_stage, passes=1)
    assert _live() == left
