"""Queries with the length distribution of the target languages."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, islice

from trainables.benchmark.scenarios.percentiles import nearest_rank

FEWEST_A_LANGUAGE = 32  # three times what a median needs: one odd sentence does not decide it
MOST_POOLED = 2**16  # a language of one query in 2,000 still has its 32 in it
# Tokens a row with the special ones: 32 quantiles of XNLI's 2,490 English dev pairs (mean 39.7), in pieces of mBERT's own
# vocabulary; for queries where there is no tokenizer.
XNLI_LENGTHS = (
    *(17, 20, 22, 24, 26, 27, 28, 29, 31, 32, 33, 34, 35, 36, 38, 39),
    *(40, 41, 42, 43, 45, 46, 47, 48, 49, 51, 52, 54, 56, 58, 61, 67),
)
Query = tuple[tuple[int, ...], ...]  # the rows of token ids of one `Feature`: one, or one for each alternative


@dataclass(frozen=True)
class LengthProfile:
    """Tokens a query (all its rows, without padding) over all languages, and how many different queries each language gave."""

    queries: int
    mean: float
    p50: int
    p90: int
    longest: int
    languages: dict[str, int]


@dataclass(frozen=True)
class QuerySample:
    """Different queries in a random order, with the language of each.

    `pooled` are places in `queries`, each as often as it counts in what is measured over all languages.
    """

    queries: tuple[Query, ...]
    languages: tuple[str, ...]
    pooled: tuple[int, ...]

    def profile(self) -> LengthProfile:
        each = [sum(len(row) for row in query) for query in self.queries]
        lengths = sorted(each[place] for place in self.pooled)
        counts = {language: self.languages.count(language) for language in sorted(set(self.languages))}
        mean = sum(lengths) / len(lengths)
        p50, p90 = nearest_rank(lengths, 0.5), nearest_rank(lengths, 0.9)
        return LengthProfile(len(self.queries), mean, int(p50), int(p90), lengths[-1], counts)

    def of(self, language: str) -> list[int]:
        """Places of a language's queries."""
        return [place for place, name in enumerate(self.languages) if name == language]


def sample_queries(
    pools: Sequence[tuple[str, Sequence[Query]]], count: int, seed: int, *, fewest: int = FEWEST_A_LANGUAGE
) -> QuerySample:
    """`count` of the queries of all languages (all, if there are fewer), without replacement, a function of the seed.

    Each language gives its share of all queries, rounded by largest remainder, and at least `fewest` or all that it has. Where
    some give more than their share, `pooled` still has each language's share.

    Raises:
        ValueError: no queries, or a language twice.
    """
    sizes = {language: len(queries) for language, queries in pools}
    if len(sizes) != len(pools) or not sum(sizes.values()) or count < 1:
        raise ValueError(f"cannot draw {count} queries from languages with {[(name, len(q)) for name, q in pools]}")
    rng = random.Random(f"queries|{seed}")
    drawn: list[tuple[str, Query]] = []
    fair = shares(list(sizes.values()), count)
    given = [max(share, min(fewest, size)) for share, size in zip(fair, sizes.values(), strict=True)]
    for (language, queries), number in zip(pools, given, strict=True):
        drawn += [(language, query) for query in rng.sample(list(queries), number)]
    rng.shuffle(drawn)
    queries, languages = tuple(query for _, query in drawn), tuple(language for language, _ in drawn)
    pooled = list(range(len(drawn)))
    if given != fair:
        pooled = _in_proportion(languages, sizes)
        rng.shuffle(pooled)
    return QuerySample(queries, languages, tuple(pooled))


def _in_proportion(languages: Sequence[str], sizes: Mapping[str, int]) -> list[int]:
    """Places so often that each language has its share, and its places are equally frequent to within one."""
    every = sum(sizes.values())
    mine = {name: [place for place, of in enumerate(languages) if of == name] for name, size in sizes.items() if size}
    total = min(max(-(-len(places) * every // sizes[name]) for name, places in mine.items()), MOST_POOLED)
    return [
        place for name, places in mine.items() for place in islice(cycle(places), round(total * sizes[name] / every))
    ]


def shares(sizes: Sequence[int], count: int) -> list[int]:
    """`count` divided in proportion to the sizes, by largest remainder, none larger than its size."""
    total = sum(sizes)
    count = min(count, total)
    given = [size * count // total for size in sizes]
    by_remainder = sorted(range(len(sizes)), key=lambda index: -(sizes[index] * count % total))
    for index in by_remainder[: count - sum(given)]:
        given[index] += 1
    return given
