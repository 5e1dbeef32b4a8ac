"""Uncertainty and power of differences between trained models: few seeds, one test set, many comparisons.

A difference between two ways of training has two sources of error: the seed and the test examples. Resampling three seeds with
replacement badly understates the first: a nominal 95% percentile interval covers about 68% (measured in
`tests/analysis/test_inference.py`). So the two are added: the spread over paired seeds, with Student's t for its few degrees of
freedom, and the paired bootstrap over examples (`analysis.store.examples`), whose variance counts as known.

Sources: randomized blocks, with seeds as blocks and ways of training as treatments (Fisher 1935; Dunnett 1955 for treatments
against one control); the sum of a Student's t and a normal error (the Behrens-Fisher distribution with one variance known;
Fisher 1935, "The fiducial argument"); crossed effects of seeds and examples, whose interaction is in both parts and is counted
once (Owen 2007, "The pigeonhole bootstrap"); Holm 1979 for multiple comparisons; power as the chance that a true difference is
told (Cohen 1988, chapter 2).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy import interpolate, optimize, special, stats

Floats = npt.NDArray[np.float64]
LEVEL = 0.95
ALPHA = 1 - LEVEL
POWER = 0.8  # the usual chance of telling a true difference (Cohen 1988)
MOST_SEEDS = 1000  # more are not sought
BISECTIONS = 40


def holm(p_values: npt.ArrayLike) -> Floats:
    """Holm's step-down adjusted p-values: rejecting those below alpha keeps the family-wise error rate at alpha.

    A family is one table; nothing is controlled across tables. NaN marks a comparison that was not tested: it stays NaN and
    does not count.
    """
    p = np.asarray(p_values, dtype="float64")
    adjusted = np.full(p.shape, np.nan)
    known = np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known], kind="stable")]
    stepped = p[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(stepped), 1.0) if len(order) else stepped
    return adjusted


def block_variances(differences: Floats) -> tuple[Floats, float]:
    """Variances over seeds of K treatments' differences to one control, and their degrees of freedom.

    `differences`: treatments by seeds, none missing, at least two seeds S. The control is one arm of a randomized block design
    whose mean square error has K (S - 1) degrees of freedom; a row alone has S - 1. A row whose own variance is above twice
    that error keeps its own, so a treatment that makes training erratic does not look stable. In simulations of 400 studies
    with 60 comparisons of three seeds, coverage was 95 to 97% and the family-wise error 3 to 5%.
    """
    pooled, df = pooled_variance(differences)
    return np.maximum(differences.var(axis=1, ddof=1), pooled), df


def pooled_variance(differences: Floats) -> tuple[float, float]:
    """Variance over seeds of a difference of two arms of that design, and its degrees of freedom."""
    treatments, seeds = differences.shape
    arms = np.vstack([np.zeros(seeds), differences])
    residuals = arms - arms.mean(axis=1, keepdims=True) - arms.mean(axis=0) + arms.mean()
    df = float(treatments * (seeds - 1))
    return 2 * float((residuals**2).sum()) / df, df


def unpaired_variance(first: Floats, second: Floats) -> tuple[float, float]:
    """Variance of the difference of two means over seeds that do not pair, and its degrees of freedom (Welch 1947).

    NaN unless both have two seeds.
    """
    if min(len(first), len(second)) < 2:
        return math.nan, math.nan
    parts = [float(values.var(ddof=1)) / len(values) for values in (first, second)]
    total = sum(parts)
    spread = sum(part**2 / (len(values) - 1) for part, values in zip(parts, (first, second), strict=True))
    return total, total**2 / spread if spread > 0 else math.nan


@dataclass(frozen=True)
class Inference:
    """Standard error, interval at `LEVEL`, two-sided p-value and probability of a positive difference; NaN where unknown.

    An estimate from one seed has no p-value. Its interval and probability (`above_zero`: under a flat prior), where examples
    are known, cover the choice of test examples alone.
    """

    se: Floats
    low: Floats
    high: Floats
    p: Floats
    above_zero: Floats


def infer(
    estimates: npt.ArrayLike,
    seed_variances: npt.ArrayLike,
    *,
    df: npt.ArrayLike,
    seeds: npt.ArrayLike,
    example_variances: npt.ArrayLike,
) -> Inference:
    """Intervals and p-values of paired differences.

    The error is the sum of a Student's t over seeds and a normal over examples (`exceeds`). An interval excludes zero where its
    p is below 5%. Satterthwaite's single t with approximate degrees of freedom would reject too often where few seeds happen to
    agree: with two seeds and no pooling 12% instead of 5%, and 80 times too often at 0.05%, the tail that Holm's correction
    looks at. This one rejects at most as often as stated (`tests/analysis/test_inference.py`).

    Args:
        estimates: mean differences over seeds.
        seed_variances: variances of the differences over seeds (NaN below two seeds).
        df: their degrees of freedom.
        seeds: number of seeds each estimate averages.
        example_variances: variances of the mean differences under resampling of examples (NaN: examples unknown).
    """
    value = np.asarray(estimates, dtype="float64")
    count = np.asarray(seeds, dtype="float64")
    variance = np.asarray(seed_variances, dtype="float64")
    examples = np.asarray(example_variances, dtype="float64")
    repeated = ~np.isnan(variance)
    of_seeds = np.where(repeated, variance / np.maximum(count, 1), 0.0)
    total = of_seeds + np.nan_to_num(examples)
    se = np.where(repeated | ~np.isnan(examples), np.sqrt(total), np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(total > 0, of_seeds / total, 0.0)
        distance = np.where(se > 0, np.abs(value) / se, np.nan)
    freedom = np.where(repeated, np.asarray(df, dtype="float64"), 1.0)
    half = critical_distance(ALPHA, share, freedom) * se
    p = exceeds(distance, share, freedom)
    above = np.where(value < 0, p / 2, 1 - p / 2)
    return Inference(se, value - half, value + half, np.where(repeated, p, np.nan), above)


def exceeds(distance: Floats, share: Floats, df: Floats) -> Floats:
    """Probability that the error is further from zero than so many standard errors, on either side; NaN where that is.

    The error is `sqrt(share) T + sqrt(1 - share) Z`, of a Student's t with `df` degrees of freedom and a standard normal.
    """
    p = 2 * np.where(share >= 1, special.stdtr(df, -distance), special.ndtr(-distance))
    if (mixed := (share > 0) & (share < 1)).any():
        p[mixed] = _beyond(distance[mixed], *_mixture(share[mixed], df[mixed]))
    return p


def critical_distance(alpha: float, share: Floats, df: Floats) -> Floats:
    """The standard errors that `exceeds` gives the probability `alpha`."""
    distance = np.where(share >= 1, stats.t.isf(alpha / 2, df), stats.norm.isf(alpha / 2))
    if (mixed := (share > 0) & (share < 1)).any():
        part, freedom = share[mixed], df[mixed]
        mixture = _mixture(part, freedom)
        # Each part exceeds its term of this with alpha / 2, so that their sum exceeds it with alpha at most.
        high = np.sqrt(part) * stats.t.isf(alpha / 4, freedom) + np.sqrt(1 - part) * stats.norm.isf(alpha / 4)
        low = np.zeros_like(high)
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            more = _beyond(middle, *mixture) > alpha
            low, high = np.where(more, middle, low), np.where(more, high, middle)
        distance[mixed] = high
    return distance


def _beyond(distance: Floats, spreads: Floats, weights: Floats) -> Floats:
    """Probability that a mixture of normals is further from zero than that, by row."""
    return np.asarray(2 * (special.ndtr(-distance[:, None] / spreads) * weights).sum(axis=1))


def _mixture(share: Floats, df: Floats) -> tuple[Floats, Floats]:
    """The error as a mixture of normals, by the chi of T's denominator: their standard deviations, and their weights."""
    freedom, row = np.unique(df, return_inverse=True)
    nodes, weights = _unit_interval()
    low, high = (np.sqrt(stats.chi2.ppf(q, freedom))[:, None] for q in (1e-14, 1 - 1e-14))
    chi = low + (high - low) * nodes**2  # densest at the low end, where t has its tails
    density = 2 * chi * stats.chi2.pdf(chi**2, freedom[:, None]) * 2 * nodes * (high - low)
    of_t = np.sqrt(freedom)[:, None] / chi
    return np.sqrt(share[:, None] * of_t[row] ** 2 + 1 - share[:, None]), (density * weights)[row]


