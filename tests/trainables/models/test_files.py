"""A large encoder is written in several files, and everything that reads stages reads those."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.support.networks import small_encoder
from trainables.models import task_model
from trainables.models.encoder import load_encoder
from trainables.models.stored_weights import StoredWeights
from trainables.models.task_model import ENCODER, save_encoder


def test_an_encoder_in_several_files_is_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = small_encoder("xlm-roberta", layers=2, dropout=0.0)
    monkeypatch.setattr(task_model, "MAX_FILE_BYTES", 20_000)
    state = {f"encoder.{name}": parameter.detach() + 1 for name, parameter in encoder.named_parameters()}
    save_encoder(encoder, state, tmp_path)
    files = list((tmp_path / ENCODER).glob("model-*.safetensors"))
    assert len(files) > 2
    read, stored = load_encoder(tmp_path / ENCODER), StoredWeights(tmp_path / ENCODER)
    for name, parameter in read.named_parameters():
        torch.testing.assert_close(parameter, state[f"encoder.{name}"], rtol=0, atol=0)
        torch.testing.assert_close(stored.read(name), parameter, rtol=0, atol=0)


def test_a_small_encoder_stays_in_one_file(tmp_path: Path) -> None:
    encoder = small_encoder("xlm-roberta", layers=1, dropout=0.0)
    save_encoder(encoder, {f"encoder.{name}": value for name, value in encoder.named_parameters()}, tmp_path)
    assert [path.name for path in (tmp_path / ENCODER).glob("*.safetensors")] == ["model.safetensors"]
