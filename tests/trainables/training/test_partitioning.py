"""ZeRO 3 with encoders read in parts: the same training as with whole models, and no worker holds a whole one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import deepspeed
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedModel

from tests.support.networks import PAD, ROWS, WIDTH, classifier, random_features, small_encoder, wide_roberta
from tests.support.pair import WORKERS, Pair
from trainables.heads.features import read_features
from trainables.hyperparameters import Training
from trainables.models import stored_weights
from trainables.models.encoder import encoder_on_meta, is_on_meta, load_encoder
from trainables.models.families import FAMILIES
from trainables.models.stored_weights import StoredWeights
from trainables.resources import Resources
from trainables.stages.base import Workplace
from trainables.stages.fit import fit
from trainables.store.stage_store import StageStore
from trainables.tasks.micro.entailment import MicroEntailment
from trainables.training.batching import BatchOrder, FeatureBatches, Share
from trainables.training.engine import Layout, engine_settings
from trainables.training.partitioning import read_partitioned
from trainables.training.trimming import looked_up

WIDE = "wide"  # an encoder whose matrices are released after each use; those of the small encoders stay once gathered
TRAINING = Training(learning_rate=1e-2, steps=3, batch_size=16, seed=0)
Tuned = tuple[list[float], dict[str, np.ndarray]]


class Body(nn.Module):
    """A model with only an encoder."""

    def __init__(self, encoder: PreTrainedModel) -> None:
        super().__init__()
        self.encoder = encoder


def _read_and_tuned(rank: int, folder: Path) -> dict[object, Any]:
    """What a worker holds of an encoder by family, and the result of training one by (trims, on_meta)."""
    with pytest.MonkeyPatch.context() as patch:
        if rank:
            patch.delattr(stored_weights, "safe_open")  # only the leader may read
        results: dict[object, Any] = {family: _held(rank, folder / family) for family in FAMILIES}
        for trims in (True, False):
            for on_meta in (True, False):
                results[trims, on_meta] = _tuned(folder, rank, "xlm-roberta", trims=trims, on_meta=on_meta)
        for on_meta in (True, False):
            results[WIDE, on_meta] = _tuned(folder, rank, WIDE, trims=False, on_meta=on_meta)
    return results


def _held(rank: int, folder: Path) -> tuple[int, dict[str, Any], dict[str, Any]]:
    """The number of parameter elements on this worker, and all parameters and buffers gathered."""
    model = Body(encoder_on_meta(folder))
    assert is_on_meta(model)
    settings = engine_settings(TRAINING, Layout(Share(rank, WORKERS, 2), 3))
    read_partitioned(*(model, folder, settings), trimmed=None, leads=rank == 0, device=torch.device("cpu"))
    parameters = list(model.encoder.parameters())
    elements = sum(tensor.numel() + tensor.ds_tensor.numel() for tensor in parameters)
    with deepspeed.zero.GatheredParameters(parameters):
        whole = {name: tensor.detach().numpy().copy() for name, tensor in model.encoder.named_parameters()}
    return elements, whole, {name: tensor.numpy().copy() for name, tensor in model.encoder.named_buffers()}


def _tuned(folder: Path, rank: int, name: str, *, trims: bool, on_meta: bool) -> Tuned:
    """Losses and state of a training with dropout, of an encoder that is whole or on the meta device on every worker."""
    features, losses = read_features(folder / "features.arrow"), list[float]()
    encoder = (encoder_on_meta if on_meta else load_encoder)(folder / name)
    torch.manual_seed(0)
    model = classifier(encoder)
    work = Workplace(
        StageStore(folder),
        Share(rank, WORKERS, 4),
        Resources(zero_stage=3, trim_vocabulary=trims),
        progress=lambda stage, done, total, loss: losses.extend([] if loss is None else [loss]),
    )
    order = BatchOrder(features.lengths, TRAINING.batch_size, TRAINING.seed)
    batches = FeatureBatches(features, MicroEntailment(), PAD, order)
    lookups = looked_up(encoder.get_input_embeddings(), [features], PAD)
    state, metrics = fit(*(model, batches, TRAINING, work, "tuned"), lookups=lookups, weights=folder / name)
    assert (metrics["embedding_rows_trained"] < ROWS) is trims
    return losses, {name: value.numpy() for name, value in state.items()}


def _same(state: Mapping[str, np.ndarray], expected: Mapping[str, torch.Tensor]) -> None:
    assert state.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(state[name], value.detach().numpy(), err_msg=name)


def test_an_encoder_read_in_parts_by_the_leader_equals_a_whole_one(tmp_path: Path, pair: Pair) -> None:
    random_features(tmp_path / "features.arrow")
    for family in FAMILIES:
        small_encoder(family).save_pretrained(tmp_path / family)
    wide_roberta().save_pretrained(tmp_path / WIDE)
    results = pair.run(_read_and_tuned, tmp_path)
    for rank in range(WORKERS):
        for what in (True, False, WIDE):
            (losses, state), (expected_losses, expected) = (results[rank][what, on_meta] for on_meta in (True, False))
            assert losses == expected_losses
            _same(state, {name: torch.from_numpy(value) for name, value in expected.items()})
            assert bool(state) is (rank == 0)
    assert results[0][True, True][1]["encoder.embeddings.word_embeddings.weight"].shape == (ROWS, WIDTH)
    for family in FAMILIES:
        plain = load_encoder(tmp_path / family)
        total = sum(parameter.numel() for parameter in plain.parameters())
        for rank in range(WORKERS):
            elements, whole, buffers = results[rank][family]
            assert total / WORKERS <= elements < 1.02 * total / WORKERS  # partitions are rounded up
            _same(whole, dict(plain.named_parameters()))
            _same(buffers, dict(plain.named_buffers()))


def test_weights_in_several_files_and_missing_ones(tmp_path: Path) -> None:
    encoder = small_encoder("bert")
    encoder.save_pretrained(tmp_path / "one")
    encoder.save_pretrained(tmp_path / "many", max_shard_size="50KB")
    assert len(json.loads((tmp_path / "many" / "model.safetensors.index.json").read_text())["weight_map"]) > 1
    name = "embeddings.word_embeddings.weight"
    for folder in ("one", "many"):
        table = StoredWeights(tmp_path / folder).read("another name", name)
        assert table.shape == (ROWS, WIDTH)
        assert torch.equal(table, encoder.get_input_embeddings().weight)
    state = load_file(tmp_path / "one" / "model.safetensors")
    del state[name]
    save_file(state, tmp_path / "one" / "model.safetensors")
    with pytest.raises(KeyError, match="holds no embeddings"):
        StoredWeights(tmp_path / "one").read(name)
