"""An order of choices against their measured scores: regret and rank correlation.

Regret@k is that of Poth et al. 2021 (2104.08247, after Renggli et al. 2020): the best score of a target over all intermediate
tasks, minus the best among the k that are ranked first, in percent of the former. Correlations are Spearman's and Kendall's
(tau-b).
"""

from __future__ import annotations

import math

import numpy as np
from scipy import stats

from analysis.tables.inference import Floats


def expected_best(scores: Floats, estimates: Floats, k: int) -> float:
    """The best score among the k choices with the highest estimates; its expectation where tied choices come in random order.

    With equal estimates for all it is the expectation of a random order.
    """
    k = min(k, len(scores))
    threshold = np.sort(estimates)[::-1][k - 1]
    surely = scores[estimates > threshold]
    tied = np.sort(scores[estimates == threshold])
    drawn, best = k - len(surely), float(surely.max(initial=-np.inf))
    # The largest of `drawn` out of the tied ones is at most the i-th smallest in comb(i, drawn) of comb(tied, drawn) cases.
    below = np.array([math.comb(count, drawn) for count in range(len(tied) + 1)], dtype="float64")
    return float((np.maximum(tied, best) * np.diff(below)).sum() / below[-1])


def regret(scores: Floats, estimates: Floats, k: int) -> float:
    """Regret@k in percent of the best score; NaN where that is not positive."""
    best = float(scores.max())
    return 100.0 * (best - expected_best(scores, estimates, k)) / best if best > 0 else math.nan


def rank_correlations(scores: Floats, estimates: Floats) -> tuple[float, float]:
    """Spearman's rho and Kendall's tau-b; 0 for an estimator that gives all choices one value, NaN for equal scores.

    An estimator without an opinion is like a random order, which is 0 in the mean.
    """
    if len(np.unique(scores)) < 2:
        return math.nan, math.nan
    if len(np.unique(estimates)) < 2:
        return 0.0, 0.0
    return float(stats.spearmanr(scores, estimates).statistic), float(stats.kendalltau(scores, estimates).statistic)
