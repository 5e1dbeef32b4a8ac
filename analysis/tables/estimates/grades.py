"""Grades of estimators of transfer: would their order of intermediate tasks have found the best ones?

Beside each grade stands that of a random order, whose expectation is exact. The choice "none" is not ranked: every study runs
it, as the baseline of all gains.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from analysis.store.frames import StudyFrames
from analysis.tables.estimates.regret import expected_best, rank_correlations, regret
from analysis.tables.gains import gains
from analysis.tables.inference import ALPHA, LEVEL, Floats, holm

KS = (1, 3)
FEWEST_CHOICES = 3  # below three intermediate tasks there is hardly an order
RESAMPLES = 2000
MOST_PERMUTATIONS = 5040  # all orders of seven; of more intermediate tasks so many random ones
_UNIT = ["size", "target"]
_GRADES = {
    "estimator": "str",
    "size": "str",
    "target": "str",
    "choices": "int64",
    **{f"{name}_{k}": "float64" for k in KS for name in ("regret", "random_regret", "points", "random_points")},
    "spearman": "float64",
    "kendall": "float64",
}
_MEASURES = tuple(name for name, dtype in _GRADES.items() if dtype == "float64")


def measured_scores(frames: StudyFrames) -> pd.DataFrame:
    """A study's mean scores by size, target and intermediate task, at the default learning rates, as `grades` takes them.

    `seeds` is the number of runs behind a score. With one, the best of several scores is partly the luckiest: any order's
    regret, a random one's as well, is larger than among the true means. Without what is no transfer (contamination flags),
    collapsed runs, and cells without a baseline of the same seed.
    """
    table = gains(frames)
    table = table[table["gain"].notna() & (table["mark"] == "")]
    renamed = table.rename(columns={"task": "target", "n": "seeds"})
    return renamed[[*_UNIT, "intermediate", "score", "seeds"]].reset_index(drop=True)


def grades(estimates: pd.DataFrame, measured: pd.DataFrame) -> pd.DataFrame:
    """One row per estimator, size and target.

    Args:
        estimates: columns estimator, size, target, intermediate, value; NaN where there is none.
        measured: columns size, target, intermediate, score; the score in percent.

    Only intermediate tasks with both are counted (`choices`), and targets with at least `FEWEST_CHOICES`. `regret_k` is
    relative, `points_k` the same in points of score; `random_` are the expectations of a random order.
    """
    rows = []
    for (estimator, size, target), scores, values in _pairs(estimates, measured):
        row: dict[str, object] = {"estimator": estimator, "size": size, "target": target, "choices": len(scores)}
        for name, given in (("", values), ("random_", np.zeros(len(values)))):
            for k in KS:
                row[f"{name}regret_{k}"] = regret(scores, given, k)
                row[f"{name}points_{k}"] = float(scores.max()) - expected_best(scores, given, k)
        row["spearman"], row["kendall"] = rank_correlations(scores, values)
        rows.append(row)
    return pd.DataFrame(rows, columns=list(_GRADES)).astype(_GRADES)


def summary(estimates: pd.DataFrame, measured: pd.DataFrame, *, seed: int = 0) -> pd.DataFrame:
    """One row per estimator: means over sizes and targets of the measures of `grades`, with 95% intervals `_low` and `_high`.

    Intervals resample targets (percentile bootstrap; NaN with one target): they say how much a mean depends on them. With a
    handful of targets they are too narrow to claim anything. Claims rest on `p`: the chance that an estimator which knows
    nothing has a mean Spearman correlation at least as high. It permutes the names of the intermediate tasks, in all targets
    alike, as an estimator that favours one task favours it for every target. `p_holm` is corrected for the number of
    estimators, and `better`: it is below 5%.
    """
    table = grades(estimates, measured).sort_values(
        _UNIT, kind="stable"
    )  # intervals do not depend on the order of rows
    random = np.random.default_rng(seed)
    rows = []
    for estimator in dict.fromkeys(estimates["estimator"]):
        group = table[table["estimator"] == estimator]
        if group.empty:
            continue
        values = group[list(_MEASURES)].to_numpy(dtype="float64")
        row: dict[str, object] = {"estimator": estimator, "targets": len(group)}
        row |= dict(zip(_MEASURES, _means(values), strict=True))
        low, high = _bootstrap(values, random)
        row |= {f"{name}_low": value for name, value in zip(_MEASURES, low, strict=True)}
        row |= {f"{name}_high": value for name, value in zip(_MEASURES, high, strict=True)}
        own = estimates[estimates["estimator"] == estimator]
        row["p"] = _permutation_p(own, measured, random)
        rows.append(row)
    shown = pd.DataFrame(rows, columns=_summary_columns())
    shown["p_holm"] = holm(shown["p"].astype("float64"))
    shown["better"] = shown["p_holm"] < ALPHA
    return shown


def _summary_columns() -> list[str]:
    return ["estimator", "targets", *(f"{name}{end}" for name in _MEASURES for end in ("", "_low", "_high")), "p"]


def _pairs(estimates: pd.DataFrame, measured: pd.DataFrame) -> Iterator[tuple[tuple[str, str, str], Floats, Floats]]:
    """Scores and estimates of the choices that have both, by estimator, size and target."""
    both = estimates.dropna(subset=["value"]).merge(
        measured.dropna(subset=["score"]), on=[*_UNIT, "intermediate"], how="inner"
    )
    for (estimator, size, target), group in both.groupby(["estimator", *_UNIT], sort=False):
        if len(group) >= FEWEST_CHOICES:
            scores, values = (group[name].to_numpy(dtype="float64") for name in ("score", "value"))
            yield (str(estimator), str(size), str(target)), scores, values


def _means(values: Floats, axis: int = 0) -> Floats:
    """Means along the axis without NaN; NaN where there is nothing else."""
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        means: Floats = np.where(known, values, 0.0).sum(axis=axis) / known.sum(axis=axis)
    return means


def _bootstrap(values: Floats, random: np.random.Generator) -> tuple[Floats, Floats]:
    count, measures = values.shape
    if count < 2:
        return np.full(measures, np.nan), np.full(measures, np.nan)
    drawn = random.integers(count, size=(RESAMPLES, count))
    means = _means(values[drawn], axis=1)
    known = np.isfinite(means).all(axis=0)
    means[:, ~known] = 0.0
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return np.where(known, low, np.nan), np.where(known, high, np.nan)


@dataclass(frozen=True)
class _Ranked:
    """A target's choices, as numbers of intermediate tasks, with standardised ranks: their product's mean is Spearman's rho."""

    choices: np.ndarray
    of_scores: Floats
    of_estimates: Floats

    def correlation(self, places: np.ndarray) -> float:
        """Spearman's rho after the choices exchanged their estimates, in the order that the permutation puts them."""
        order = np.argsort(places[self.choices], kind="stable")
        return float(np.mean(self.of_scores * self.of_estimates[order]))


