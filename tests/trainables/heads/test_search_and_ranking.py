"""Exact search against a sorted similarity matrix, and the ranking loss against its formula."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from trainables.heads.ranking import MAX_SCALE, new_log_scale, ranking_loss
from trainables.heads.search import Vectors, nearest


def test_nearest_candidates_come_best_first() -> None:
    rng = np.random.default_rng(0)
    queries_QD, candidates_CD = rng.normal(size=(7, 5)).astype(np.float32), rng.normal(size=(11, 5)).astype(np.float32)
    scores_QK, rows_QK = nearest(queries_QD, candidates_CD, 3)
    products_QC = queries_QD @ candidates_CD.T
    assert rows_QK.tolist() == np.argsort(-products_QC)[:, :3].tolist()
    assert scores_QK == pytest.approx(-np.sort(-products_QC)[:, :3], rel=1e-5)


def test_no_more_neighbours_than_candidates() -> None:
    eye = np.eye(2, dtype=np.float32)
    _, rows_QK = nearest(eye, eye, 20)
    assert rows_QK.tolist() == [[0, 1], [1, 0]]


def test_search_accepts_vectors_that_are_not_contiguous() -> None:
    pairs_N2D: Vectors = np.arange(12.0, dtype=np.float32).reshape(2, 2, 3)
    assert nearest(pairs_N2D[:, 0], pairs_N2D[:, 1], 1)[1].tolist() == [[1], [1]]


def by_definition(queries_PD: torch.Tensor, answers_PD: torch.Tensor, scale: float) -> float:
    """Minus the sum of log-probabilities of each query's own answer, in float64."""
    scores_PP = scale * queries_PD.double() @ answers_PD.double().T
    return -sum(math.log(scores[row].exp() / scores.exp().sum()) for row, scores in enumerate(scores_PP))


def test_ranking_loss_is_the_softmax_over_the_group() -> None:
    torch.manual_seed(0)
    queries_GPD, answers_GPD = (nn.functional.normalize(torch.randn(2, 4, 8), dim=-1) for _ in range(2))
    there = sum(by_definition(*group, 20.0) for group in zip(queries_GPD, answers_GPD, strict=True))
    back = sum(by_definition(*group, 20.0) for group in zip(answers_GPD, queries_GPD, strict=True))
    log_scale = new_log_scale()
    assert ranking_loss(queries_GPD, answers_GPD, log_scale).item() == pytest.approx(there, rel=1e-5)
    both = ranking_loss(queries_GPD, answers_GPD, log_scale, both_directions=True)
    assert both.item() == pytest.approx(there + back, rel=1e-5)


def test_the_scale_is_learned_and_bounded() -> None:
    torch.manual_seed(0)
    pairs_GPD = nn.functional.normalize(torch.randn(1, 4, 8), dim=-1)
    log_scale = new_log_scale()
    ranking_loss(pairs_GPD, pairs_GPD.flip(1), log_scale).backward()  # type: ignore[no-untyped-call]
    assert log_scale.grad is not None
    assert log_scale.grad.item() != 0.0
    above, at = (torch.tensor([math.log(scale)]) for scale in (10 * MAX_SCALE, MAX_SCALE))
    losses = [ranking_loss(pairs_GPD, pairs_GPD.flip(1), scale).item() for scale in (above, at)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
