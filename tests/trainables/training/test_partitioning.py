"""Encoders of ZeRO 3 read part by part: the same training as with the whole model in every worker, and nobody holds it."""

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
from trainables.models.encoder import encoder_on_meta, is_on_meta, load_encoder
from trainables.models.families import FAMILIES
from trainables.resources import Resources
from trainables.stages.base import Workplace
from trainables.stages.fit import fit
from trainables.store.stage_store import StageStore
from trainables.tasks.micro.entailment import MicroEntailment
from trainables.training import partitioning
from trainables.training.batching import BatchOrder, FeatureBatches, Share
from trainables.training.engine import Layout, engine_settings
from trainables.training.partitioning import StoredWeights, read_partitioned
from trainables.training.trimming import looked_up

WIDE = "wide"  # matrices that are let go of after each use; those of the small encoders, once gathered, stay
TRAINING = Training(learning_rate=1e-2, steps=3, batch_size=16, seed=0)
Tuned = tuple[list[float], dict[str, np.ndarray]]


class Body(nn.Module):
    """An encoder where a model has it."""

    def __init__(self, encoder: PreTrainedModel) -> None:
        super().__init__()
        self.encoder = encoder


def _read_and_tuned(rank: int, folder: Path) -> dict[object, Any]:
    """By family what a worker holds of an encoder, and by (trims, outlined) what came of training one."""
    with pytest.MonkeyPatch.context() as patch:
        if rank:
            patch.delattr(partitioning, "safe_open")  # whoever is not the leader has nothing to read with
        found: dict[object, Any] = {family: _held(rank, folder / family) for family in FAMILIES}
        for trims in (True, False):
            for outlined in (True, False):
                found[trims, outlined] = _tuned(folder, rank, "xlm-roberta", trims=trims, outlined=outlined)
        for outlined in (True, False):
            found[WIDE, outlined] = _tuned(folder, rank, WIDE, trims=False, outlined=outlined)
    return found


def _held(rank: int, folder: Path) -> tuple[int, dict[str, Any], dict[str, Any]]:
    """Parameters that this worker holds, and the whole of what both hold together."""
    model = Body(encoder_on_meta(folder))
    assert is_on_meta(model)
    settings = engine_settings(TRAINING, Layout(Share(rank, WORKERS, 2), 3))
    read_partitioned(*(model, folder, settings), trimmed=None, leads=rank == 0, device=torch.device("cpu"))
    parameters = list(model.encoder.parameters())
    held = sum(one.numel() + one.ds_tensor.numel() for one in parameters)
    with deepspeed.zero.GatheredParameters(parameters):
        whole = {name: one.detach().numpy().copy() for name, one in model.encoder.named_parameters()}
    return held, whole, {name: one.numpy().copy() for name, one in model.encoder.named_buffers()}


def _tuned(folder: Path, rank: int, name: str, *, trims: bool, outlined: bool) -> Tuned:
    """Losses and state of a training with dropout, of an encoder that every worker has whole or has in outline."""
    features, losses = read_features(folder / "features.arrow"), list[float]()
    encoder = (encoder_on_meta if outlined else load_encoder)(folder / name)
    torch.manual_seed(0)
    model = classifier(encoder)
    work = Workplace(
        StageStore(folder),
        Share(rank, WORKERS, 4),
        Resources(zero_stage=3, trim_vocabulary=trims),
        progress=lambda stage, done, total, loss: losses.append(loss),
    )
    order = BatchOrder(features.lengths, TRAINING.batch_size, TRAINING.seed)
    batches = FeatureBatches(features, MicroEntailment(), PAD, order)
    lookups = looked_up(encoder.get_input_embeddings(), [features], PAD)
    state, metrics = fit(*(model, batches, TRAINING, work, "tuned"), lookups=lookups, weights=folder / name)
    assert (metrics["embedding_rows_trained"] < ROWS) is trims
    return losses, {name: value.numpy() for name, value in state.items()}


def _same(found: Mapping[str, np.ndarray], expected: Mapping[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value.detach().numpy(), err_msg=name)


def test_what_is_read_in_parts_by_the_leader_alone_is_what_everybody_reads_whole(tmp_path: Path, pair: Pair) -> None:
    random_features(tmp_path / "features.arrow")
    for family in FAMILIES:
        small_encoder(family).save_pretrained(tmp_path / family)
    wide_roberta().save_pretrained(tmp_path / WIDE)
    found = pair.run(_read_and_tuned, tmp_path)
    for rank in range(WORKERS):
        for what in (True, False, WIDE):
            (losses, state), (expected_losses, expected) = (found[rank][what, outlined] for outlined in (True, False))
            assert losses == expected_losses
            _same(state, {name: torch.from_numpy(value) for name, value in expected.items()})
            assert bool(state) is (rank == 0)
    assert found[0][True, True][1]["encoder.embeddings.word_embeddings.weight"].shape == (ROWS, WIDTH)
    for family in FAMILIES:
        plain = load_encoder(tmp_path / family)
        total = sum(one.numel() for one in plain.parameters())
        for rank in range(WORKERS):
            held, whole, buffers = found[rank][family]
            assert total / WORKERS <= held < 1.02 * total / WORKERS  # parts are rounded up
            _same(whole, dict(plain.named_parameters()))
            _same(buffers, dict(plain.named_buffers()))


def test_weights_in_several_files_and_what_is_missing(tmp_path: Path) -> None:
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
