"""Without padding, stages train and encoders serve as on padded batches, where their attention allows it.

Packed batches themselves are tested in `test_packing`. Only rounding may differ: sums over 3 to 30 tokens have another order,
each within 2^-24 of its value.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from tests.support.networks import PAD, ROWS, classifier, random_features, roberta, small_encoder
from trainables.heads.features import read_features
from trainables.hyperparameters import Training
from trainables.models.encoder import load_encoder
from trainables.models.families import FAMILIES, why_padded
from trainables.models.unpadding import unpad_serving, unpad_training
from trainables.resources import Resources
from trainables.stages.base import Workplace
from trainables.stages.fit import fit
from trainables.store.stage_store import StageStore
from trainables.tasks.micro.entailment import MicroEntailment
from trainables.training.batching import BatchOrder, FeatureBatches, Share
from trainables.training.trimming import looked_up

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
REFUSED = [name for name, family in FAMILIES.items() if family.needs_padding is not None]
LENGTHS = (30, 3, 17, 12)


def _encoder(family: str) -> PreTrainedModel:
    """Without dropout, whose random numbers depend on shapes."""
    torch.manual_seed(0)
    return small_encoder(family, layers=3, dropout=0.0)


def _inputs() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    longest = 32
    ids = torch.randint(5, ROWS, (len(LENGTHS), longest), generator=generator)
    mask = torch.arange(longest)[None] < torch.tensor(LENGTHS)[:, None]
    return {"input_ids": ids.masked_fill(~mask, PAD), "attention_mask": mask.long()}


@pytest.mark.parametrize("family", REFUSED)
def test_attention_that_needs_padding_is_refused_with_the_reason(family: str) -> None:
    with pytest.raises(
        ValueError, match=f"unpad: {family} cannot be computed without padding, as its attention adds .*learned"
    ):
        unpad_training(_encoder(family), CPU)
    assert "learned" in str(why_padded(FAMILIES[family], "cuda", "bf16_mixed"))


@pytest.mark.parametrize("over_segments", [False, True])
@pytest.mark.parametrize("family", ["xlm-roberta", "xlm-roberta-xl", "bert"])
def test_a_served_encoder_computes_no_padding_and_the_same_states(
    family: str, over_segments: bool, tmp_path: Path
) -> None:
    """Of every layer. BERT's rows are pairs, whose second text is marked."""
    saved = _encoder(family)
    saved.config.sep_token_id = 5
    saved.save_pretrained(tmp_path)
    inputs = _inputs()
    inputs["input_ids"][:, 1] = 5  # ends the first text
    padded, unpadded = (load_encoder(tmp_path).eval() for _ in range(2))
    unpad_serving(unpadded, over_segments=over_segments)
    tokens: list[int] = []
    inner = next(module for module in unpadded.modules() if isinstance(module, torch.nn.Linear))
    inner.register_forward_hook(lambda module, given, output: tokens.append(output.shape[:-1].numel()))
    with torch.no_grad():
        expected, states = (
            encoder(**inputs, output_hidden_states=True).hidden_states for encoder in (padded, unpadded)
        )
    assert tokens == [sum(LENGTHS)]
    real = inputs["attention_mask"].bool()
    for wanted, state in zip(expected, states, strict=True):
        torch.testing.assert_close(state[real], wanted[real], rtol=1e-5, atol=1e-5)
        assert not state[~real].any()


def test_where_it_is_possible() -> None:
    assert why_padded(FAMILIES["xlm-roberta"], "cuda", "bf16_mixed") is None
    assert "GPU" in str(why_padded(FAMILIES["xlm-roberta"], "cpu", "bf16_mixed"))
    assert "fp32" in str(why_padded(FAMILIES["xlm-roberta"], "cuda", "fp32"))


@pytest.mark.parametrize("family", REFUSED)
def test_a_refusal_says_what_padding_costs(family: str) -> None:
    assert re.search(
        r"12% of the tokens .* XNLI.* 26% .* UDPOS", str(why_padded(FAMILIES[family], "cuda", "bf16_mixed"))
    )


def test_it_is_off_unless_a_recipe_asks_for_it() -> None:
    assert not Resources(gpus=1, accelerator_type="H100").unpad
    assert not Workplace(StageStore(Path("/nowhere"))).resources.unpad


def test_a_stage_trains_the_same_without_padding(tmp_path: Path) -> None:
    """With trimming, clipping and weight decay over several steps."""
    features = read_features(random_features(tmp_path / "features.arrow"))
    training = Training(learning_rate=1e-2, steps=6, batch_size=16, seed=1)
    results = {}
    for unpads in (False, True):
        torch.manual_seed(0)
        model, losses = classifier(roberta(0.0)), list[float]()
        work = Workplace(
            StageStore(tmp_path),
            Share(0, 1, 8),
            Resources(unpad=unpads),
            progress=lambda stage, done, total, loss, losses=losses: losses.append(loss),  # type: ignore[misc]
        )
        batches = FeatureBatches(features, MicroEntailment(), PAD, BatchOrder(features.lengths, 16, 1))
        lookups = looked_up(model.encoder.get_input_embeddings(), [features], PAD)
        state, metrics = fit(model, batches, training, work, "tuned", lookups=lookups)
        assert metrics["unpadded"] is unpads
        results[unpads] = losses, state
    assert results[True][0] == pytest.approx(results[False][0], rel=1e-5)
    for name, value in results[False][1].items():
        torch.testing.assert_close(results[True][1][name], value, rtol=0.0, atol=1e-5, msg=name)
