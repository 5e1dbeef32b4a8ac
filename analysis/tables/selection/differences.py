"""Differences between choices, target by target, with the error that seeds and test examples leave.

A choice names a candidate for each target: the same for all, or another for each. Errors of averages over splits, whose parts
share examples, are bounded by the mean of their standard errors (Minkowski's inequality): intervals are rather too wide.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from analysis.store.examples import Floats
from analysis.tables.inference import infer
from analysis.tables.selection.halves import TargetScores

Choice = npt.NDArray[np.int64]  # for each target the index of a candidate: (T,)


@dataclass(frozen=True)
class Difference:
    """A mean over targets and judging runs in points, its 95% interval and p (NaN: unknown, as in `inference.infer`)."""

    value: float
    low: float
    high: float
    p: float


def difference(targets: Sequence[TargetScores], better: Choice, worse: Choice) -> Difference:
    """How far one choice is above another that no test score took part in, on all test examples."""
    by_seed_F = np.mean(
        [target.whole[b] - target.whole[c] for target, b, c in zip(targets, better, worse, strict=True)], axis=0
    )
    examples_sd = math.sqrt(_example_variance(targets, better, worse)) if _with_examples(targets) else math.nan
    return _inferred(by_seed_F, targets, examples_sd=examples_sd, seed_sd=_seed_sd(targets, better, worse))


def gap_to_best(targets: Sequence[TargetScores], chosen: Choice, *, one_for_all: bool) -> Difference | None:
    """How far the candidates best on one half of the test examples are above a choice on the other half, over all splits.

    `one_for_all`: the best by the mean over targets; otherwise the best on each. The best is chosen by the runs that the choice
    was made from, and both are judged by `Candidates.runs`. None where scores by example are not recorded.
    """
    if not _with_examples(targets):
        return None
    own = np.stack([target.chosen for target in targets if target.chosen is not None])  # (T, 2, S, K)
    judged = np.stack([target.judged for target in targets if target.judged is not None])  # (T, 2, S, K, F)
    best = np.broadcast_to(own.mean(axis=0).argmax(axis=-1), own.shape[:3]) if one_for_all else own.argmax(axis=-1)
    other = judged[:, ::-1]  # a choice on one half is judged on the other
    of_best = np.take_along_axis(other, best[..., None, None], axis=3)[:, :, :, 0]
    of_chosen = np.stack([other[number, :, :, index] for number, index in enumerate(chosen)])
    by_seed_F = (of_best - of_chosen).mean(axis=(0, 1, 2))
    found, times = np.unique(
        best.reshape(len(targets), -1).T, axis=0, return_counts=True
    )  # choices of splits and halves
    # A half has half the examples, so twice the variance.
    example_sds = [math.sqrt(2 * _example_variance(targets, choice, chosen)) for choice in found]
    seed_sds = [_seed_sd(targets, choice, chosen) for choice in found]
    examples_sd, seed_sd = (float(np.average(sds, weights=times)) for sds in (example_sds, seed_sds))
    return _inferred(by_seed_F, targets, examples_sd=examples_sd, seed_sd=seed_sd)


def _with_examples(targets: Sequence[TargetScores]) -> bool:
    return all(target.with_examples for target in targets)


def _example_variance(targets: Sequence[TargetScores], better: Choice, worse: Choice) -> float:
    """Variance over test examples of the mean difference; targets have different examples."""
    total = 0.0
    for target, b, c in zip(targets, better, worse, strict=True):
        covariance = target.covariance
        assert covariance is not None
        total += max(float(covariance[b, b] + covariance[c, c] - 2 * covariance[b, c]), 0.0)
    return total / len(targets) ** 2


def _seed_sd(targets: Sequence[TargetScores], better: Choice, worse: Choice) -> float:
    """Standard deviation over seeds of the mean difference, from the residuals of all candidates; NaN below two seeds.

    Seeds are blocks and candidates treatments, as in `inference.block_variances`. Targets of one candidate share its seed, so
    their residuals may go together; those of two candidates do not.
    """
    candidates, seeds = targets[0].whole.shape
    if seeds < 2:
        return math.nan
    scores_TKF = np.stack([target.whole for target in targets])
    residuals = scores_TKF - scores_TKF.mean(axis=2, keepdims=True) - scores_TKF.mean(axis=1, keepdims=True)
    residuals += scores_TKF.mean(axis=(1, 2), keepdims=True)
    flat = residuals.reshape(len(targets), -1)
    covariance_TT = flat @ flat.T / ((candidates - 1) * (seeds - 1))
    same = (better[:, None] == better) * 1.0 + (worse[:, None] == worse)
    opposed = (better[:, None] == worse) * 1.0 + (worse[:, None] == better)
    return math.sqrt(max(float((covariance_TT * (same - opposed)).sum()), 0.0)) / len(targets)


def _inferred(by_seed_F: Floats, targets: Sequence[TargetScores], *, examples_sd: float, seed_sd: float) -> Difference:
    """The larger of the difference's own variance over seeds and that of all candidates counts, as for gains."""
    candidates, seeds = targets[0].whole.shape
    own = float(by_seed_F.var(ddof=1)) if seeds > 1 else math.nan
    inferred = infer(
        [by_seed_F.mean()],
        [max(own, seed_sd**2) if seeds > 1 else math.nan],
        df=[(candidates - 1) * (seeds - 1)],
        seeds=[seeds],
        example_variances=[examples_sd**2],
    )
    return Difference(float(by_seed_F.mean()), *(float(part[0]) for part in (inferred.low, inferred.high, inferred.p)))
