"""Shipped encoders: what a study pre-trained, copied to the package in half precision and imported from there."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.support import recipes
from trainables.models import published_encoder
from trainables.models.encoder import load_encoder, pooling_of
from trainables.models.published_encoder import shipped_encoder
from trainables.models.task_model import ENCODER
from trainables.resources import Resources
from trainables.stages.base import Workplace, ensure
from trainables.stages.import_encoder import ImportEncoder
from trainables.stages.shipping import ship
from trainables.store.stage_store import StageStore
from trainables.training.batching import Share


def test_a_shipped_encoder_is_the_pretrained_one_to_half_precision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(published_encoder, "SHIPPED", tmp_path / "shipped")
    work = Workplace(StageStore(tmp_path), Share(0, 1, 64), Resources())
    study = recipes.inline()
    pretrained = study.encoder_stage(study.sizes[0])
    ensure(pretrained, work)
    (folder,) = ship(tmp_path, "ladder")
    assert folder == tmp_path / "shipped" / "ladder" / "1x32"

    imported = ImportEncoder(shipped_encoder("ladder", "1x32"))
    assert ensure(imported, work).metrics["parameters"] == ensure(pretrained, work).metrics["parameters"]
    before, after = (load_encoder(work.store.folder(stage) / ENCODER) for stage in (pretrained, imported))
    assert pooling_of(after) == pooling_of(before) == "mean"  # the family's, XLM-R's, is the first token
    for name, value in before.state_dict().items():
        assert torch.equal(after.state_dict()[name], value.half().float()), name


def test_what_is_not_shipped_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(published_encoder, "SHIPPED", tmp_path)
    with pytest.raises(ValueError, match=r"no shipped encoder ladder/9x99; this ladder's sizes: none"):
        shipped_encoder("ladder", "9x99")
    with pytest.raises(ValueError, match="no finished pre-training"):
        ship(tmp_path, "ladder")
