"""What holds for every metric: shards add up, perfect predictions score 100, and nothing to score is an error."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import pytest

from tests.trainables.metrics.samples import labels, pairs, questions, rankings, sentences
from trainables.metrics import METRICS, Counts

SAMPLES: dict[str, Callable[[random.Random, int], tuple[Sequence[object], Sequence[object]]]] = {
    "accuracy": labels,
    "span_f1": lambda rng, count: sentences(rng, count, ["O", "B-place", "I-place", "B-date", "I-date"]),
    "f1_em": questions,
    "squad2_f1_em": lambda rng, count: questions(rng, count, unanswerable=True),
    "mlqa_f1_em": questions,
    "map_at_20": rankings,
    "mining_f1": pairs,
}


class TestEveryMetric:
    def test_has_a_sample(self) -> None:
        assert set(SAMPLES) == set(METRICS)

    @pytest.mark.parametrize("name", SAMPLES)
    @pytest.mark.parametrize("shards", [2, 7])
    def test_shards_merge_to_the_same_score(self, name: str, shards: int) -> None:
        metric = METRICS[name]
        predicted, gold = SAMPLES[name](random.Random(shards), 60)
        merged = sum((metric.total(predicted[rank::shards], gold[rank::shards]) for rank in range(shards)), Counts())
        assert metric.value(merged) == pytest.approx(metric.score(predicted, gold))
        assert metric.parts(merged) == pytest.approx(metric.parts(metric.total(predicted, gold)))
        assert 0 < metric.score(predicted, gold) < 100

    @pytest.mark.parametrize("name", SAMPLES)
    def test_nothing_to_score_and_unequal_lengths_are_errors(self, name: str) -> None:
        predicted, gold = SAMPLES[name](random.Random(0), 3)
        with pytest.raises(ValueError, match="no examples"):
            METRICS[name].score([], [])
        with pytest.raises(ValueError, match="zip"):
            METRICS[name].score(predicted[:2], gold)


@pytest.mark.parametrize(
    ("name", "predicted", "gold", "parts"),
    [
        ("accuracy", [1, 2], [1, 2], {}),
        ("span_f1", [["B-a", "I-a", "O"]], [["B-a", "I-a", "O"]], {"precision": 100.0, "recall": 100.0}),
        ("f1_em", ["cat", "東京"], [("dog", "Cat"), ("東京",)], {"f1": 100.0, "exact": 100.0}),
        ("squad2_f1_em", ["cat", ""], [("dog", "Cat"), ()], {"f1": 100.0, "exact": 100.0}),
        ("mlqa_f1_em", ["cat", "der Turm"], [("dog", "Cat"), ("der Turm",)], {"f1": 100.0, "exact": 100.0}),
        ("map_at_20", [["b", "a", "c"]], [["a", "b"]], {}),
        ("map_at_20", [list(range(40))], [list(range(30))], {}),  # 30 gold ids: 20 of them fill the ranking
        ("mining_f1", [["b", "a"], []], [["a", "b"], []], {"precision": 100.0, "recall": 100.0}),
    ],
)
def test_perfect_predictions_score_100(
    name: str, predicted: Sequence[object], gold: Sequence[object], parts: dict[str, float]
) -> None:
    metric = METRICS[name]
    assert metric.score(predicted, gold) == 100.0
    assert metric.parts(metric.total(predicted, gold)) == parts


def test_counts_add() -> None:
    assert (Counts({"hits": 1.0}) + Counts({"hits": 2.0, "gold": 3.0})).sums == {"hits": 3.0, "gold": 3.0}