@lru_cache(maxsize=1)
def _unit_interval() -> tuple[Floats, Floats]:
    """Nodes from 0 to 1 and weights of Gauss and Legendre's quadrature."""
    nodes, weights = np.polynomial.legendre.leggauss(128)
    return (nodes + 1) / 2, weights / 2


def example_variance(draws: Floats) -> float:
    """Variance of the mean over seeds under resampling of examples; `draws`: seeds by resamples, of paired differences.

    The interaction of seeds with examples is also in the spread over seeds, so it is subtracted here. With one seed it cannot
    be separated and stays.
    """
    seeds = len(draws)
    mean = draws.mean(axis=0)
    main = float(mean.var(ddof=1))
    if seeds < 2:
        return main
    interaction = float((draws - mean).var(axis=1, ddof=1).sum()) / (seeds * (seeds - 1))
    return max(main - interaction, 0.0)


def power_of(
    difference: float,
    *,
    seed_variance: float,
    seeds: int,
    example_variance: float = 0.0,
    treatments: int = 1,
    comparisons: int = 1,
) -> float:
    """Probability that `infer` calls a true `difference` different from zero at 5%; NaN below two seeds.

    Args:
        difference: of the means, in the unit whose square the variances have.
        seed_variance: true variance of the paired difference over seeds.
        seeds: that are paired.
        example_variance: of the mean difference over test examples, which further seeds do not reduce.
        treatments: ways of training compared with the same control on the same seeds, pooled as in `block_variances`.
        comparisons: in the family. Each is tested at 5% / comparisons (Bonferroni); Holm's correction tells at least as many.
    """
    total = seed_variance / seeds + example_variance
    if seeds < 2 or not total > 0:
        return math.nan
    return _power(abs(difference) / math.sqrt(total), seed_variance / seeds / total, seeds, treatments, comparisons)


