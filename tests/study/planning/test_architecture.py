"""Parameters of encoders, counted from their configurations alone, without a network."""

from __future__ import annotations

import pytest
import torch

from study.planning.architecture import parameters
from study.spec import Size
from tests.support.recipes import published_study
from trainables.models.catalogue import CATALOGUE, config_of, published
from trainables.models.encoder import (
    count_parameters,
)
from trainables.models.families import FAMILIES
from trainables.resources import Resources


@pytest.mark.parametrize(
    ("name", "tables", "total"),
    [
        # Rows of width d; XLM-R base and Large as in mteb's model metadata, less the pooler's d^2 + d.
        ("xlm-r-base", (250_002 + 514 + 1) * 768, 278_043_648 - 768**2 - 768),
        ("xlm-r-large", (250_002 + 514 + 1) * 1024, 559_890_432 - 1024**2 - 1024),
        # Layer: 4 d^2 + 2 d 4d weights, 9 d biases, two norms of 2 d; a norm at the end, none on the embeddings.
        ("xlm-r-xl", (250_880 + 514 + 1) * 2560, (250_880 + 515) * 2560 + 36 * (12 * 2560**2 + 13 * 2560) + 2 * 2560),
        ("xlm-r-xxl", (250_880 + 514 + 1) * 4096, (250_880 + 515) * 4096 + 48 * (12 * 4096**2 + 13 * 4096) + 2 * 4096),
        # Layer: 4 d x 64 heads, 3 d x inner (gated), two norms of d; 32 relative biases a head, once; a norm at the end.
        ("mt5-small", 250_112 * 512, 250_112 * 512 + 8 * (4 * 512 * 384 + 3 * 512 * 1024 + 2 * 512) + 32 * 6 + 512),
        ("mt5-xxl", 250_112 * 4096, 250_112 * 4096 + 24 * (4 * 4096**2 + 3 * 4096 * 10240 + 2 * 4096) + 32 * 64 + 4096),
        # mT0 is mT5, trained on.
        ("mt0-small", 250_112 * 512, 250_112 * 512 + 8 * (4 * 512 * 384 + 3 * 512 * 1024 + 2 * 512) + 32 * 6 + 512),
        (
            *("mt0-xxl-p3", 250_112 * 4096),
            250_112 * 4096 + 24 * (4 * 4096**2 + 3 * 4096 * 10240 + 2 * 4096) + 32 * 64 + 4096,
        ),
        ("mbert", (119_547 + 512 + 2) * 768, (119_547 + 515) * 768 + 768 + 12 * (12 * 768**2 + 13 * 768)),
        ("distil-mbert", (119_547 + 512) * 768, (119_547 + 512) * 768 + 2 * 768 + 6 * (12 * 768**2 + 13 * 768)),
        # 21.3M of body, as Microsoft says of its model;
        ("minilm", (250_037 + 512 + 2) * 384, (250_037 + 515) * 384 + 384 + 12 * (12 * 384**2 + 13 * 384)),
        ("e5-small", (250_037 + 512 + 2) * 384, (250_037 + 515) * 384 + 384 + 12 * (12 * 384**2 + 13 * 384)),
        ("e5-base", (250_002 + 514 + 1) * 768, 278_043_648 - 768**2 - 768),
        # The 512 relative embeddings and their norm are body.
        ("mdeberta-v3-base", 251_000 * 768, (251_000 + 2 + 512 + 2) * 768 + 12 * (12 * 768**2 + 13 * 768)),
        # Layer: 4 d^2, 3 d x inner, two norms without bias, the first layer one; norms after the embeddings and at the end.
        ("mmbert-small", 256_000 * 384, 256_000 * 384 + 22 * (4 * 384**2 + 3 * 384 * 1152 + 2 * 384) + 384),
        ("mmbert-base", 256_000 * 768, 256_000 * 768 + 22 * (4 * 768**2 + 3 * 768 * 1152 + 2 * 768) + 768),
    ],
)
def test_parameters_of_the_catalogue_by_hand(name: str, tables: int, total: int) -> None:
    study = published_study(Size(name, published(name), Resources()))
    count = parameters(study, study.sizes[0])
    assert (count.embeddings, count.total) == (tables, total)


def test_tied_tables_count_once() -> None:
    """mT5-small as a whole has 300,176,768 parameters: a decoder with cross-attention, and an output layer that is not tied."""
    config = config_of(published("mt5-small"))
    with torch.device("meta"):
        encoder = FAMILIES["mt5"].model_class(config)
    count = count_parameters(encoder)
    assert encoder.get_input_embeddings().weight is encoder.encoder.embed_tokens.weight
    decoder = 8 * (8 * 512 * 384 + 3 * 512 * 1024 + 3 * 512) + 32 * 6 + 512
    assert count.total + decoder + 250_112 * 512 == 300_176_768


def test_every_checkpoint_is_pinned_and_has_a_known_shape() -> None:
    assert len({card.encoder.repository for card in CATALOGUE.values()}) == len(CATALOGUE) == 23
    for name, card in CATALOGUE.items():
        assert published(name).revision is not None
        assert config_of(card.encoder) is not None
    with pytest.raises(ValueError, match="no published encoder 'xlmr'"):
        published("xlmr")
