"""Retrieval: mean average precision of a ranking, and F1 of mined sentence pairs."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Sequence

from trainables.metrics.base import Counts, Metric, micro_f1, overlap, precision_recall

DEPTH = 20


def _count_ranking(prediction: Sequence[Hashable], reference: Collection[Hashable], language: str) -> Counts:
    """Average precision of one query over the first 20 ids, best first: LAReQA's and, with one gold id, Mewsli-X's.

    The divisor is min(number of gold ids, 20), as in `average_precision_at_k` of XTREME-R's utils_lareqa.py. A repeated id
    counts only at its first rank, but its repetition takes up a rank.
    """
    gold = set(reference)
    if not gold:
        raise ValueError("map_at_20: a query without gold ids")
    hits: set[Hashable] = set()
    precisions = 0.0
    for rank, candidate in enumerate(prediction[:DEPTH], start=1):
        if candidate in gold and candidate not in hits:
            hits.add(candidate)
            precisions += len(hits) / rank
    return Counts({"ap": precisions / min(len(gold), DEPTH), "total": 1.0})


def _mean_average_precision(counts: Counts) -> float:
    return 100.0 * counts["ap"] / counts["total"]


def _count_pairs(prediction: Collection[Hashable], reference: Collection[Hashable], language: str) -> Counts:
    """The pairs of one source sentence, as the ids of their targets; most sentences of BUCC have none."""
    return overlap(set(prediction), set(reference))


MAP_AT_20 = Metric("map_at_20", _count_ranking, _mean_average_precision)
# The F1 of BUCC 2018 (Zweigenbaum et al. 2018) over the set of all pairs, as in XTREME's evaluate.py.
MINING_F1 = Metric("mining_f1", _count_pairs, micro_f1, precision_recall)