def detectable(
    seed_variance: float,
    *,
    seeds: int,
    example_variance: float = 0.0,
    treatments: int = 1,
    comparisons: int = 1,
    power: float = POWER,
) -> float:
    """The smallest true difference told with probability `power`; arguments as of `power_of`, NaN where that is."""
    total = seed_variance / seeds + example_variance if seeds else math.nan
    if seeds < 2 or not total > 0:
        return math.nan
    share = seed_variance / seeds / total
    return math.sqrt(total) * _detectable_in_se(share, seeds, treatments, comparisons, power)


def seeds_needed(
    difference: float,
    *,
    seed_variance: float,
    example_variance: float = 0.0,
    treatments: int = 1,
    comparisons: int = 1,
) -> int | None:
    """The fewest seeds that tell a true difference with probability `POWER`; other arguments as of `power_of`.

    None where `MOST_SEEDS` do not: then the test examples hide it, and only more of these help (`examples_factor`).
    """

    def told(seeds: int) -> bool:
        least = detectable(
            seed_variance,
            seeds=seeds,
            example_variance=example_variance,
            treatments=treatments,
            comparisons=comparisons,
        )
        return not least > difference  # nothing varies: two seeds tell any difference

    few, enough = 1, 2
    while not told(enough):
        if enough >= MOST_SEEDS:
            return None
        few, enough = enough, min(2 * enough, MOST_SEEDS)
    while enough - few > 1:
        middle = (few + enough) // 2
        few, enough = (few, middle) if told(middle) else (middle, enough)
    return enough


def examples_factor(difference: float, *, example_variance: float, comparisons: int = 1) -> float:
    """How many times as many test examples it takes at least to tell a true difference with probability `POWER`.

    That is with seeds without limit; a variance over examples is inversely proportional to their number. Below 1, fewer do.
    """
    critical = stats.norm.isf(ALPHA / comparisons / 2) + stats.norm.ppf(POWER)
    return float(example_variance * (critical / difference) ** 2)


@lru_cache(maxsize=256)
def _critical(alpha: float, df: int) -> interpolate.PchipInterpolator:
    """The logarithm of `critical_distance` as a function of the root of the share."""
    roots = np.linspace(0, 1, 129)
    return interpolate.PchipInterpolator(
        roots, np.log(critical_distance(alpha, roots**2, np.full(len(roots), float(df))))
    )


