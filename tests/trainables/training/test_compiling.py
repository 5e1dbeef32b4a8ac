"""Compiled layers give the same losses and weights as uncompiled ones, up to rounding."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters
from transformers.modeling_layers import GradientCheckpointingLayer

from tests.support.networks import PAD, classifier, random_features, roberta, small_encoder
from trainables.heads.features import read_features
from trainables.hyperparameters import Training
from trainables.models.encoder import compile_layers
from trainables.models.families import FAMILIES
from trainables.models.packing import Numbering, pack
from trainables.models.unpadding import unpad_training
from trainables.resources import Resources
from trainables.stages.base import Workplace
from trainables.stages.fit import fit
from trainables.store.stage_store import StageStore
from trainables.tasks.micro.entailment import MicroEntailment
from trainables.training.batching import BatchOrder, FeatureBatches, Share

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.slow
def test_a_stage_trains_the_same_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two steps of Adam, with sums in another order, each within 2^-24 of its value.

    The graphs are traced and run as they are: generating code for them takes a minute and a half.
    """
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    features = read_features(random_features(tmp_path / "features.arrow"))
    training = Training(learning_rate=1e-2, steps=2, batch_size=16, seed=1)
    results = {}
    for compiled in (False, True):
        torch.manual_seed(0)
        model, losses = classifier(roberta(0.0)), list[float]()
        work = Workplace(
            StageStore(tmp_path),
            Share(0, 1, 16),
            Resources(compile=compiled),
            progress=lambda stage, done, total, loss, losses=losses: losses.append(loss),  # type: ignore[misc]
        )
        batches = FeatureBatches(features, MicroEntailment(), PAD, BatchOrder(features.lengths, 16, 1))
        (layer,) = (module for module in model.modules() if isinstance(module, GradientCheckpointingLayer))
        state, _ = fit(model, batches, training, work, "tuned")
        assert (layer._compiled_call_impl is not None) is compiled
        results[compiled] = losses, state
    assert results[True][0] == pytest.approx(results[False][0], rel=1e-5)
    for name, value in results[False][1].items():
        torch.testing.assert_close(results[True][1][name], value, rtol=0.0, atol=1e-5, msg=name)


@pytest.mark.slow
@pytest.mark.parametrize(("family", "kinds"), [("xlm-roberta", 1), ("modernbert", 2)])
def test_packed_batches_of_any_size_share_a_graph(family: str, kinds: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward and backward through the GPU's attention operator, on tensors without memory.

    Numbers of tokens (256, 768), of rows and of the longest row differ. ModernBERT has global layers and those with a window.
    """
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    torch.compiler.reset()
    counters.clear()
    model = classifier(small_encoder(family, layers=3)).train()
    unpad_training(model.encoder, torch.device("cpu"))
    compile_layers(model)
    meta = torch.device("meta")
    model.to(meta, torch.bfloat16)
    for rows, length in ((4, 30), (19, 37), (3, 11)):
        ids = torch.full((rows, length), 7)
        inputs = {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "labels": torch.zeros(rows, dtype=torch.long),
        }
        packed = pack(inputs, Numbering.of(model.encoder))
        on_meta = {name: value.to(meta) if isinstance(value, Tensor) else value for name, value in packed.items()}
        model(**on_meta).backward()
        assert counters["stats"]["unique_graphs"] == kinds
    assert not counters["graph_break"]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_layers_to_compile(family: str) -> None:
    model = classifier(small_encoder(family, layers=3))
    compile_layers(model)
    assert sum(module._compiled_call_impl is not None for module in model.modules()) == 3


def test_zero_3_is_refused() -> None:
    with pytest.raises(ValueError, match="compile: impossible under ZeRO stage 3"):
        Resources(zero_stage=3, compile=True)
    assert Resources(zero_stage=2, compile=True).compile
    assert not Resources().compile
