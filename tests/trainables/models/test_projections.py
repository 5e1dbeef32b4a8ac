"""Merged queries, keys and values: the same passes, and the same parameters by the same names."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from tests.support.networks import PAD, ROWS, classifier, random_features, small_encoder
from trainables.heads.features import read_features
from trainables.hyperparameters import Training
from trainables.models.encoder import checkpoint_activations
from trainables.models.families import FAMILIES
from trainables.models.projections import PROJECTIONS, merge_in_serving, merge_in_training
from trainables.models.task_model import ENCODER, TaskModel, save_task_model
from trainables.resources import Resources
from trainables.stages.base import Workplace
from trainables.stages.fit import adapt, fit
from trainables.store.stage_store import StageStore
from trainables.tasks.micro.entailment import MicroEntailment
from trainables.training.batching import BatchOrder, FeatureBatches, Share
from trainables.training.trimming import looked_up

pytestmark = pytest.mark.usefixtures("one_thread")


def _model(family: str) -> TaskModel:
    torch.manual_seed(0)
    model = classifier(small_encoder(family, layers=2, dropout=0.0)).train()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter)  # new encoders have none that are not zero
    return model


def _inputs() -> dict[str, Tensor]:
    ids = torch.randint(5, ROWS, (3, 16), generator=torch.Generator().manual_seed(0))
    mask = torch.arange(16)[None] < torch.tensor([16, 9, 4])[:, None]
    return {"input_ids": ids.masked_fill(~mask, PAD), "attention_mask": mask.long()}


def _products(model: TaskModel) -> list[int]:
    """The output widths of the linear layers that a forward pass calls."""
    widths: list[int] = []
    handles = [
        module.register_forward_hook(lambda module, *_: widths.append(module.out_features))
        for module in model.encoder.modules()
        if isinstance(module, nn.Linear)
    ]
    with torch.no_grad():
        model.logits(**_inputs())
    for handle in handles:
        handle.remove()
    return widths


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize("family", PROJECTIONS)
def test_training_has_the_loss_and_gradients_of_separate_projections(
    family: str, checkpointed: bool, precision: str
) -> None:
    results = []
    for merges in (False, True):
        model = _model(family)
        if checkpointed:
            checkpoint_activations(model)
        before = _products(model)
        if merges:
            assert merge_in_training(model.encoder)
            assert len(_products(model)) == len(before) - 3 * 2
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
            loss = model(**_inputs(), labels=torch.tensor([0, 1, 2]))
        loss.backward()
        results.append((loss.detach(), {name: parameter.grad for name, parameter in model.named_parameters()}))
    (loss, gradients), (merged, others) = results
    # bf16 keeps 8 bits: one sum of three gradients is rounded where three sums were.
    tolerance = 1e-5 if precision == "fp32" else 0.05
    torch.testing.assert_close(merged, loss, rtol=tolerance, atol=tolerance)
    assert others.keys() == gradients.keys()
    for name, gradient in gradients.items():
        assert gradient is not None
        scale = max(1.0, float(gradient.abs().max()))
        torch.testing.assert_close(others[name], gradient, rtol=tolerance, atol=tolerance * scale, msg=name)


@pytest.mark.parametrize("family", PROJECTIONS)
def test_a_served_model_has_one_layer_and_the_same_logits(family: str) -> None:
    model = _model(family).eval()
    with torch.no_grad():
        wanted = model.logits(**_inputs())
        before, parameters = _products(model), sum(parameter.numel() for parameter in model.parameters())
        assert merge_in_serving(model.encoder)
        torch.testing.assert_close(model.logits(**_inputs()), wanted, rtol=1e-5, atol=1e-5)
    assert len(_products(model)) == len(before) - 2 * 2
    assert max(_products(model)) == 3 * model.encoder.config.hidden_size
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


@pytest.mark.parametrize("family", [name for name in FAMILIES if name not in PROJECTIONS])
def test_other_families_are_left_as_they_are(family: str) -> None:
    model = _model(family).eval()
    before = dict(vars(next(iter(model.encoder.modules()))))
    assert not merge_in_training(model.encoder)
    assert not merge_in_serving(model.encoder)
    assert vars(next(iter(model.encoder.modules()))).keys() == before.keys()


def test_gpus_merge_and_cpus_and_zero_3_do_not() -> None:
    def merges(resources: Resources, device: str) -> bool:
        model = _model("xlm-roberta")
        adapt(model, resources, torch.device(device))
        return any("forward" in vars(module) for module in model.encoder.modules())

    gpu = {"gpus": 1, "accelerator_type": "H100"}
    assert merges(Resources(**gpu), "cuda")  # type: ignore[arg-type]
    assert merges(Resources(**gpu, zero_stage=2), "cuda")  # type: ignore[arg-type]
    assert not merges(Resources(**gpu, zero_stage=3), "cuda")  # type: ignore[arg-type]
    assert not merges(Resources(), "cpu")


def test_a_stage_writes_the_weights_of_separate_projections(tmp_path: Path) -> None:
    """By DeepSpeed's engine with trimming: the names and, up to rounding, the values of an unmerged training."""
    features = read_features(random_features(tmp_path / "features.arrow"))
    training = Training(learning_rate=1e-2, steps=3, batch_size=16, seed=1)
    written = []
    for merges in (False, True):
        model = _model("xlm-roberta")
        if merges:
            merge_in_training(model.encoder)
        batches = FeatureBatches(features, MicroEntailment(), PAD, BatchOrder(features.lengths, 16, 1))
        lookups = looked_up(model.encoder.get_input_embeddings(), [features], PAD)
        state, _ = fit(
            model, batches, training, Workplace(StageStore(tmp_path), Share(0, 1, 8)), "tuned", lookups=lookups
        )
        save_task_model(model, state, tmp_path / str(merges))
        written.append(load_file(tmp_path / str(merges) / ENCODER / "model.safetensors"))
    separate, merged = written
    assert any(name.endswith("self.query.weight") for name in separate)
    assert merged.keys() == separate.keys()
    for name, value in separate.items():
        torch.testing.assert_close(merged[name], value, rtol=0.0, atol=1e-5, msg=name)