def _power(shift: float, share: float, seeds: int, treatments: int, comparisons: int) -> float:
    """Power at `shift` standard errors, of whose square the seeds have this `share`.

    The estimate is `shift` + Z standard errors. It is told where the estimated variance of the seeds is small enough, whose
    distribution is known given Z, so one integral over Z remains. With one treatment and no examples: the noncentral t.
    """
    normal, weights = _normal_grid()
    ratios, cumulative = _variance_distribution(seeds, treatments)
    estimated = share * ratios + 1 - share  # the square of the estimated standard error, over that of the true one
    of_seeds = np.sqrt(share * ratios / estimated)
    least = np.exp(_critical(ALPHA / comparisons, treatments * (seeds - 1))(of_seeds)) * np.sqrt(estimated)
    return float(weights @ np.interp(np.abs(shift + normal), least, cumulative, left=0.0, right=1.0))


@lru_cache(maxsize=4096)
def _detectable_in_se(share: float, seeds: int, treatments: int, comparisons: int, power: float) -> float:
    highest = 4 * float(np.exp(_critical(ALPHA / comparisons, treatments * (seeds - 1))(1.0))) + 4
    return float(
        optimize.brentq(
            lambda shift: _power(shift, share, seeds, treatments, comparisons) - power, 0.0, highest, xtol=1e-4
        )
    )


@lru_cache(maxsize=1)
def _normal_grid() -> tuple[Floats, Floats]:
    """Standard normal values and their weights; fine enough for the steep distributions of many degrees of freedom."""
    values = np.linspace(-6, 6, 2001)
    weights = np.exp(-(values**2) / 2)
    return values, weights / weights.sum()


@lru_cache(maxsize=256)
def _variance_distribution(seeds: int, treatments: int) -> tuple[Floats, Floats]:
    """Cumulative distribution of an estimate of `block_variances` over its true value.

    With own degrees of freedom a and those of all treatments b, the estimate is max(A / a, (A + B) / b), A and B independent
    chi-squares with a and b - a: the difference in question is one of the orthogonal contrasts that the pooled error sums.
    """
    own, pooled = seeds - 1, treatments * (seeds - 1)
    levels = np.concatenate(
        [np.geomspace(1e-8, 0.02, 50), np.linspace(0.02, 0.98, 300), 1 - np.geomspace(0.02, 1e-8, 50)]
    )
    if treatments == 1:
        return stats.chi2.ppf(levels, own) / own, levels
    ratios = np.unique(np.concatenate([stats.chi2.ppf(levels, df) / df for df in (own, pooled)]))
    nodes, weights = np.polynomial.legendre.leggauss(64)
    # Over the root of A, in which its density has no pole for one degree of freedom.
    first, last = np.sqrt(stats.chi2.ppf([1e-10, 1 - 1e-10], own))
    widths = np.maximum(np.minimum(np.sqrt(own * ratios), last) - first, 0) / 2
    roots = first + widths[:, None] * (nodes + 1)
    of_others = stats.chi2.cdf(pooled * ratios[:, None] - roots**2, pooled - own)
    return ratios, widths * ((stats.chi2.pdf(roots**2, own) * 2 * roots * of_others) @ weights)


def tie_ranks(values: Sequence[float], separated: Callable[[int, int], bool]) -> list[int]:
    """Competition ranks (1, 1, 3 ...) of values, higher is better, in groups that the evidence does not tell apart.

    The best of those without a rank heads a group; all that are not `separated(head, other)` join it, the rest compete on. So
    every value is in one group: ties cannot chain from the best to one that is told from it. A value with a wide interval can
    share a rank with a head while a lower rank goes to a value that is higher and better known.
    """
    ranks = [0] * len(values)
    left = sorted(range(len(values)), key=lambda position: -values[position])
    while left:
        head, *others = left
        rank = len(values) - len(left) + 1
        apart = [other for other in others if separated(head, other)]
        for position in left:
            if position not in apart:
                ranks[position] = rank
        left = apart
    return ranks
