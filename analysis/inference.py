"""Uncertainty of differences between trained models: few seeds, one test set, many comparisons.

A difference between two ways of training has two sources of error: training again with another seed, and scoring on other
examples. Resampling three seeds with replacement understates the first badly (a percentile interval of nominally 95 % covers
about 70 %: `tests/test_analysis_inference.py` measures it), so that the two are combined as variances: the spread over paired seeds, with
Student's t for its few degrees of freedom, and the paired bootstrap over examples (`analysis.examples`).

Sources: Welch-Satterthwaite degrees of freedom (Satterthwaite 1946); variances of many small groups moderated by a common
prior (Smyth 2004, "Linear models and empirical Bayes methods for assessing differential expression", section 6); crossed
effects of seeds and examples, whose interaction is in both sums and counted once (Owen 2007, "The pigeonhole bootstrap");
Holm 1979 for several comparisons.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special, stats

Floats = npt.NDArray[np.float64]
LEVEL = 0.95


def holm(p_values: npt.ArrayLike) -> Floats:
    """Holm's step-down adjusted p-values: the family's error rate is at most alpha where they are below it.

    NaN is no test: it stays NaN and does not count.
    """
    found = np.asarray(p_values, dtype="float64")
    adjusted = np.full(found.shape, np.nan)
    known = np.flatnonzero(~np.isnan(found))
    order = known[np.argsort(found[known], kind="stable")]
    stepped = found[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(stepped), 1.0) if len(order) else stepped
    return adjusted


@dataclass(frozen=True)
class Prior:
    """What many groups say about a variance: a value and the degrees of freedom that it is worth."""

    variance: float
    df: float


def variance_prior(variances: npt.ArrayLike, df: npt.ArrayLike) -> Prior | None:
    """The common prior of many small groups' variances (Smyth 2004, section 6.2); None below two positive ones.

    Log variances are matched in mean and variance. Where they scatter no more than chance makes them, the groups share one
    variance, and the prior's degrees of freedom are infinite.
    """
    value, freedom = np.asarray(variances, dtype="float64"), np.asarray(df, dtype="float64")
    usable = (freedom > 0) & (value > 0)
    value, freedom = value[usable], freedom[usable]
    if len(value) < 2:
        return None
    log = np.log(value) - special.digamma(freedom / 2) + np.log(freedom / 2)
    centre = float(log.mean())
    excess = float(log.var(ddof=1) - special.polygamma(1, freedom / 2).mean())
    if excess <= 0:
        return Prior(float(np.exp(centre)), np.inf)
    prior_df = 2 * _inverse_trigamma(excess)
    return Prior(float(np.exp(centre + special.digamma(prior_df / 2) - np.log(prior_df / 2))), prior_df)


def _inverse_trigamma(value: float) -> float:
    """x with trigamma(x) = value, by Newton's method on 1 / trigamma (Smyth 2004, appendix), which it nearly is linear in."""
    x = 0.5 + 1 / value
    for _ in range(50):
        trigamma = float(special.polygamma(1, x))
        step = trigamma * (1 - trigamma / value) / float(special.polygamma(2, x))
        x += step
        if -step / x < 1e-10:
            break
    return x


def shared_baseline_df(groups: Sequence[object], df: npt.ArrayLike) -> float:
    """Degrees of freedom of a pooled variance where the differences of a group share their baseline.

    Differences a_k - b of K arms with one baseline correlate by 1/2. Their pooled variance has the degrees of freedom of
    (sum of eigenvalues)^2 / sum of squared eigenvalues = 4 K / (K + 3) arms instead of K.
    """
    freedom = np.asarray(df, dtype="float64")
    total = 0.0
    for group in set(groups):
        own = freedom[[other == group for other in groups]]
        own = own[own > 0]
        if len(own):
            total += 4 * len(own) / (len(own) + 3) * float(own.mean())
    return total


@dataclass(frozen=True)
class Inference:
    """Of each estimate: standard error, degrees of freedom, interval at `LEVEL`, two-sided p-value; NaN where unknown.

    An estimate from one seed has no p-value, and its interval (where examples are known) covers the choice of test examples
    alone.
    """

    se: Floats
    df: Floats
    low: Floats
    high: Floats
    p: Floats


def infer(
    estimates: npt.ArrayLike,
    seed_variances: npt.ArrayLike,
    *,
    seeds: npt.ArrayLike,
    example_variances: npt.ArrayLike,
    groups: Sequence[object] | None = None,
) -> Inference:
    """Intervals and p-values of paired differences.

    Args:
        estimates: mean differences over seeds.
        seed_variances: sample variances of the differences over seeds (NaN below two seeds).
        seeds: how many.
        example_variances: variances of the mean differences under resampling of examples (NaN: examples unknown).
        groups: which estimates share a baseline. If given, variances over seeds are moderated by what all cells together say
            about them; their degrees of freedom then never exceed the pooled ones.
    """
    value = np.asarray(estimates, dtype="float64")
    count = np.asarray(seeds, dtype="float64")
    variance = np.asarray(seed_variances, dtype="float64").copy()
    examples = np.asarray(example_variances, dtype="float64")
    df = np.where(np.isnan(variance), 0.0, count - 1)
    if groups is not None and (prior := variance_prior(np.nan_to_num(variance), df)) is not None:
        pooled = shared_baseline_df(list(groups), df)
        several = df > 0
        variance[several] = _moderated(variance[several], df[several], prior)
        df = np.where(several, np.minimum(df + prior.df, max(pooled, 1.0)), 0.0)
    of_seeds = np.where(df > 0, variance / np.maximum(count, 1), 0.0)
    of_examples = np.where(np.isnan(examples), 0.0, examples)
    known = (df > 0) | ~np.isnan(examples)
    total = of_seeds + of_examples
    with np.errstate(divide="ignore", invalid="ignore"):
        freedom = np.where(of_seeds > 0, df * (total / of_seeds) ** 2, np.inf)
        se = np.where(known, np.sqrt(total), np.nan)
        half = stats.t.ppf(0.5 + LEVEL / 2, freedom) * se
        statistic = np.abs(value) / se
    testable = (df > 0) & (se > 0)
    p = np.where(testable, 2 * stats.t.sf(statistic, freedom), np.nan)
    freedom = np.where(known, freedom, np.nan)
    return Inference(se, freedom, value - half, value + half, p)


def _moderated(variance: Floats, df: Floats, prior: Prior) -> Floats:
    if np.isinf(prior.df):
        return np.full_like(variance, prior.variance)
    return (prior.df * prior.variance + df * variance) / (prior.df + df)


def example_variance(draws: Floats) -> float:
    """Variance of the mean over seeds under resampling of examples; `draws`: seeds by resamples, of paired differences.

    The interaction of seeds with examples is also in the spread over seeds, and is taken out here. With one seed there is no
    telling it apart and it stays.
    """
    seeds = len(draws)
    mean = draws.mean(axis=0)
    main = float(mean.var(ddof=1))
    if seeds < 2:
        return main
    interaction = float((draws - mean).var(axis=1, ddof=1).sum()) / (seeds * (seeds - 1))
    return max(main - interaction, 0.0)


def probability_above_zero(estimate: float, se: float, df: float) -> float:
    """How probable it is that the true difference is positive: Student's t around the estimate, under a flat prior."""
    if not np.isfinite(se) or se <= 0:
        return float("nan")
    return float(stats.t.cdf(estimate / se, df))
