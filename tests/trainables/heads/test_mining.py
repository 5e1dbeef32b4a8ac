"""Ratio-margin mining against the paper's formula over the full similarity matrix, and thresholds against every cut."""

from __future__ import annotations

import numpy as np
import pytest

from trainables.heads.mining import ScoredPair, best_threshold, mined, ratio_margin_candidates
from trainables.heads.search import Vectors
from trainables.metrics import METRICS


def rows(*vectors: list[float]) -> Vectors:
    return np.array(vectors, dtype=np.float32)


def corpus(seed: int, sources: int = 40, targets: int = 33, parallel: int = 15) -> tuple[Vectors, Vectors]:
    """Unit vectors around a common direction, as mean-pooled sentences are; the first `parallel` rows are noisy copies."""
    rng = np.random.default_rng(seed)
    source, target = rng.normal(size=(sources, 16)) + 0.7, rng.normal(size=(targets, 16)) + 0.7
    target[:parallel] = source[:parallel] + 0.5 * rng.normal(size=(parallel, 16))
    source, target = (side / np.linalg.norm(side, axis=1, keepdims=True) for side in (source, target))
    return source.astype(np.float32), target.astype(np.float32)


def brute_force(source: Vectors, target: Vectors, k: int) -> dict[tuple[int, int], float]:
    """The ratio margin and "max" retrieval as defined in the paper, over the full matrix in float64: scores by pair."""
    cosine = source.astype(np.float64) @ target.astype(np.float64).T
    near_source = np.sort(cosine, axis=1)[:, ::-1][:, :k].mean(axis=1)
    near_target = np.sort(cosine.T, axis=1)[:, ::-1][:, :k].mean(axis=1)
    margin = cosine / ((near_source[:, None] + near_target[None, :]) / 2)
    nominated = set()
    for row in range(len(source)):
        neighbours = np.argsort(-cosine[row])[:k]
        nominated.add((row, int(neighbours[margin[row, neighbours].argmax()])))
    for column in range(len(target)):
        neighbours = np.argsort(-cosine[:, column])[:k]
        nominated.add((int(neighbours[margin[neighbours, column].argmax()]), column))
    kept: dict[tuple[int, int], float] = {}
    for row, column in sorted(nominated, key=lambda pair: -margin[pair]):
        if all(row != other and column != another for other, another in kept):
            kept[row, column] = float(margin[row, column])
    return kept


class TestCandidates:
    @pytest.mark.parametrize("seed", range(5))
    @pytest.mark.parametrize("k", [1, 4, 100])
    def test_are_those_of_the_full_matrix(self, seed: int, k: int) -> None:
        source, target = corpus(seed)
        mined_pairs = ratio_margin_candidates(source, target, k)
        by_pair = {(pair.source, pair.target): pair.score for pair in mined_pairs}
        assert by_pair == pytest.approx(brute_force(source, target, k), rel=1e-5)

    def test_of_an_identity_matrix_by_hand(self) -> None:
        """Cosines 1 and 0: every neighbourhood of two has mean 1/2, and a right pair 1 / (1/2) = 2."""
        eye = np.eye(2, dtype=np.float32)
        assert ratio_margin_candidates(eye, eye) == [(0, 0, 2.0), (1, 1, 2.0)]

    def test_a_hub_is_not_everyones_translation(self) -> None:
        """Both sources are nearest to target 0 by cosine (0.8); the margin gives it to the one with no other neighbour.

        near: 0.775 and 0.45 for the sources, 0.8 and 0.425 for the targets. Margins: (0, 0) 0.8 / 0.7875,
        (0, 1) 0.75 / 0.6 = 1.25, (1, 0) 0.8 / 0.625 = 1.28, (1, 1) 0.1 / 0.4375.
        """
        gram = np.array([[1, 0.6, 0.8, 0.75], [0.6, 1, 0.8, 0.1], [0.8, 0.8, 1, 0.45], [0.75, 0.1, 0.45, 1]])
        vectors = np.linalg.cholesky(gram).astype(np.float32)
        mined_pairs = ratio_margin_candidates(vectors[:2], vectors[2:], k=2)
        assert [(pair.source, pair.target) for pair in mined_pairs] == [(1, 0), (0, 1)]
        assert [pair.score for pair in mined_pairs] == pytest.approx([1.28, 1.25], rel=1e-5)

    def test_take_each_sentence_once_and_come_best_first(self) -> None:
        source, target = corpus(3)
        mined_pairs = ratio_margin_candidates(np.concatenate([source, source]), target)  # every source has a double
        assert (
            len({pair.source for pair in mined_pairs}) == len({pair.target for pair in mined_pairs}) == len(mined_pairs)
        )
        assert [pair.score for pair in mined_pairs] == sorted((pair.score for pair in mined_pairs), reverse=True)

    def test_find_the_parallel_sentences(self) -> None:
        mined_pairs = ratio_margin_candidates(*corpus(0))
        assert sum(pair.source == pair.target for pair in mined_pairs if pair.source < 15) >= 13

    @pytest.mark.parametrize(("sources", "targets"), [(1, 1), (1, 3), (3, 1), (2, 2)])
    def test_of_fewer_sentences_than_neighbours(self, sources: int, targets: int) -> None:
        source, target = corpus(1, sources, targets, parallel=1)
        mined_pairs = ratio_margin_candidates(source, target, k=4)
        assert {(pair.source, pair.target) for pair in mined_pairs} == set(brute_force(source, target, 4))
        assert all(pair.score > 0 for pair in mined_pairs)

    def test_of_one_pair_has_margin_1(self) -> None:
        (pair,) = ratio_margin_candidates(rows([1, 0]), rows([0.6, 0.8]))
        assert (pair.source, pair.target) == (0, 0)
        assert pair.score == pytest.approx(1.0)

    def test_need_some_similarity(self) -> None:
        """0 / 0, and a negative over a negative mean, which would pass for a margin of 1."""
        east, north = rows([1, 0]), rows([0, 1])
        assert ratio_margin_candidates(east, north) == []
        assert ratio_margin_candidates(east, -east) == []

    def test_of_no_sentences_are_none(self) -> None:
        some, none = np.eye(2, dtype=np.float32), np.zeros((0, 2), dtype=np.float32)
        assert ratio_margin_candidates(some, none) == ratio_margin_candidates(none, some) == []

    def test_do_not_depend_on_the_length_of_the_vectors_and_leave_them_alone(self) -> None:
        source, target = corpus(2)
        long_source = source * np.linspace(0.5, 3, len(source), dtype=np.float32)[:, None]
        before = long_source.copy()
        mined_pairs = ratio_margin_candidates(long_source, target)
        expected = ratio_margin_candidates(source, target)
        assert [(pair.source, pair.target) for pair in mined_pairs] == [(pair.source, pair.target) for pair in expected]
        assert np.array_equal(long_source, before)

    def test_of_vectors_that_do_not_fit_are_errors(self) -> None:
        eye = np.eye(3, dtype=np.float32)
        with pytest.raises(ValueError, match="sources have 3 dimensions and targets 2"):
            ratio_margin_candidates(eye, eye[:, :2])
        with pytest.raises(ValueError, match=r"targets: vectors of shape \(3,\)"):
            ratio_margin_candidates(eye, eye[0])
        with pytest.raises(ValueError, match=r"sources: .* not finite"):
            ratio_margin_candidates(eye * np.nan, eye)
        with pytest.raises(ValueError, match="k = 0"):
            ratio_margin_candidates(eye, eye, 0)


