"""Bitext mining with the ratio margin: pairs that are closer to each other than either sentence is to its neighbours.

Artetxe and Schwenk 2019, "Margin-based parallel corpus mining with multilingual sentence embeddings" (1811.01136), with the
ratio margin and the "max" retrieval of LASER's `mine_bitexts.py`, which XTREME uses for BUCC (`utils_retrieve.py`). Both
scripts first drop repeated sentences; here the caller does that.
"""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import NamedTuple

import faiss
import numpy as np
from numpy.typing import NDArray

from trainables.heads.search import Vectors, nearest


class ScoredPair(NamedTuple):
    """A candidate: row of the source sentence, row of the target sentence, ratio margin."""

    source: int
    target: int
    score: float


def ratio_margin_candidates(sources_SD: Vectors, targets_TD: Vectors, k: int = 4) -> list[ScoredPair]:
    """At most one pair for each source and each target sentence, best margin first.

    Let `near(x)` be the mean cosine of x to its k nearest sentences in the other language (fewer if there are fewer). A
    pair's score is cos(x, y) / ((near(x) + near(y)) / 2). Each sentence of either language nominates its best-scored
    neighbour; nominations are taken greedily, best first, and skip sentences already taken. Only positive scores are kept.
    Deviation from the scripts: if the mean of the two neighbourhoods is not positive, the score is 0 instead of a quotient.

    Args:
        sources_SD: sentence vectors of one language; they are L2-normalised here.
        targets_TD: sentence vectors of the other language, of the same dimension.
        k: size of a neighbourhood; 4 in the paper and in both scripts.

    Raises:
        ValueError: the dimensions differ, a value is not finite, or k is below 1.
    """
    if k < 1:
        raise ValueError(f"k = {k}: must be at least 1")
    sources_SD, targets_TD = _normalised(sources_SD, "sources"), _normalised(targets_TD, "targets")
    if sources_SD.shape[1] != targets_TD.shape[1]:
        raise ValueError(f"sources have {sources_SD.shape[1]} dimensions and targets {targets_TD.shape[1]}")
    if not len(sources_SD) or not len(targets_TD):
        return []
    cosine_SK, target_SK = nearest(sources_SD, targets_TD, k)
    cosine_TK, source_TK = nearest(targets_TD, sources_SD, k)
    near_S, near_T = cosine_SK.mean(axis=1), cosine_TK.mean(axis=1)
    best_target_S, score_S = _nominate(cosine_SK, target_SK, near_S, near_T)
    best_source_T, score_T = _nominate(cosine_TK, source_TK, near_T, near_S)

    source = np.concatenate([np.arange(len(sources_SD)), best_source_T])
    target = np.concatenate([best_target_S, np.arange(len(targets_TD))])
    score = np.concatenate([score_S, score_T])
    order = np.argsort(-score, kind="stable")  # stable: equal scores give the same pairs on every machine
    pairs: list[ScoredPair] = []
    taken_sources: set[int] = set()
    taken_targets: set[int] = set()
    for pair in map(ScoredPair, source[order].tolist(), target[order].tolist(), score[order].tolist()):
        if pair.score > 0 and pair.source not in taken_sources and pair.target not in taken_targets:
            taken_sources.add(pair.source)
            taken_targets.add(pair.target)
            pairs.append(pair)
    return pairs


def best_threshold(pairs: Sequence[ScoredPair], gold: AbstractSet[tuple[int, int]]) -> tuple[float, float]:
    """The threshold at which `mined` reaches the highest F1 against the gold pairs, and that F1 in percent.

    The sweep of LASER's and XTREME's `bucc_optimize`: pairs by falling score, with the threshold midway between the last
    pair taken and the next. Two deviations: equal scores are taken together, since no threshold separates them, and the
    cut after the last pair (where the scripts fail) is that pair's score. (0, 0) if no pair is gold.

    Args:
        pairs: candidates, each pair once.
        gold: pairs of source row and target row, including those that are not candidates.

    Raises:
        ValueError: there are no gold pairs.
    """
    if not gold:
        raise ValueError("no gold pairs to set a threshold on")
    ranked = sorted(pairs, key=lambda pair: -pair.score)
    scores = [pair.score for pair in ranked]
    threshold = best_f1 = 0.0
    hits = 0
    for taken, pair in enumerate(ranked, start=1):
        hits += (pair.source, pair.target) in gold
        following = scores[taken] if taken < len(ranked) else pair.score
        if following == pair.score and taken < len(ranked):
            continue
        f1 = 2 * hits / (taken + len(gold))
        if f1 > best_f1:
            threshold, best_f1 = (pair.score + following) / 2, f1
    return threshold, 100.0 * best_f1


def mined(pairs: Sequence[ScoredPair], threshold: float) -> list[ScoredPair]:
    """The candidates whose score is at least the threshold, in their order."""
    return [pair for pair in pairs if pair.score >= threshold]


def _normalised(vectors_ND: Vectors, side: str) -> Vectors:
    """A float32 copy with rows of length 1; rows of zeros stay."""
    vectors_ND = np.array(vectors_ND, dtype=np.float32, order="C")
    if vectors_ND.ndim != 2:
        raise ValueError(f"{side}: vectors of shape {vectors_ND.shape}, expected (sentences, dimensions)")
    if not np.isfinite(vectors_ND).all():
        raise ValueError(f"{side}: a sentence vector has values that are not finite")
    faiss.normalize_L2(vectors_ND)
    return vectors_ND


def _nominate(
    cosine_QK: Vectors, row_QK: NDArray[np.int64], near_Q: Vectors, near_B: Vectors
) -> tuple[NDArray[np.int64], Vectors]:
    """Each query's neighbour with the highest margin, and that margin: both (Q,)."""
    around_QK = (near_Q[:, None] + near_B[row_QK]) / 2
    margin_QK = np.divide(cosine_QK, around_QK, out=np.zeros_like(cosine_QK), where=around_QK > 0)
    queries, best_Q = np.arange(len(row_QK)), margin_QK.argmax(axis=1)
    return row_QK[queries, best_Q], margin_QK[queries, best_Q]
