"""Queries with the length distribution of the target languages."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, islice

from trainables.benchmark.scenarios.percentiles import nearest_rank

FEWEST_A_LANGUAGE = 32  # three times what a median needs, so that one odd sentence does not decide it
MOST_POOLED = 2**16  # enough for a language with one query in 2,000 to contribute its 32
# Tokens per row, special tokens included: 32 quantiles of XNLI's 2,490 English dev pairs (mean 39.7) under mBERT's own
# vocabulary. Queries have these lengths if there is no tokenizer.
XNLI_LENGTHS = (
    *(17, 20, 22, 24, 26, 27, 28, 29, 31, 32, 33, 34, 35, 36, 38, 39),
    *(40, 41, 42, 43, 45, 46, 47, 48, 49, 51, 52, 54, 56, 58, 61, 67),
)
Query = tuple[tuple[int, ...], ...]  # rows of token ids of one `Feature`: a single row, or one per alternative


@dataclass(frozen=True)
class LengthProfile:
    """Tokens per query (over all its rows, without padding) in all languages, and the different queries per language."""

    queries: int
    mean: float
    p50: int
    p90: int
    longest: int
    languages: dict[str, int]


@dataclass(frozen=True)
class QuerySample:
    """Different queries in random order, with the language of each.

    `pooled` holds indices into `queries`, each as often as it counts in measurements over all languages.
    """

    queries: tuple[Query, ...]
    languages: tuple[str, ...]
    pooled: tuple[int, ...]

    def profile(self) -> LengthProfile:
        tokens = [sum(len(row) for row in query) for query in self.queries]
        lengths = sorted(tokens[index] for index in self.pooled)
        counts = {language: self.languages.count(language) for language in sorted(set(self.languages))}
        mean = sum(lengths) / len(lengths)
        p50, p90 = nearest_rank(lengths, 0.5), nearest_rank(lengths, 0.9)
        return LengthProfile(len(self.queries), mean, int(p50), int(p90), lengths[-1], counts)

    def indices_in(self, language: str) -> list[int]:
        """Indices of a language's queries."""
        return [index for index, name in enumerate(self.languages) if name == language]


def sample_queries(
    pools: Sequence[tuple[str, Sequence[Query]]], count: int, seed: int, *, fewest: int = FEWEST_A_LANGUAGE
) -> QuerySample:
    """Draw `count` queries of all languages (all, if there are fewer) without replacement, as a function of the seed.

    Each language contributes its share of all queries, rounded by largest remainder, but at least `fewest` or all it has. If
    that raises some above their share, `pooled` still gives each language its share.

    Raises:
        ValueError: there are no queries, or a language appears twice.
    """
    sizes = {language: len(queries) for language, queries in pools}
    if len(sizes) != len(pools) or not sum(sizes.values()) or count < 1:
        raise ValueError(f"cannot draw {count} queries from languages with {[(name, len(q)) for name, q in pools]}")
    rng = random.Random(f"queries|{seed}")
    proportional = shares(list(sizes.values()), count)
    counts = [max(share, min(fewest, size)) for share, size in zip(proportional, sizes.values(), strict=True)]
    drawn: list[tuple[str, Query]] = []
    for (language, queries), number in zip(pools, counts, strict=True):
        drawn += [(language, query) for query in rng.sample(list(queries), number)]
    rng.shuffle(drawn)
    queries, languages = tuple(query for _, query in drawn), tuple(language for language, _ in drawn)
    pooled = list(range(len(drawn)))
    if counts != proportional:
        pooled = _in_proportion(languages, sizes)
        rng.shuffle(pooled)
    return QuerySample(queries, languages, tuple(pooled))


def _in_proportion(languages: Sequence[str], sizes: Mapping[str, int]) -> list[int]:
    """Indices repeated so that each language has its share; frequencies within a language differ by at most one."""
    all_queries = sum(sizes.values())
    indices = {
        name: [index for index, of in enumerate(languages) if of == name] for name, size in sizes.items() if size
    }
    wanted = max(-(-len(own) * all_queries // sizes[name]) for name, own in indices.items())
    total = min(wanted, MOST_POOLED)
    return [
        index for name, own in indices.items() for index in islice(cycle(own), round(total * sizes[name] / all_queries))
    ]


def shares(sizes: Sequence[int], count: int) -> list[int]:
    """`count` divided in proportion to the sizes, by largest remainder; no share exceeds its size."""
    total = sum(sizes)
    count = min(count, total)
    parts = [size * count // total for size in sizes]
    by_remainder = sorted(range(len(sizes)), key=lambda index: -(sizes[index] * count % total))
    for index in by_remainder[: count - sum(parts)]:
        parts[index] += 1
    return parts
