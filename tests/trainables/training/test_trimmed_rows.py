"""Which rows of an embedding table are kept, which tables are not trimmed, and what the rows left out do not change."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.support.networks import PAD, ROWS, WIDTH, WordScores, classifier, embedding_of, roberta, small_encoder
from trainables.heads import Feature
from trainables.heads.features import FeatureTable, read_features, write_features
from trainables.models.families import FAMILIES
from trainables.tasks.micro.entailment import MicroEntailment
from trainables.training.batching import BatchOrder, FeatureBatches, Share
from trainables.training.trimming import Lookups, looked_up, trim

pytestmark = pytest.mark.usefixtures("one_thread")


def _batch(features: FeatureTable) -> dict[str, Tensor]:
    order = BatchOrder(features.lengths, 16, 1)
    (batch,) = FeatureBatches(features, MicroEntailment(), PAD, order).micro_batches(0, Share(0, 1, 16))
    return batch


def test_what_is_looked_up(feature_table: FeatureTable, tmp_path: Path) -> None:
    expected = {word for feature in feature_table for row in feature.rows for word in row}
    assert set(feature_table.token_ids().tolist()) == expected
    path = tmp_path / "two.arrow"
    write_features(path, [("a", [Feature(0, ((7, 3), (9,)), ())]), ("b", [Feature(0, ((3, 5),), ())] * 2)])
    table = read_features(path)
    assert table.token_ids().tolist() == [3, 5, 7, 9]
    assert table.of("b").token_ids().tolist() == [3, 5]
    # Padding is looked up though no feature has it; here batches and embedding use different rows for it.
    assert looked_up(nn.Embedding(10, 2, padding_idx=0), [table.of("b")], pad_id=1).ids.tolist() == [0, 1, 3, 5]
    with pytest.raises(ValueError, match="token ids 1 to 9, embedding table of 9 rows"):
        looked_up(nn.Embedding(9, 2), [table], pad_id=1)


def test_a_word_outside_the_lookups_is_an_error_in_training(feature_table: FeatureTable) -> None:
    model = classifier(roberta())
    lookups = looked_up(embedding_of(model), [feature_table], PAD)
    trim(model, Lookups(lookups.embedding, lookups.ids[:-1]))
    embedding_of(model)(lookups.ids[:-1])
    with pytest.raises(IndexError):
        embedding_of(model)(lookups.ids)


def test_an_output_layer_tied_to_the_table_is_not_trimmed(feature_table: FeatureTable) -> None:
    """Scores over the vocabulary give every row a gradient."""
    model = WordScores(roberta(), tied=True)
    lookups = looked_up(embedding_of(model), [feature_table], PAD)
    assert not lookups.pays(model)
    with pytest.raises(ValueError, match="output layer out is tied"):
        trim(model, lookups)
    assert embedding_of(model).weight.shape == (ROWS, WIDTH)


def test_a_table_that_is_not_trained_is_not_trimmed(feature_table: FeatureTable) -> None:
    model = classifier(roberta())
    embedding_of(model).weight.requires_grad_(False)
    with pytest.raises(ValueError, match="not trained"):
        trim(model, looked_up(embedding_of(model), [feature_table], PAD))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_computes_the_same_on_the_same_random_numbers(feature_table: FeatureTable, family: str) -> None:
    """Bit for bit: the same loss, gradients and state of the generator."""
    results = []
    for trims in (False, True):
        torch.manual_seed(0)
        model = classifier(small_encoder(family)).train()
        if trims:
            trim(model, looked_up(embedding_of(model), [feature_table], PAD))
        loss = model(**_batch(feature_table))
        loss.backward()
        table = embedding_of(model).weight
        others = [parameter.grad for parameter in model.parameters() if parameter is not table]
        results.append((loss.detach(), table.grad, others, torch.get_rng_state()))
    (whole_loss, whole_rows, whole_others, whole_state), (loss, rows, others, state) = results
    assert torch.equal(loss, whole_loss)
    assert torch.equal(state, whole_state)
    assert rows is not None
    assert whole_rows is not None
    assert torch.equal(rows, whole_rows[sorted({PAD, *feature_table.token_ids().tolist()})])
    for gradient, whole in zip(others, whole_others, strict=True):
        assert (gradient is None and whole is None) or torch.equal(gradient, whole)  # type: ignore[arg-type]


def test_rows_that_do_not_occur_add_nothing_to_the_norm(feature_table: FeatureTable) -> None:
    norms = []
    for trims in (False, True):
        torch.manual_seed(0)
        model = classifier(roberta())
        if trims:
            trim(model, looked_up(embedding_of(model), [feature_table], PAD))
        model(**_batch(feature_table)).backward()
        if not trims:
            unseen = torch.ones(ROWS, dtype=torch.bool)
            unseen[torch.from_numpy(feature_table.token_ids())] = False
            gradient = embedding_of(model).weight.grad
            assert gradient is not None
            assert not gradient[unseen].any()  # the row of padding among them
        norms.append(float(nn.utils.clip_grad_norm_(model.parameters(), 1.0)))
    assert norms[1] == pytest.approx(norms[0], rel=1e-6)  # squares summed in another order
