"""Queries: how they are drawn from the languages."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.support.serving import queries
from trainables.benchmark import sample_queries
from trainables.benchmark.scenarios.queries import shares


def test_sampled_queries_keep_the_shares_of_languages_and_depend_only_on_the_seed() -> None:
    pools = [("en", queries([4] * 60)), ("sw", queries([9] * 30)), ("th", queries([20] * 10))]
    sample = sample_queries(pools, 20, seed=3, fewest=1)
    assert sample.pooled == tuple(range(20))
    assert sample.profile().languages == {"en": 12, "sw": 6, "th": 2}
    lengths = {"en": 4, "sw": 9, "th": 20}
    assert [len(query[0]) for query in sample.queries] == [lengths[language] for language in sample.languages]
    assert sample == sample_queries(pools, 20, seed=3, fewest=1)
    assert sample != sample_queries(pools, 20, seed=4, fewest=1)
    assert shares([1, 1, 1], 2) == [1, 1, 0]
    assert shares([2, 1], 10) == [2, 1]


def test_a_small_language_contributes_enough_queries_but_counts_by_its_share() -> None:
    pools = [("en", queries([10] * 5000)), ("sw", queries([20] * 100)), ("yo", queries([30] * 4))]
    sample = sample_queries(pools, 512, seed=0)
    assert sample.profile().languages == {"en": 502, "sw": 32, "yo": 4}
    counts = Counter(sample.languages[index] for index in sample.pooled)
    assert counts["sw"] / len(sample.pooled) == pytest.approx(100 / 5104, rel=0.05)
    assert sample.profile().mean == pytest.approx((5000 * 10 + 100 * 20 + 4 * 30) / 5104, rel=0.002)
    assert set(sample.pooled) == set(range(len(sample.queries)))
    frequencies = Counter(sample.pooled)
    swahili = [frequencies[index] for index in sample.indices_in("sw")]
    assert max(swahili) - min(swahili) <= 1


def test_languages_without_queries_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot draw 4 queries"):
        sample_queries([("en", [])], 4, seed=0)
