"""The masked language modelling head: long text is split, and only masked positions are scored."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedTokenizerFast

from tests.support.recipes import LANGUAGES
from tests.trainables.heads.test_masking import ALONE, TASK, masked_batches
from trainables.data.examples import TextExample
from trainables.heads import HEADS
from trainables.heads.base import IGNORED, supervised
from trainables.heads.masked_lm import MaskedLmModule
from trainables.tasks.micro.corpus import MicroCorpus


def test_long_text_is_split_evenly_and_completely(masking_tokenizer: PreTrainedTokenizerFast) -> None:
    texts = [text for sentences in MicroCorpus(LANGUAGES, 30).parallel() for text in sentences.values()]
    examples = [TextExample("long", " ".join(texts)), TextExample("short", texts[0]), TextExample("none", "")]
    features = HEADS["masked_lm"].features(examples, task=TASK, tokenizer=masking_tokenizer, max_length=32)
    tokens = masking_tokenizer(examples[0].text, add_special_tokens=False)["input_ids"]
    split = [feature.rows[0] for feature in features if feature.example == 0]
    assert len(tokens) > 300
    assert [token for row in split for token in row[1:-1]] == tokens
    assert max(map(len, split)) == 32
    assert min(map(len, split)) >= 31
    assert len(split) == -(-len(tokens) // 30)
    assert {(row[0], row[-1]) for row in split} == {(masking_tokenizer.bos_token_id, masking_tokenizer.eos_token_id)}
    assert [feature.rows for feature in features if feature.example == 1] == [
        (tuple(masking_tokenizer(texts[0])["input_ids"]),)
    ]
    assert {feature.example for feature in features} == {0, 1}


def _head() -> tuple[MaskedLmModule, nn.Embedding, Tensor]:
    torch.manual_seed(0)
    head, table = MaskedLmModule(16), nn.Embedding(1000, 16)
    head.tie(table)
    return head, table, torch.randn(4, 12, 16, requires_grad=True)


def test_only_masked_positions_are_scored_with_the_loss_of_all_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    head, table, hidden_NLD = _head()
    mask_NL, labels_NL = torch.ones(4, 12, dtype=torch.long), torch.full((4, 12), IGNORED)
    labels_NL[0, 3], labels_NL[2, 5], labels_NL[2, 6] = 7, 8, 999
    targets = {"labels": labels_NL, "masked": supervised(labels_NL)}
    # RoBERTa's LM head without its last bias, written out.
    transformed = head.norm(functional.gelu(head.dense(hidden_NLD)))
    expected = functional.cross_entropy(
        (transformed @ table.weight.T).flatten(0, 1), labels_NL.flatten(), ignore_index=IGNORED, reduction="sum"
    )
    shapes: list[torch.Size] = []
    head.out.register_forward_hook(lambda module, inputs, scores: shapes.append(scores.shape))
    loss = head.training_loss(hidden_NLD, mask_NL, targets)
    assert shapes == [(3, 1000)]
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert head.loss(head(hidden_NLD, mask_NL), targets).item() == pytest.approx(expected.item(), rel=1e-5)
    gradients = torch.autograd.grad(loss, [table.weight, hidden_NLD])
    for ours, by_hand in zip(gradients, torch.autograd.grad(expected, [table.weight, hidden_NLD]), strict=True):
        torch.testing.assert_close(ours, by_hand, rtol=1e-4, atol=1e-5)


def test_in_steps_of_other_tasks_nothing_is_scored_and_each_parameter_has_a_gradient() -> None:
    head, table, hidden_NLD = _head()
    head.out.register_forward_hook(lambda *_: pytest.fail("scores over the vocabulary"))
    (0.0 * head.idle(hidden_NLD, torch.ones(4, 12))).backward()  # type: ignore[no-untyped-call]
    assert table.weight.grad is None
    for name, parameter in head.named_parameters():
        assert (parameter.grad is None) == (name == "out.weight")


def test_a_batch_without_masked_tokens_has_loss_zero(tmp_path: Path) -> None:
    batches = masked_batches(tmp_path, [(0, 2)] * 4, batch_size=2)
    assert batches.weight(0) == 1.0
    (inputs,) = batches.micro_batches(0, ALONE)
    head, table, hidden_NLD = _head()
    loss = head.training_loss(hidden_NLD[:2, :8], inputs["attention_mask"], inputs)
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == 0.0
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in head.parameters())
    assert table.weight.grad is not None
