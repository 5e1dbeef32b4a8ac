"""Packed batches: what the host lays out, and that no head, family or mixture notices on which form it is trained.

Only rounding may differ from padded batches: sums over up to 30 tokens have another order, each within 2^-24 of its value.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from tests.support.networks import PAD, ROWS, WIDTH, small_encoder
from trainables.heads import HEADS, Feature, HeadModule
from trainables.heads.base import IGNORED, Pooling
from trainables.models.encoder import checkpoint_activations, hidden_states, load_encoder
from trainables.models.families import FAMILIES
from trainables.models.packing import MULTIPLE, Numbering, Segments, pack
from trainables.models.task_model import TaskModel
from trainables.models.unpadding import unpad_training
from trainables.stages.mixture import MixtureModel
from trainables.stages.pretrain import GroupBatches, PretrainModel
from trainables.tasks.base import HeadName, Task
from trainables.tasks.micro.bitext import MicroBitext
from trainables.tasks.micro.entailment import MicroEntailment
from trainables.tasks.micro.follows import MicroFollows
from trainables.tasks.micro.masked_lm import MicroMaskedLm
from trainables.tasks.micro.span import MicroSpan
from trainables.tasks.micro.tagging import MicroTagging
from trainables.training.batching import Share, collate

pytestmark = pytest.mark.usefixtures("one_thread")

CPU, META = torch.device("cpu"), torch.device("meta")
LENGTHS = (30, 3, 17, 12)
PACKABLE = [name for name, family in FAMILIES.items() if family.needs_padding is None]
SEPARATOR = 2


@dataclass(frozen=True)
class Pairs(MicroEntailment):
    head: ClassVar[HeadName] = "dual_encoder"
    group: ClassVar[int] = 2


TASKS: dict[str, Task] = {
    task.head: task
    for task in (
        MicroEntailment(),
        MicroFollows(),
        MicroTagging(),
        MicroSpan(),
        MicroMaskedLm(),
        Pairs(),
        MicroBitext(),
    )
}


def _row(length: int, rng: random.Random) -> tuple[int, ...]:
    """A separator ends the first text after two tokens, another one the row."""
    return (0, rng.randrange(5, ROWS), SEPARATOR, *(rng.randrange(5, ROWS) for _ in range(length - 3)))[:length]


def _features(head: str) -> list[Feature]:
    """Rows of these lengths with a target for the head; pairs and alternatives have two or three rows of them each."""
    rng = random.Random(0)
    rows = [_row(length, rng) for length in LENGTHS]
    if head in ("dual_encoder", "bitext_retrieval"):
        return [Feature(at, (rows[at], rows[-1 - at]), ()) for at in range(len(rows))]
    if head == "multiple_choice":
        return [Feature(at, (rows[at], rows[0], rows[1]), (at % 3,)) for at in range(len(rows))]
    targets: dict[str, Callable[[tuple[int, ...]], tuple[int, ...]]] = {
        "pair_classification": lambda row: (len(row) % 2,),
        "tagging": lambda row: tuple(IGNORED if at % 3 == 0 else at % 2 for at in range(len(row))),
        "masked_lm": lambda row: tuple(token if at % 4 == 1 else IGNORED for at, token in enumerate(row)),
        "span_extraction": lambda row: (1, len(row) - 1),
    }
    return [Feature(at, (row,), targets[head](row)) for at, row in enumerate(rows)]


def _module(head: str, encoder: Any, pooling: Pooling) -> HeadModule:
    torch.manual_seed(1)
    module = HEADS[head].module(WIDTH, TASKS[head], pooling)
    module.tie(encoder.get_input_embeddings())
    return module


def _encoder(family: str) -> Any:
    """Without dropout, whose random numbers depend on shapes."""
    torch.manual_seed(0)
    return small_encoder(family, layers=3, dropout=0.0).train()


def _gradients(model: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


def _assert_equal_training(model: Any, encoder: Any, inputs: dict[str, Any]) -> None:
    """The loss and all gradients of a model on a padded batch and on the same batch packed."""
    padded = model(**inputs)
    expected = _gradients(model, padded)
    unpad_training(encoder, CPU)
    packed = model(**pack(inputs, Numbering.of(encoder)))
    gradients = _gradients(model, packed)
    torch.testing.assert_close(packed, padded, rtol=1e-5, atol=1e-5)
    assert gradients.keys() == expected.keys()
    assert any(gradient.any() for gradient in expected.values())
    for name, gradient in expected.items():
        scale = max(1.0, float(gradient.abs().max()))
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-4, atol=2e-6 * scale, msg=name)


@pytest.mark.parametrize("pooling", ["first", "mean"])
@pytest.mark.parametrize("head", sorted(TASKS.keys() - {"bitext_retrieval"}))
def test_every_head_trains_as_on_padded_batches(head: str, pooling: Pooling) -> None:
    encoder = _encoder("xlm-roberta")
    model = TaskModel(encoder, _module(head, encoder, pooling))
    _assert_equal_training(model, encoder, collate(_features(head), HEADS[head], PAD))


def test_sentence_vectors_are_those_of_padded_batches() -> None:
    """Bitext heads have no loss."""
    assert {*TASKS, "bitext_mining"} == set(HEADS), "a head without a case"
    encoder = _encoder("xlm-roberta")
    for head in ("bitext_retrieval", "bitext_mining"):
        inputs = collate(_features("bitext_retrieval"), HEADS[head], PAD)
        module = HEADS[head].module(WIDTH, TASKS["bitext_retrieval"])
        with torch.no_grad():
            wanted = module(
                hidden_states(encoder, inputs["input_ids"], inputs["attention_mask"]), inputs["attention_mask"]
            )
            unpad_training(encoder, CPU)
            packed = pack(inputs, Numbering.of(encoder))
            states = hidden_states(encoder, packed["input_ids"], packed["attention_mask"], packed)
        torch.testing.assert_close(module(states, packed["attention_mask"]), wanted, rtol=1e-5, atol=1e-5)


def test_a_mixture_trains_as_on_padded_batches() -> None:
    heads = ["pair_classification", "tagging", "masked_lm", "span_extraction", "multiple_choice"]
    for part, head in enumerate(heads):
        encoder = _encoder("xlm-roberta")
        model = MixtureModel(encoder, [_module(name, encoder, "mean") for name in heads])
        inputs = collate(_features(head), HEADS[head], PAD)
        _assert_equal_training(model, encoder, {**inputs, "part": part})


@pytest.mark.parametrize("translation_share", [0.0, 1.0])
def test_pretraining_trains_as_on_padded_batches(translation_share: float) -> None:
    rng = random.Random(0)
    sentences = [{"en": _row(rng.randint(3, 14), rng), "de": _row(rng.randint(3, 14), rng)} for _ in range(32)]

    class EveryThird:
        def mask(self, row: tuple[int, ...], rng: random.Random) -> tuple[list[int], list[int]]:
            return list(row), [token if at % 3 == 1 else IGNORED for at, token in enumerate(row)]

    batches = GroupBatches(
        sentences,
        groups=2,
        pairs=4,
        seed=0,
        masking=EveryThird(),  # type: ignore[arg-type]
        pad_id=PAD,
        translation_share=translation_share,
    )
    encoder = _encoder("xlm-roberta")
    torch.manual_seed(1)
    model = PretrainModel(encoder, PAD, 4)
    (inputs,) = batches.micro_batches(0, Share(0, 1, 64))
    _assert_equal_training(model, encoder, inputs)


@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize("family", PACKABLE)
def test_every_family_trains_as_on_padded_batches(family: str, checkpointed: bool) -> None:
    """Hidden states of every real token, loss and gradients; in two layers of three ModernBERT attends to a window."""
    encoder = _encoder(family)
    model = TaskModel(encoder, _module("pair_classification", encoder, "mean"))
    if checkpointed:
        checkpoint_activations(model)
    inputs = collate(_features("pair_classification"), HEADS["pair_classification"], PAD)
    with torch.no_grad():
        wanted = hidden_states(encoder, inputs["input_ids"], inputs["attention_mask"])
    _assert_equal_training(model, encoder, inputs)
    with torch.no_grad():
        packed = pack(inputs, Numbering.of(encoder))
        states = hidden_states(encoder, packed["input_ids"], packed["attention_mask"], packed)
        scored = hidden_states(encoder, inputs["input_ids"], inputs["attention_mask"])
    real = inputs["attention_mask"].bool()
    torch.testing.assert_close(states[real], wanted[real], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(scored[real], wanted[real], rtol=1e-5, atol=1e-5)
    assert not states[~real].any()


@pytest.mark.parametrize("marks", [None, False, True])
def test_the_second_text_is_marked_as_the_card_says(marks: bool | None, tmp_path: Path) -> None:
    """`import_encoder` writes `second_segment` into the configuration; without it BERT's family decides."""
    saved = _encoder("bert")
    saved.config.sep_token_id = SEPARATOR
    if marks is not None:
        saved.config.second_segment = marks
    saved.save_pretrained(tmp_path)
    encoder = load_encoder(tmp_path).train()
    inputs = collate(_features("tagging"), HEADS["tagging"], PAD)
    types = pack(inputs, Numbering.of(encoder)).get("segment_types")
    assert (types is None) == (marks is False)
    if types is not None:
        first_row = [0] * 3 + [1] * (LENGTHS[0] - 3)
        assert types[0, : LENGTHS[0] + 3].tolist() == [*first_row, 0, 0, 0]
    _assert_equal_training(TaskModel(encoder, _module("tagging", encoder, "first")), encoder, inputs)


