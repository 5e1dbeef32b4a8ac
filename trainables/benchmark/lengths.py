"""Queries with the length distribution of the target languages."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from trainables.benchmark.percentiles import nearest_rank

# Tokens a row with the special ones: 32 quantiles of XNLI's 2,490 English dev pairs (mean 39.7), in pieces of mBERT's own
# vocabulary; for queries where there is no tokenizer.
XNLI_LENGTHS = (
    *(17, 20, 22, 24, 26, 27, 28, 29, 31, 32, 33, 34, 35, 36, 38, 39),
    *(40, 41, 42, 43, 45, 46, 47, 48, 49, 51, 52, 54, 56, 58, 61, 67),
)
Query = tuple[tuple[int, ...], ...]  # the rows of token ids of one `Feature`: one, or one for each alternative


@dataclass(frozen=True)
class LengthProfile:
    """Tokens a query (all its rows, without padding) and how many queries each language gave."""

    queries: int
    mean: float
    p50: int
    p90: int
    longest: int
    languages: dict[str, int]


@dataclass(frozen=True)
class QuerySample:
    """Queries in a random order, with the language of each."""

    queries: tuple[Query, ...]
    languages: tuple[str, ...]

    def profile(self) -> LengthProfile:
        lengths = sorted(sum(len(row) for row in query) for query in self.queries)
        counts = {language: self.languages.count(language) for language in sorted(set(self.languages))}
        mean = sum(lengths) / len(lengths)
        p50, p90 = nearest_rank(lengths, 0.5), nearest_rank(lengths, 0.9)
        return LengthProfile(len(lengths), mean, int(p50), int(p90), lengths[-1], counts)


def sample_queries(pools: Sequence[tuple[str, Sequence[Query]]], count: int, seed: int) -> QuerySample:
    """`count` of the queries of all languages (all, if there are fewer), without replacement, a function of the seed.

    Each language gives its share of all queries, rounded by largest remainder.

    Raises:
        ValueError: no queries, or a language twice.
    """
    sizes = {language: len(queries) for language, queries in pools}
    if len(sizes) != len(pools) or not sum(sizes.values()) or count < 1:
        raise ValueError(f"cannot draw {count} queries from languages with {[(name, len(q)) for name, q in pools]}")
    rng = random.Random(f"queries|{seed}")
    drawn: list[tuple[str, Query]] = []
    for (language, queries), share in zip(pools, shares(list(sizes.values()), count), strict=True):
        drawn += [(language, query) for query in rng.sample(list(queries), share)]
    rng.shuffle(drawn)
    return QuerySample(tuple(query for _, query in drawn), tuple(language for language, _ in drawn))


def shares(sizes: Sequence[int], count: int) -> list[int]:
    """`count` divided in proportion to the sizes, by largest remainder, none larger than its size."""
    total = sum(sizes)
    count = min(count, total)
    given = [size * count // total for size in sizes]
    by_remainder = sorted(range(len(sizes)), key=lambda index: -(sizes[index] * count % total))
    for index in by_remainder[: count - sum(given)]:
        given[index] += 1
    return given
