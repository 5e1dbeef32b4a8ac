"""Accuracy and speed against size: power laws and saturating curves, with intervals and leave-one-out error."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy import stats

from analysis.store.counted import chosen_trials
from analysis.store.examples import Floats
from analysis.store.frames import NONE, StudyFrames, cascade_in, frame, rows_where, zero_shot
from analysis.store.names import METRIC_NAMES
from analysis.tables.inference import LEVEL
from analysis.tables.tradeoff import best_trials, kinds_of_hardware, valid

Over = Literal["params_body_m", "gflops_per_sample"]
SCORE = "test score (%)"
FEWEST = 4  # points needed for a curve
_EXPONENTS = np.linspace(0.01, 4.0, 400)

_POINTS = {
    "what": "str",
    "series": "str",
    "size": "str",
    "params_body_m": "float64",
    "gflops_per_sample": "float64",
    "value": "float64",
    "sd": "float64",
    "n": "int64",
}


@dataclass(frozen=True)
class Fit:
    """A curve fitted to the points of one series.

    `form`: "power", y = a x^b; or "saturating", y = c - a x^-b. `intervals` at 95%, NaN where undetermined. `leave_one_out` is
    the root mean square error, in y's unit, of predicting each point from the others.
    """

    form: str
    parameters: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    leave_one_out: float
    points: int
    predict: Callable[[Floats], Floats]
    band: Callable[[Floats], tuple[Floats, Floats]]  # ends of the 95% interval of the curve


def fit_power(x: Floats, y: Floats) -> Fit | None:
    """Fit y = a x^b by least squares on logarithms, so errors are relative; None below `FEWEST` points or for y <= 0.

    Intervals of slope and curve are those of simple linear regression; the curve's is symmetric on the log scale.
    """
    if len(x) < FEWEST or (y <= 0).any() or len(np.unique(x)) < 3:
        return None
    log_x, log_y = np.log(x), np.log(y)
    slope, intercept, residual_se, spread = _line(log_x, log_y)
    t = float(stats.t.ppf(0.5 + LEVEL / 2, len(x) - 2))
    slope_half = t * residual_se / math.sqrt(spread)
    intercept_half = t * residual_se * math.sqrt(1 / len(x) + log_x.mean() ** 2 / spread)

    def predict(at: Floats) -> Floats:
        return np.exp(intercept + slope * np.log(at))

    def band(at: Floats) -> tuple[Floats, Floats]:
        half = t * residual_se * np.sqrt(1 / len(x) + (np.log(at) - log_x.mean()) ** 2 / spread)
        return predict(at) * np.exp(-half), predict(at) * np.exp(half)

    def refitted(others: Floats, values: Floats, at: float) -> float:
        new_slope, new_intercept, _, _ = _line(np.log(others), np.log(values))
        return float(np.exp(new_intercept + new_slope * np.log(at)))

    return Fit(
        "power",
        {"a": math.exp(intercept), "b": slope},
        {
            "a": (math.exp(intercept - intercept_half), math.exp(intercept + intercept_half)),
            "b": (slope - slope_half, slope + slope_half),
        },
        _leave_one_out(x, y, refitted),
        len(x),
        predict,
        band,
    )


def fit_saturating(x: Floats, y: Floats, *, ceiling: float = math.inf) -> Fit | None:
    """Fit y = c - a x^-b by least squares, a power-law approach to a limit c <= `ceiling`; None below `FEWEST` points.

    For each b on a grid from 0.01 to 4 the other two parameters are linear (variable projection), so no start value is needed.
    The interval of b comes from its profile likelihood (F test; an end beyond the grid is infinite, or 0), those of c and
    of the curve from the delta method, cut off at `ceiling`. With as few points as a study has sizes, they are approximate
    and wide.
    """
    if len(x) < FEWEST or len(np.unique(x)) < FEWEST:
        return None
    unit = float(np.exp(np.log(x).mean()))  # keeps x^-b near 1
    residuals, solutions = _profile(x / unit, y, ceiling)
    chosen = int(residuals.argmin())
    b, (c, a) = float(_EXPONENTS[chosen]), solutions[chosen]
    df = len(x) - 3
    noise = float(residuals[chosen]) / df
    t = float(stats.t.ppf(0.5 + LEVEL / 2, df))

    def gradient(at: Floats) -> Floats:
        z = (at / unit) ** -b
        return np.column_stack([np.ones_like(at), -z, a * np.log(at / unit) * z])

    inverse = np.linalg.pinv(gradient(x).T @ gradient(x)) * noise

    def predict(at: Floats) -> Floats:
        return c - a * (at / unit) ** -b

    def band(at: Floats) -> tuple[Floats, Floats]:
        slopes = gradient(at)
        half = t * np.sqrt(np.maximum(np.einsum("ij,jk,ik->i", slopes, inverse, slopes), 0))
        low: Floats = predict(at) - half
        return low, np.minimum(predict(at) + half, ceiling)

    def refitted(others: Floats, values: Floats, at: float) -> float:
        losses, fitted = _profile(others / unit, values, ceiling)
        best = int(losses.argmin())
        return float(fitted[best][0] - fitted[best][1] * (at / unit) ** -_EXPONENTS[best])

    c_half = t * math.sqrt(max(float(inverse[0, 0]), 0.0))
    return Fit(
        "saturating",
        {"c": float(c), "a": float(a) * unit**b, "b": b},
        {
            "c": (c - c_half, min(c + c_half, ceiling)),
            "a": (math.nan, math.nan),
            "b": _exponent_interval(residuals, df),
        },
        _leave_one_out(x, y, refitted),
        len(x),
        predict,
        band,
    )


def _exponent_interval(residuals: Floats, df: int) -> tuple[float, float]:
    """Profile likelihood interval (F test) from the residual sum of squares per exponent of the grid."""
    limit = float(residuals.min()) * (1 + float(stats.f.ppf(LEVEL, 1, df)) / df)
    inside = np.flatnonzero(residuals <= limit)
    low = 0.0 if inside[0] == 0 else float(_EXPONENTS[inside[0]])
    return low, math.inf if inside[-1] == len(_EXPONENTS) - 1 else float(_EXPONENTS[inside[-1]])


def _line(x: Floats, y: Floats) -> tuple[float, float, float, float]:
    """Slope, intercept, residual standard error (NaN for two points) and sum of squares of x about its mean."""
    spread = float(((x - x.mean()) ** 2).sum())
    slope = float(((x - x.mean()) * (y - y.mean())).sum()) / spread
    intercept = float(y.mean()) - slope * float(x.mean())
    left = float(((y - intercept - slope * x) ** 2).sum())
    return slope, intercept, math.sqrt(left / (len(x) - 2)) if len(x) > 2 else math.nan, spread


def _profile(x: Floats, y: Floats, ceiling: float) -> tuple[Floats, Floats]:
    """Residual sum of squares and (c, a) of the best fit with c <= ceiling, for each exponent of the grid."""
    z = -(x[None, :] ** -_EXPONENTS[:, None])
    centred = z - z.mean(axis=1, keepdims=True)
    a = (centred * (y - y.mean())).sum(axis=1) / (centred**2).sum(axis=1)
    c = y.mean() - a * z.mean(axis=1)
    if np.isfinite(ceiling):
        bound = (z * (y - ceiling)).sum(axis=1) / (z**2).sum(axis=1)
        a, c = np.where(c > ceiling, bound, a), np.minimum(c, ceiling)
    residuals = ((y - c[:, None] - a[:, None] * z) ** 2).sum(axis=1)
    return residuals, np.column_stack([c, a])


def _leave_one_out(x: Floats, y: Floats, predict: Callable[[Floats, Floats, float], float]) -> float:
    errors = []
    for left in range(len(x)):
        others = np.arange(len(x)) != left
        errors.append(predict(x[others], y[others], float(x[left])) - float(y[left]))
    return float(np.sqrt(np.mean(np.square(errors))))


def scaling_points(frames: StudyFrames) -> pd.DataFrame:
    """Measured scores and speeds, one row per size and series, in the unit that `what` names.

    `SCORE`: series "none" (the trial best on dev without an intermediate task) and "best" (best on dev of all); mean and spread
    over the trial and its complete repeats, without English where that is recorded. "p50 latency (ms)" and "throughput
    (samples/s)": one series per hardware and serving variant, VALID results only. `gflops_per_sample` counts 2 operations per
    body parameter and token of a mean query of the timed task (Kaplan et al. 2020, section 2.1; attention, quadratic in the
    length, is left out); NaN where the benchmark recorded no query lengths.
    """
    body = frames.body_m
    tokens = valid(frames.benchmarks).groupby("size")["mean_pieces"].mean().to_dict()
    rows: list[dict[str, Any]] = []
    for what, series, size, measured in [*_scores(frames), *_speeds(frames)]:
        values = pd.Series(measured, dtype="float64").dropna()
        if size not in body or values.empty:
            continue
        flops = 2 * body[size] * 1e6 * tokens.get(size, math.nan) / 1e9
        row = {"what": what, "series": series, "size": size, "params_body_m": body[size], "gflops_per_sample": flops}
        rows.append(row | {"value": values.mean(), "sd": values.std(ddof=1), "n": len(values)})
    return frame(rows, _POINTS)


def _scores(frames: StudyFrames) -> Iterator[tuple[str, str, str, list[float]]]:
    """What, series, size and the scores of the trial and its complete repeats."""
    best = chosen_trials(frames)
    complete = frames.trials.assign(score=zero_shot(frames.trials)[1])
    complete = complete[complete["outcome"] == "complete"]
    for series, table in (("none", best[best["intermediate"] == NONE]), ("best", best_trials(frames))):
        for row in table.to_dict("records"):
            trials = complete[complete["size"] == row["size"]]
            own = trials[(trials["trial_id"] == row["trial_id"]) | (trials["repeats"] == row["trial_id"])]
            finished = own[own["targets_finished"] == own["targets_finished"].max()]
            yield SCORE, series, row["size"], list(finished["score"])


def _speeds(frames: StudyFrames) -> Iterator[tuple[str, str, str, list[float]]]:
    """What, series, size and the one value measured."""
    benchmarks = valid(frames.benchmarks)
    benchmarks = rows_where(benchmarks, (not cascade_in(row) for row in benchmarks.to_dict("records")))
    several = len(kinds_of_hardware(benchmarks)) > 1
    for (hardware, variant), group in benchmarks.groupby(["hardware", "variant"], sort=False):
        series = f"{variant} on {hardware}" if several else str(variant)
        for row in group.to_dict("records"):
            yield METRIC_NAMES["p50_ms"], series, row["size"], [row["p50_ms"]]
            yield METRIC_NAMES["throughput_sps"], series, row["size"], [row["throughput_sps"]]


def scaling(frames: StudyFrames, *, over: Over = "params_body_m") -> dict[tuple[str, str, str], Fit]:
    """Fits of `scaling_points` by (what, series, form), over body parameters (millions) or operations per sample (GFLOP).

    Accuracy: a power law of the error (100 - score), and a saturating curve of the score. Speed: a power law. A series of
    fewer than four sizes has no fit. Published scores are not used.
    """
    fits: dict[tuple[str, str, str], Fit] = {}
    for (what, series), group in scaling_points(frames).dropna(subset=[over]).groupby(["what", "series"], sort=False):
        x = group[over].to_numpy(dtype="float64")
        y = group["value"].to_numpy(dtype="float64")
        is_score = what == SCORE
        candidates = [fit_power(x, 100 - y), fit_saturating(x, y, ceiling=100.0)] if is_score else [fit_power(x, y)]
        for fit in candidates:
            if fit is not None:
                fits[str(what), str(series), fit.form] = _of_score(fit) if is_score and fit.form == "power" else fit
    return fits


def _of_score(fit: Fit) -> Fit:
    """The curve of the score that belongs to a power law of the error."""

    def band(at: Floats) -> tuple[Floats, Floats]:
        low, high = fit.band(at)
        return 100 - high, 100 - low

    return Fit(
        fit.form,
        fit.parameters,
        fit.intervals,
        fit.leave_one_out,
        fit.points,
        lambda at: 100 - fit.predict(at),
        band,
    )