@pytest.mark.parametrize("family", PACKABLE)
def test_nothing_on_the_device_waits_for_a_count(family: str) -> None:
    """Forward and backward on tensors without memory, where reading a value or counting one is an error."""
    with pytest.raises(RuntimeError):
        torch.empty(4, device=META).nonzero()
    for head in ("tagging", "masked_lm", "span_extraction", "dual_encoder", "pair_classification", "multiple_choice"):
        encoder = _encoder(family)
        unpad_training(encoder, CPU)
        model = TaskModel(encoder, _module(head, encoder, "mean")).to(META, torch.bfloat16)
        inputs = pack(collate(_features(head), HEADS[head], PAD), Numbering.of(encoder))
        on_meta = {name: value.to(META) if isinstance(value, Tensor) else value for name, value in inputs.items()}
        model(**on_meta).backward()
        assert all(parameter.grad is not None for parameter in encoder.parameters())


def test_the_layout_of_a_packed_batch() -> None:
    ids = torch.tensor([[0, 7, 2, 8, 2], [0, 9, 2, PAD, PAD]])
    inputs = {"input_ids": ids, "attention_mask": (ids != PAD).long(), "labels": torch.tensor([1, 2])}
    packed = pack(inputs, Numbering(PAD, 2, separator=2), multiple=6)
    segments = Segments.among(packed)
    assert segments is not None
    assert segments.types is not None
    assert packed["input_ids"].tolist() == [[0, 7, 2, 8, 2, 0, 9, 2, PAD, PAD, PAD, PAD]]
    assert segments.positions.tolist() == [[2, 3, 4, 5, 6, 2, 3, 4, 2, 2, 2, 2]]
    assert segments.types.tolist() == [[0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0]]
    assert segments.boundaries.tolist() == [0, 5, 8, 12]
    assert segments.boundaries.dtype == torch.int32
    assert segments.longest == 5
    assert torch.equal(segments.padded(packed["input_ids"][0], ids.shape), ids.masked_fill(ids == PAD, 0))
    assert packed["attention_mask"] is inputs["attention_mask"]
    assert packed["labels"] is inputs["labels"]


@pytest.mark.parametrize("rows", [1, 8, 9])
def test_the_total_is_filled_up_to_few_shapes(rows: int) -> None:
    """Eight rows of 32 need no filler; the filler may be the longest segment."""
    ids = torch.full((rows, 32), 7)
    packed = pack({"input_ids": ids, "attention_mask": torch.ones_like(ids)}, Numbering(PAD, 0, None))
    total = packed["input_ids"].numel()
    assert total == -(-rows * 32 // MULTIPLE) * MULTIPLE
    boundaries = packed["segment_boundaries"]
    assert len(boundaries) == rows + 2
    assert boundaries[-1] == total
    assert packed["segment_longest"] == max(32, total - rows * 32)