def f1_of(pairs: list[ScoredPair], gold: set[tuple[int, int]]) -> float:
    """In percent, by the metric that BUCC is scored with."""
    rows = sorted({pair.source for pair in pairs} | {source for source, _ in gold})
    predicted = [[pair.target for pair in pairs if pair.source == row] for row in rows]
    right = [[target for source, target in gold if source == row] for row in rows]
    return METRICS["mining_f1"].score(predicted, right)


class TestThreshold:
    @pytest.mark.parametrize("seed", range(8))
    def test_no_other_cut_is_better(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        scores = rng.normal(1, 0.2, size=30).round(2)  # two digits: some scores are equal
        pairs = [ScoredPair(row, row, float(score)) for row, score in enumerate(scores)]
        gold = {(row, row) for row, score in enumerate(scores) if score + rng.normal(0, 0.2) > 1} | {(99, 99)}
        threshold, f1 = best_threshold(pairs, gold)
        assert f1 == pytest.approx(f1_of(mined(pairs, threshold), gold))
        assert f1 == pytest.approx(max(f1_of(mined(pairs, cut), gold) for cut in scores))

    def test_lies_midway(self) -> None:
        """Two of three taken: precision 1, recall 1; with the third precision 2/3."""
        pairs = [ScoredPair(2, 2, 1.0), ScoredPair(0, 0, 1.5), ScoredPair(1, 1, 1.25)]
        assert best_threshold(pairs, {(0, 0), (1, 1)}) == (1.125, 100.0)

    def test_is_the_last_score_if_all_are_taken(self) -> None:
        pairs = [ScoredPair(0, 0, 1.5), ScoredPair(1, 1, 1.25)]
        threshold, f1 = best_threshold(pairs, {(0, 0), (1, 1), (2, 2)})
        assert threshold == 1.25
        assert f1 == pytest.approx(80.0)  # precision 1, recall 2/3
        assert mined(pairs, threshold) == pairs

    def test_does_not_part_equal_scores(self) -> None:
        pairs = [ScoredPair(0, 0, 1.5), ScoredPair(1, 1, 1.5)]
        threshold, f1 = best_threshold(pairs, {(0, 0)})
        assert threshold == 1.5
        assert f1 == pytest.approx(200 / 3)  # precision 1/2, recall 1

    def test_without_a_hit_is_zero(self) -> None:
        assert best_threshold([ScoredPair(0, 1, 1.5)], {(0, 0)}) == (0.0, 0.0)
        assert best_threshold([], {(0, 0)}) == (0.0, 0.0)

    def test_needs_gold(self) -> None:
        with pytest.raises(ValueError, match="no gold pairs"):
            best_threshold([ScoredPair(0, 0, 1.0)], set())


def test_a_threshold_from_one_corpus_mines_another() -> None:
    """BUCC's protocol: the threshold is set on dev pairs and used on test pairs."""
    gold = {(row, row) for row in range(15)}
    threshold, dev_f1 = best_threshold(ratio_margin_candidates(*corpus(0)), gold)
    test_f1 = f1_of(mined(ratio_margin_candidates(*corpus(1)), threshold), gold)
    everything = f1_of(ratio_margin_candidates(*corpus(1)), gold)
    assert dev_f1 > 75
    assert test_f1 > everything