def _permutation_p(own: pd.DataFrame, measured: pd.DataFrame, random: np.random.Generator) -> float:
    """The share of permutations with a mean correlation at least as high as the estimator's, its own among them.

    NaN without a target whose scores differ.
    """
    names = sorted(set(own["intermediate"]))
    ranked = _ranked(own, measured, {name: number for number, name in enumerate(names)})
    if not ranked:
        return math.nan
    observed = np.mean([target.correlation(np.arange(len(names))) for target in ranked])
    null = [np.mean([target.correlation(places) for target in ranked]) for places in _permutations(len(names), random)]
    return float(np.mean(np.array(null) >= observed - 1e-9))


def _ranked(own: pd.DataFrame, measured: pd.DataFrame, numbers: Mapping[str, int]) -> list[_Ranked]:
    both = own.dropna(subset=["value"]).merge(measured.dropna(subset=["score"]), on=[*_UNIT, "intermediate"])
    both = both.assign(number=both["intermediate"].map(dict(numbers))).sort_values("number")
    ranked = []
    for _, group in both.groupby(_UNIT, sort=False):
        scores, values = (_standard_ranks(group[name].to_numpy(dtype="float64")) for name in ("score", "value"))
        if len(group) >= FEWEST_CHOICES and scores.any():
            ranked.append(_Ranked(group["number"].to_numpy(dtype="int64"), scores, values))
    return ranked


def _standard_ranks(values: Floats) -> Floats:
    """Ranks with mean 0 and variance 1, ties sharing theirs; zeros if all are tied."""
    ranks = stats.rankdata(values)
    spread = float(ranks.std())
    return (ranks - ranks.mean()) / (spread or 1.0)


def _permutations(count: int, random: np.random.Generator) -> Iterator[np.ndarray]:
    """All orders of so many, or the identity and random ones."""
    if math.factorial(count) <= MOST_PERMUTATIONS:
        yield from map(np.array, itertools.permutations(range(count)))
        return
    yield np.arange(count)
    for _ in range(MOST_PERMUTATIONS - 1):
        yield random.permutation(count)
