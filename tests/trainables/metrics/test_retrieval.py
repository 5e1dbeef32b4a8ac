"""Rankings and mined pairs against worked examples, definitions and scikit-learn."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from sklearn.metrics import average_precision_score
from sklearn.metrics import f1_score as binary_f1_score

from tests.trainables.metrics.samples import pairs, rankings
from trainables.metrics import METRICS


class TestRankings:
    @pytest.mark.parametrize(
        ("predicted", "gold", "average_precision"),
        [
            (["a"], ["a"], 1.0),
            (["x", "a"], ["a"], 1 / 2),  # with one gold id it is the reciprocal rank: Mewsli-X's score
            (["a", "x", "b"], ["a", "b"], (1 + 2 / 3) / 2),
            (["a", "x", "b"], ["a", "b", "c"], (1 + 2 / 3) / 3),  # what was not found counts as 0
            (["a", "a", "b"], ["a", "b"], (1 + 2 / 3) / 2),  # the repetition is no hit and uses up a rank
            ([*map(str, range(20)), "a"], ["a"], 0.0),  # rank 21
            ([], ["a"], 0.0),
            (["x"] * 19 + ["a"], ["a", "a"], 1 / 20),  # gold ids are a set
            ([f"g{index}" for index in range(20)], [f"g{index}" for index in range(25)], 1.0),  # divisor 20, not 25
        ],
    )
    def test_by_hand(self, predicted: list[str], gold: list[str], average_precision: float) -> None:
        assert METRICS["map_at_20"].score([predicted], [gold]) == pytest.approx(100 * average_precision)

    @pytest.mark.parametrize("seed", range(6))
    def test_against_the_definition(self, seed: int) -> None:
        predicted, gold = rankings(random.Random(seed), 60)
        expected = sum(map(definition_of_average_precision, predicted, gold)) / len(gold)
        assert METRICS["map_at_20"].score(predicted, gold) == pytest.approx(100 * expected)

    @pytest.mark.parametrize("seed", range(6))
    def test_is_scikit_learns_where_the_whole_pool_fits(self, seed: int) -> None:
        """scikit-learn knows no cut: pools of at most 20 candidates, all of them ranked."""
        rng = random.Random(seed)
        predicted, gold, expected = [], [], 0.0
        for _ in range(40):
            pool = list(range(rng.randrange(1, 21)))
            predicted.append(rng.sample(pool, len(pool)))
            gold.append(rng.sample(pool, rng.randrange(1, len(pool) + 1)))
            relevant = [candidate in gold[-1] for candidate in predicted[-1]]
            expected += average_precision_score(relevant, range(len(pool), 0, -1))
        assert METRICS["map_at_20"].score(predicted, gold) == pytest.approx(100 * expected / 40)

    def test_a_query_without_gold_is_an_error(self) -> None:
        with pytest.raises(ValueError, match="without gold ids"):
            METRICS["map_at_20"].count(["a"], [])


def definition_of_average_precision(predicted: Sequence[str], gold: Sequence[str]) -> float:
    """Mean, over min(number of gold ids, 20), of the precision at each rank where a gold id first appears."""
    new = [
        rank
        for rank in range(1, min(len(predicted), 20) + 1)
        if predicted[rank - 1] in set(gold) - set(predicted[: rank - 1])
    ]
    return sum(len(set(predicted[:rank]) & set(gold)) / rank for rank in new) / min(len(set(gold)), 20)


class TestMinedPairs:
    @pytest.mark.parametrize("seed", range(6))
    def test_is_scikit_learns_f1_over_all_possible_pairs(self, seed: int) -> None:
        predicted, gold = pairs(random.Random(seed), 80)
        chosen, right = (
            [target in of_sentence for of_sentence in side for target in range(5)] for side in (predicted, gold)
        )
        assert METRICS["mining_f1"].score(predicted, gold) == pytest.approx(100 * binary_f1_score(right, chosen))

    def test_parts(self) -> None:
        metric = METRICS["mining_f1"]
        counts = metric.total([[1], [2, 3], [], [4]], [[1], [2], [5], []])  # 2 hits, 4 predicted, 3 gold
        assert metric.parts(counts) == pytest.approx({"precision": 50.0, "recall": 200 / 3})
        assert metric.value(counts) == pytest.approx(400 / 7)

    def test_a_repeated_pair_counts_once(self) -> None:
        assert METRICS["mining_f1"].score([[1, 1]], [[1]]) == 100.0

    def test_nothing_found_is_zero(self) -> None:
        metric = METRICS["mining_f1"]
        assert metric.score([[], []], [[1], []]) == 0.0
        assert metric.parts(metric.total([[], []], [[1], []])) == {"precision": 0.0, "recall": 0.0}
