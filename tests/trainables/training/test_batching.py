"""Batches are a function of seed and step for any number of workers; the learning-rate schedule matches hand computation."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from trainables.heads import Feature
from trainables.heads.features import FeatureTable, read_features, write_features
from trainables.hyperparameters import Training
from trainables.tasks.micro.entailment import MicroEntailment
from trainables.tasks.micro.intermediate import MicroOddOneOut
from trainables.training.batching import BatchOrder, FeatureBatches, Share

LENGTHS = tuple(random.Random(0).randrange(3, 40) for _ in range(96))


def order(lengths: tuple[int, ...] = LENGTHS, batch_size: int = 8, seed: int = 0) -> BatchOrder:
    return BatchOrder(lengths, batch_size, seed)


def test_every_example_once_an_epoch() -> None:
    for epoch in range(3):
        batches = [order().at(step) for step in range(12 * epoch, 12 * (epoch + 1))]
        assert {len(batch) for batch in batches} == {8}
        assert sorted(index for batch in batches for index in batch) == list(range(96))


def test_examples_left_out_of_an_epoch_come_in_another() -> None:
    uneven = order(LENGTHS[:13], batch_size=4)
    epochs = [{index for step in range(3 * n, 3 * n + 3) for index in uneven.at(step)} for n in range(6)]
    assert [len(epoch) for epoch in epochs] == [12] * 6
    assert set().union(*epochs) == set(range(13))


def test_batches_depend_only_on_seed_and_step() -> None:
    forward = [order().at(step) for step in range(30)]
    backward = [order().at(step) for step in reversed(range(30))]
    assert forward == backward[::-1]
    assert forward != [order(seed=1).at(step) for step in range(30)]
    assert forward[:12] != forward[12:24]  # reshuffled every epoch


def test_a_batch_has_similar_lengths() -> None:
    lengths = tuple(random.Random(1).randrange(1, 100) for _ in range(512))
    batches = [order(lengths, batch_size=16).at(step) for step in range(32)]
    padded = sum(16 * max(lengths[index] for index in batch) for batch in batches)
    # Unsorted batches of 16 would pad to about 95 of 100; sorted within 16 batches, the lengths of a batch differ by 100/16.
    assert padded < 1.15 * sum(lengths)


@pytest.mark.parametrize("workers", [1, 2, 4])
@pytest.mark.parametrize("micro_batch", [1, 2, 3, 64])
def test_shares_make_up_the_batch(workers: int, micro_batch: int) -> None:
    batch = order().at(5)
    shares = [Share(rank, workers, micro_batch) for rank in range(workers)]
    cuts = [share.cut(batch) for share in shares]
    assert sorted(index for cut in cuts for micro in cut for index in micro) == sorted(batch)
    assert max(len(micro) for cut in cuts for micro in cut) <= micro_batch
    counts = {(len(cut), len(micro)) for cut in cuts for micro in cut}
    assert len(counts) == 1  # the same number of micro-batches on every worker, all of one size
    steps, size = counts.pop()
    assert steps == shares[0].accumulation(8)
    assert steps * size * workers == 8  # the global batch


def test_uneven_division_and_impossible_shares_are_refused() -> None:
    with pytest.raises(ValueError, match="8 cannot be divided evenly over 3 workers"):
        Share(0, 3, 4).accumulation(8)
    with pytest.raises(ValueError, match="2 cannot be divided evenly over 4 workers"):
        Share(0, 4, 4).cut([1, 2])
    with pytest.raises(ValueError, match="no worker 2 of 2"):
        Share(2, 2, 4)
    with pytest.raises(ValueError, match="micro-batches of 0"):
        Share(0, 1, 0)
    with pytest.raises(ValueError, match=r"^3 training examples do not fill a batch of 4"):
        BatchOrder((1, 2, 3), 4, 0)


def table(features: list[Feature], folder: Path) -> FeatureTable:
    write_features(folder / "features.arrow", [("train/en", features)])
    return read_features(folder / "features.arrow")


def test_features_survive_a_round_trip_to_disk(tmp_path: Path) -> None:
    first = [Feature(0, ((5, 6), (7,)), (1,)), Feature(1, ((8, 9, 10),), (-100, 3, -100), 2.0, (0, 1, -1))]
    second = [Feature(0, ((11,),), ())]
    path = tmp_path / "features.arrow"
    assert write_features(path, [("dev/en", first), ("test/de", second[:1]), ("test/de", second)]) == 4
    read = read_features(path)
    assert list(read) == [*first, *second, *second]
    assert read.lengths == (2, 3, 1, 1)
    assert list(read.of("dev/en")) == first
    assert list(read.of("test/de")) == [*second, *second]
    assert read.take([1, 0]) == [first[1], first[0]]
    with pytest.raises(KeyError):
        read.of("test/fr")


@pytest.mark.parametrize("workers", [1, 2])
def test_groups_stay_together(workers: int) -> None:
    batch = list(range(32))
    cuts = [Share(rank, workers, 8).cut(batch, group=8) for rank in range(workers)]
    assert sorted(tuple(micro) for cut in cuts for micro in cut) == [tuple(range(n, n + 8)) for n in range(0, 32, 8)]
    with pytest.raises(ValueError, match="32 cannot be divided evenly over 3 workers in groups of 8"):
        Share(0, 3, 8).cut(batch, group=8)


def test_feature_batches_weigh_the_whole_batch(tmp_path: Path) -> None:
    features = [Feature(n, (tuple(range(5, 5 + length)),), (n % 3,), weight=n) for n, length in enumerate(LENGTHS)]
    batches = FeatureBatches(table(features, tmp_path), MicroEntailment(), 1, order())
    assert batches.weight(4) == sum(order().at(4))
    labels: list[int] = []
    for rank in range(2):
        for inputs in batches.micro_batches(4, Share(rank, 2, 2)):
            assert inputs["input_ids"].shape == inputs["attention_mask"].shape
            assert torch.equal(inputs["attention_mask"], (inputs["input_ids"] != 1).long())
            labels += inputs["labels"].tolist()
    assert sorted(labels) == sorted(index % 3 for index in order().at(4))


def test_learning_rate_warms_up_and_decays() -> None:
    training = Training(learning_rate=1.0, steps=10, batch_size=1, seed=0, warmup=0.4)
    # Warm-up takes 4 steps: 1/4, 2/4, 3/4; then (10 - step) / 6 from step 3, never above the peak.
    expected = [0.25, 0.5, 0.75, 1.0, 1.0, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6]
    assert [training.learning_rate_at(step) for step in range(10)] == pytest.approx(expected)


def test_learning_rate_without_warmup_or_decay() -> None:
    plain = Training(learning_rate=2.0, steps=4, batch_size=1, seed=0, warmup=0.0)
    assert [plain.learning_rate_at(step) for step in range(4)] == pytest.approx([2.0, 1.5, 1.0, 0.5])
    constant = Training(learning_rate=2.0, steps=4, batch_size=1, seed=0, warmup=0.5, schedule="constant")
    assert [constant.learning_rate_at(step) for step in range(4)] == pytest.approx([1.0, 2.0, 2.0, 2.0])


@pytest.mark.parametrize("warmup", [0.0, 0.05, 0.1, 0.25, 0.33, 0.5, 0.9])
@pytest.mark.parametrize("steps", [1, 7, 10, 100])
def test_learning_rate_never_exceeds_its_peak(warmup: float, steps: int) -> None:
    training = Training(learning_rate=1.0, steps=steps, batch_size=1, seed=0, warmup=warmup)
    rates = [training.learning_rate_at(step) for step in range(steps)]
    assert min(rates) > 0
    assert max(rates) <= 1.0


def test_a_group_is_not_cut_for_a_small_micro_batch() -> None:
    assert Share(0, 1, 8).accumulation(64, group=32) == 2
    assert [len(micro) for micro in Share(0, 1, 8).cut(range(64), group=32)] == [32, 32]


@pytest.mark.parametrize(("micro_batch", "questions"), [(160, 32), (159, 16), (64, 8), (32, 4), (5, 1), (4, 1)])
def test_a_micro_batch_has_at_most_so_many_rows_and_at_least_one_entry(micro_batch: int, questions: int) -> None:
    """Thirty-two questions of five rows: the largest equal parts of at most so many rows, or single questions."""
    share = Share(0, 1, micro_batch)
    assert [len(micro) for micro in share.cut(range(32), rows=5)] == [questions] * (32 // questions)
    assert share.accumulation(32, rows=5) == 32 // questions
    # Two rows each and 16 that stay together: 32 rows at least.
    assert {len(micro) for micro in share.cut(range(32), group=16, rows=2)} == {32 if micro_batch >= 64 else 16}


def _padded(micro: Sequence[int], lengths: Sequence[int]) -> int:
    return len(micro) * -(-max(lengths[index] for index in micro) // 8) * 8


@pytest.mark.parametrize("workers", [1, 2, 4])
@pytest.mark.parametrize("tokens", [40, 100, 300, 10_000])
def test_a_micro_batch_has_at_most_so_many_padded_tokens(workers: int, tokens: int) -> None:
    """Workers have equally many micro-batches, as many as the one that needs most, and all entries of a batch once."""
    batches = order(batch_size=32)
    for step in range(6):
        batch = batches.at(step)
        shares = [Share(rank, workers, 64, tokens) for rank in range(workers)]
        cuts = [share.cut(batch, lengths=LENGTHS) for share in shares]
        assert sorted(index for cut in cuts for micro in cut for index in micro) == sorted(batch)
        assert len({len(cut) for cut in cuts}) == 1
        assert all(_padded(micro, LENGTHS) <= tokens or len(micro) == 1 for cut in cuts for micro in cut)
        assert len(cuts[0]) <= shares[0].accumulation(32)
    if tokens == 10_000:
        assert [len(micro) for micro in cuts[0]] == [32 // workers]


def test_the_worker_that_needs_most_micro_batches_decides_their_number() -> None:
    """Dealt in turn, the first worker gets rows of 8 tokens and the second rows of 16: one and two micro-batches of 64."""
    lengths = [8, 16] * 4
    cuts = [Share(rank, 2, 64, 64).cut(range(8), lengths=lengths) for rank in range(2)]
    assert cuts[1] == [[1, 3, 5, 7]]
    lengths = [8, 32] * 4
    cuts = [Share(rank, 2, 64, 64).cut(range(8), lengths=lengths) for rank in range(2)]
    assert cuts == [[[0, 2], [4, 6]], [[1, 3], [5, 7]]]


def test_without_padding_real_tokens_count() -> None:
    lengths = [1, 1, 1, 1, 1, 1, 1, 9]
    assert Share(0, 1, 64, 16, padded=False).cut(range(8), lengths=lengths) == [list(range(8))]
    assert Share(0, 1, 64, 16).cut(range(8), lengths=lengths) == [[0, 1], [2, 3], [4, 5], [6], [7]]


def test_tokens_do_not_cut_groups_or_raise_the_number_of_rows() -> None:
    lengths = [4] * 32
    assert [len(micro) for micro in Share(0, 1, 64, 16).cut(range(32), group=8, lengths=lengths)] == [8] * 4
    assert [len(micro) for micro in Share(0, 1, 6, 1000).cut(range(32), rows=2, lengths=lengths)] == [3] * 10 + [2]


def test_a_smaller_micro_batch_has_fewer_tokens_too() -> None:
    assert Share(0, 1, 64, 1000).limited(16) == Share(0, 1, 16, 250)
    assert Share(0, 1, 64).limited(16) == Share(0, 1, 16)


def test_the_batches_of_a_task_count_the_rows_of_its_features(tmp_path: Path) -> None:
    features = [Feature(n, ((5, 6), (7,), (8, 9, 10)), (n % 3,)) for n in range(96)]
    batches = FeatureBatches(table(features, tmp_path), MicroOddOneOut(), 1, order())
    rows = [len(inputs["input_ids"]) for inputs in batches.micro_batches(0, Share(0, 1, 12))]
    assert rows == [12, 12]
    assert [len(inputs["labels"]) for inputs in batches.micro_batches(0, Share(1, 2, 1))] == [1] * 4
