"""Sizes from one checkpoint: its first layers, and any checkpoint by its repository."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from study.planning.architecture import parameters
from study.spec import InvalidStudy, Resources, Size
from tests.support import recipes
from tests.support.checkpoints import save_checkpoint
from tests.support.networks import ROWS
from trainables.data.source import DATA_ROOT_VARIABLE, DataError
from trainables.models.card import Card
from trainables.models.catalogue import config_of, description, published
from trainables.models.encoder import load_encoder
from trainables.models.families import FAMILIES
from trainables.models.published_encoder import PublishedEncoder, pinned_encoder
from trainables.models.task_model import ENCODER
from trainables.stages.base import Workplace, ensure
from trainables.stages.import_encoder import ImportEncoder
from trainables.store.stage_store import StageStore
from trainables.tasks.micro.bitext import MicroBitext

LAYERS, KEPT = 4, 2
# The norm after the last layer, of the architectures that have one: it is applied after the last layer that is kept.
FINAL_NORM = {"xlm-roberta-xl": "encoder.LayerNorm", "mt5": "encoder.final_layer_norm", "modernbert": "final_norm"}


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data root, with the hub offline."""
    monkeypatch.setenv(DATA_ROOT_VARIABLE, str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return tmp_path


@pytest.mark.parametrize("family", FAMILIES)
def test_the_first_layers_give_the_hidden_states_of_the_whole_encoder(family: str, root: Path) -> None:
    """Four layers, of which mmBERT's first and last attend to all tokens."""
    whole = save_checkpoint(root, "someone/encoder", family, layers=LAYERS)
    encoder = pinned_encoder(published("someone/encoder", layers=KEPT))
    assert (encoder.name, encoder.family) == (f"encoder-{KEPT}l", family)
    imported = ensure(ImportEncoder(encoder), Workplace(StageStore(root / "out")))
    short = load_encoder(imported.folder / ENCODER).eval()
    ids = torch.randint(5, ROWS, (3, 24), generator=torch.Generator().manual_seed(0))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    with torch.no_grad():
        expected = whole(**inputs, output_hidden_states=True).hidden_states[KEPT]
        if family in FINAL_NORM:
            expected = whole.get_submodule(FINAL_NORM[family])(expected)
        found = short(**inputs, output_hidden_states=True)
    torch.testing.assert_close(found.last_hidden_state, expected, atol=1e-5, rtol=1e-4)
    assert len(found.hidden_states) == KEPT + 1
    size = Size("short", encoder, Resources())
    counted = parameters(recipes.published_study(size), size)
    assert (counted.total, counted.body) == (imported.metrics["parameters"], imported.metrics["parameters_body"])


def test_more_layers_than_the_checkpoint_has_are_refused_before_anything_starts(root: Path) -> None:
    save_checkpoint(root, "someone/encoder", "bert")
    with pytest.raises(ValueError, match=r"^encoder-0l: layers 0: keep at least the first layer"):
        published("someone/encoder", layers=0)
    refusal = "layers 3: the checkpoint has 2; keep from 1 to all of them"
    with pytest.raises(ValueError, match=f"^encoder-3l: {refusal}$"):
        published("someone/encoder", layers=3)
    with pytest.raises(ValueError, match="layers 13: the checkpoint has 12"):
        published("e5-small", layers=13)
    long = pinned_encoder(PublishedEncoder("x", "someone/encoder", "bert", layers=3))
    with pytest.raises(InvalidStudy, match=rf"^sizes\[long\]: x: {refusal}$"):
        recipes.published_study(Size("long", long, Resources()))
    with pytest.raises(DataError, match=refusal):  # of the hub, whose configuration is not known before
        ensure(ImportEncoder(long), Workplace(StageStore(root / "out")))


@dataclass(frozen=True)
class ReadsLayer3(MicroBitext):
    hidden_layer = 3


def test_a_target_cannot_read_a_layer_that_is_not_kept(root: Path) -> None:
    save_checkpoint(root, "someone/encoder", "bert", layers=LAYERS)
    three, two = (
        Size("s", pinned_encoder(published("someone/encoder", layers=layers)), Resources()) for layers in (3, 2)
    )
    study = recipes.published_study(three)
    reading = dataclasses.replace(
        study, targets=(*study.targets[:2], ReadsLayer3(languages_=recipes.LANGUAGES, **recipes.SMALL))
    )
    with pytest.raises(InvalidStudy, match=r"micro_bitext\w*: reads hidden layer 3, but s has 2 layers"):
        dataclasses.replace(reading, sizes=(two,))


def test_the_description_names_the_layers(root: Path) -> None:
    assert description(published("e5-small")) == "intfloat/multilingual-e5-small"
    assert description(published("e5-small", layers=6)) == "intfloat/multilingual-e5-small, first 6 of 12 layers"
    elsewhere = PublishedEncoder("x", "someone/elsewhere", "bert", layers=6)
    assert description(elsewhere) == "someone/elsewhere, first 6 layers"
    config = config_of(published("mmbert-small", layers=5))
    assert config is not None
    assert (config.num_hidden_layers, len(config.layer_types)) == (5, 5)


def test_any_supported_checkpoint_is_found_by_its_repository(root: Path) -> None:
    save_checkpoint(root, "Someone/My_Encoder", "xlm-roberta")
    encoder = published("Someone/My_Encoder", card=Card("mean"))
    assert (encoder.name, encoder.family, encoder.card.pooling) == ("my_encoder", "xlm-roberta", "mean")
    assert pinned_encoder(encoder).revision is not None
    assert published("FacebookAI/xlm-roberta-base") == published("xlm-r-base")
    config = root / "encoders" / "Someone" / "My_Encoder" / "config.json"
    config.write_text(json.dumps({"model_type": "gpt2"}))
    with pytest.raises(
        ValueError, match=r"^Someone/My_Encoder: architecture 'gpt2' is not supported; supported are xlm-roberta, .*mt5"
    ):
        published("Someone/My_Encoder")
    with pytest.raises(DataError, match=r"no config\.json on the hub .*put its files at encoders/someone/nowhere"):
        published("someone/nowhere")
