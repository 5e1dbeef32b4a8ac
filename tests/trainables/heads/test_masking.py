"""BERT's masking rule, and the batches that it makes of features."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from trainables.heads import Feature
from trainables.heads.base import IGNORED
from trainables.heads.features import read_features, write_features
from trainables.heads.masking import Masking
from trainables.tasks.micro.masked_lm import MicroMaskedLm
from trainables.training.batching import BatchOrder, FeatureBatches, Share

TASK = MicroMaskedLm(languages_=("de", "zh"), train_size=40)
RULE = Masking(4, frozenset(range(5)), tuple(range(5, 1000)))
ALONE = Share(0, 1, 64)


def test_the_rule_is_that_of_bert() -> None:
    rng = random.Random(0)
    row = (0, *rng.choices(range(5, 1000), k=100_000), 2)
    inputs, targets = RULE.mask(row, rng)
    chosen = [position for position, target in enumerate(targets) if target != IGNORED]
    assert all(targets[position] == row[position] for position in chosen)
    assert all(inputs[position] == token for position, token in enumerate(row) if targets[position] == IGNORED)
    assert not {0, len(row) - 1} & set(chosen)
    # Four binomial standard errors of 100,000 tokens, then of the 15,000 chosen.
    assert len(chosen) / 100_000 == pytest.approx(0.15, abs=0.0046)
    became = Counter("mask" if inputs[p] == 4 else "same" if inputs[p] == row[p] else "random" for p in chosen)
    shares = {what: count / len(chosen) for what, count in became.items()}
    assert shares == pytest.approx({"mask": 0.8, "random": 0.1, "same": 0.1}, abs=0.013)
    assert {inputs[position] for position in chosen} - {4} <= set(range(5, 1000))


def test_the_rule_draws_what_pre_training_always_drew() -> None:
    """Finished pre-training stages are reused, so the rule must never change the numbers that it draws."""
    row, expected = tuple(range(1000)), list(range(1000))
    rng = random.Random("1|2|3")
    for position, token in enumerate(row):
        if token >= 5 and rng.random() < 0.15:
            draw = rng.random()
            if draw < 0.8:
                expected[position] = 4
            elif draw < 0.9:
                expected[position] = rng.randrange(5, 1000)
    assert RULE.mask(row, random.Random("1|2|3"))[0] == expected


def test_special_tokens_are_never_masked(masking_tokenizer: PreTrainedTokenizerFast) -> None:
    rule = Masking.of(masking_tokenizer)
    assert rule.mask_id == masking_tokenizer.mask_token_id
    assert rule.special == set(range(5))
    assert rule.ordinary == tuple(range(5, len(masking_tokenizer)))
    without_mask = PreTrainedTokenizerFast(tokenizer_object=masking_tokenizer.backend_tokenizer, pad_token="<pad>")
    with pytest.raises(ValueError, match="no mask token"):
        Masking.of(without_mask)


def masked_batches(folder: Path, rows: list[tuple[int, ...]], *, batch_size: int = 8, seed: int = 0) -> FeatureBatches:
    path = folder / "features.arrow"
    features = [Feature(index, (row,), (), weight=0.0) for index, row in enumerate(rows)]
    write_features(path, [("train/de", features)])
    order = BatchOrder(tuple(map(len, rows)), batch_size, seed)
    return FeatureBatches(read_features(path), TASK, 1, order, masking=RULE)


def _rows_of(batches: FeatureBatches, step: int, workers: int = 1, micro_batch: int = 64) -> list[tuple[Any, ...]]:
    """Inputs and labels of each row of a step, over all workers, without padding."""
    return sorted(
        (tuple(ids[mask.bool()].tolist()), tuple(labels[mask.bool()].tolist()))
        for rank in range(workers)
        for inputs in batches.micro_batches(step, Share(rank, workers, micro_batch))
        for ids, mask, labels in zip(inputs["input_ids"], inputs["attention_mask"], inputs["labels"], strict=True)
    )


def _rows(count: int = 16) -> list[tuple[int, ...]]:
    rng = random.Random(0)
    return [(0, *rng.choices(range(5, 1000), k=rng.randint(6, 30)), 2) for _ in range(count)]


def test_masks_depend_on_seed_step_and_feature_alone(tmp_path: Path) -> None:
    batches = masked_batches(tmp_path, _rows())
    steps = [_rows_of(batches, step) for step in (3, 2, 1, 0)][::-1]
    assert [_rows_of(batches, step) for step in range(4)] == steps
    for workers, micro_batch in ((1, 2), (2, 64), (2, 1), (4, 2)):
        assert [_rows_of(batches, step, workers, micro_batch) for step in range(4)] == steps
    # Two steps are an epoch; the next epoch has the same rows with other masks.
    epochs = [steps[0] + steps[1], steps[2] + steps[3]]
    whole = [sorted(_unmasked(*row) for row in epoch) for epoch in epochs]
    assert whole[0] == whole[1] == sorted(_rows())
    assert sorted(epochs[0]) != sorted(epochs[1])
    assert [_rows_of(masked_batches(tmp_path, _rows(), seed=1), step) for step in range(4)] != steps


def _unmasked(ids: tuple[int, ...], labels: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(token if label == IGNORED else label for token, label in zip(ids, labels, strict=True))


def test_a_batch_weighs_its_masked_tokens(tmp_path: Path) -> None:
    batches = masked_batches(tmp_path, _rows())
    for step in range(4):
        assert batches.weight(step) == sum(
            label != IGNORED for _, labels in _rows_of(batches, step) for label in labels
        )
        assert batches.weight(step) > 8
