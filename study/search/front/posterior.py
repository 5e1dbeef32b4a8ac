"""What untried choices may score: a Gaussian posterior over the dev scores of all sizes.

A choice's score is its size's level plus effects that are drawn from normal distributions: of the arm and of the learning
rates, each in common to all sizes and of its own in each, and a rest of the choice's own. Rates are alike by the ratio between
them. `SHARES` says how much of the variance each effect has before anything is known. The variance itself, and the share of the
choice's own, which is mostly noise, are those that make the measured scores most likely. This is a Gaussian process with an
additive kernel (Duvenaud et al. 2011, arXiv:1112.4394).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from study.spec.space import Choice

# Of the variance inside a size. Target rates matter most, and rates that suit one size mostly suit the others, since a size's
# `rate_factor` has corrected them.
SHARES = {
    "arm": 1.0,
    "arm of the size": 0.5,
    "target rate": 2.0,
    "target rate of the size": 1.0,
    "intermediate rate of the arm": 0.5,
    "epochs": 0.5,
}
OWN_SHARES = (0.25, 0.5, 1.0, 2.0, 4.0)  # of the choice's own; the one that makes the scores most likely is taken
ALIKE = math.log(2.0)  # rates at a ratio of two correlate by exp(-1/2)
LEAST_SD = 0.5  # percentage points; a difference of one point is noise on dev sets of a few hundred examples

Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class Point:
    """A choice of a size."""

    size: str
    choice: Choice


@dataclass(frozen=True)
class Observed:
    """A dev score in percent; `sd` is the uncertainty of one that was estimated from some of the targets."""

    point: Point
    score: float
    sd: float = 0.0


@dataclass(frozen=True)
class Beliefs:
    """Mean and standard deviation of the score of each point, in percent."""

    mean: Matrix
    sd: Matrix


def posterior(observed: Sequence[Observed], levels: Mapping[str, float], points: Sequence[Point]) -> Beliefs:
    """What the points may score, given what was observed; `levels` are the sizes' scores before anything is known."""
    prior = np.array([levels[point.size] for point in points])
    if not observed:
        return Beliefs(prior, np.full(len(points), 10 * LEAST_SD))
    seen = [entry.point for entry in observed]
    rest = np.array([entry.score - levels[entry.point.size] for entry in observed])
    noise = np.array([entry.sd for entry in observed]) ** 2
    fits = [_fitted(kernel(seen, seen, own=own), rest, noise) for own in OWN_SHARES]
    best = max(range(len(fits)), key=lambda number: fits[number].log_likelihood)
    covariance, variance = fits[best].covariance, fits[best].variance
    between = kernel(points, seen, own=OWN_SHARES[best])
    explained = np.einsum("ij,ji->i", between, np.linalg.solve(covariance, between.T))
    mean = prior + between @ np.linalg.solve(covariance, rest)
    return Beliefs(mean, np.sqrt(variance * np.clip(1.0 - explained, 0.0, 1.0)))


@dataclass(frozen=True)
class _Fit:
    """The variance that makes the scores most likely, their covariance in units of it, and how likely they are."""

    variance: float
    covariance: Matrix
    log_likelihood: float


def _fitted(unit: Matrix, rest: Matrix, noise: Matrix) -> _Fit:
    variance, jitter = LEAST_SD**2, 1e-9 * np.eye(len(rest))
    for _ in range(10):  # a fixed point, as noise is in points and the rest in units of the variance
        covariance = unit + np.diag(noise / variance) + jitter
        variance = max(LEAST_SD**2, float(rest @ np.linalg.solve(covariance, rest)) / len(rest))
    covariance = unit + np.diag(noise / variance) + jitter
    misfit = float(rest @ np.linalg.solve(covariance, rest)) / variance
    _, log_determinant = np.linalg.slogdet(covariance)
    return _Fit(variance, covariance, -0.5 * (misfit + len(rest) * math.log(variance) + float(log_determinant)))


def kernel(rows: Sequence[Point], columns: Sequence[Point], *, own: float) -> Matrix:
    """The correlation of the points' scores: `SHARES` of what they have in common, and `own` of a choice with itself."""

    def same(value: Callable[[Point], object]) -> Matrix:
        numbers: dict[object, int] = {}
        of_rows, of_columns = (
            np.array([numbers.setdefault(value(point), len(numbers)) for point in points]) for points in (rows, columns)
        )
        return (of_rows[:, None] == of_columns[None, :]).astype(np.float64)

    def alike(value: Callable[[Choice], float | None]) -> Matrix:
        """Of rates and lengths, which are alike by their ratio; where both lack one, they are the same."""
        of_rows, of_columns = (
            np.array([math.log(value(point.choice) or 1.0) for point in points]) for points in (rows, columns)
        )
        return np.exp(-0.5 * ((of_rows[:, None] - of_columns[None, :]) / ALIKE) ** 2)

    size, arm = same(lambda point: point.size), same(lambda point: point.choice.intermediate)
    target = alike(lambda choice: choice.lr_target)
    effects = {
        "arm": arm,
        "arm of the size": arm * size,
        "target rate": target,
        "target rate of the size": target * size,
        "intermediate rate of the arm": arm * alike(lambda choice: choice.lr_intermediate),
        "epochs": alike(lambda choice: choice.epochs),
    }
    common = sum((share * effects[name] for name, share in SHARES.items()), np.zeros_like(size))
    return (common + own * size * same(lambda point: point.choice)) / (sum(SHARES.values()) + own)
