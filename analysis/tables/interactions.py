"""Whether the gain of intermediate training changes with model size."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from analysis.store.counted import Cells
from analysis.store.examples import Floats
from analysis.store.frames import StudyFrames, frame
from analysis.tables.averages import mean_example_variance, transfer_pairs
from analysis.tables.inference import ALPHA, LEVEL, holm

_INTERACTIONS = {
    "intermediate": "str",
    "slope": "float64",
    "low": "float64",
    "high": "float64",
    "p": "float64",
    "p_holm": "float64",
    "sizes": "int64",
    "points": "int64",
    "verdict": "str",
}


def interactions(frames: StudyFrames, *, cells: Cells = "default") -> pd.DataFrame:
    """Slope of the mean gain over model size per intermediate task, in points per doubling of the body.

    A line through the mean gains of the sizes over log2 of their body parameters. Each size is weighted by its inverse variance
    over seeds and examples; the scale is estimated from the sizes' distances to the line, with Student's t of sizes - 2 degrees
    of freedom (Knapp and Hartung 2003, without a variance between sizes). Seeds of one size are not separate points, because
    what sets a size apart from the line is common to them. Sizes with the same body are one point.

    The gain averages unflagged targets that every size has, each by its mean of `StudyFrames.judged_by`; the last row, "all",
    also averages intermediate tasks. Where a run lacks some of these cells, either the cell is left out or the run, whichever
    leaves more. `points` counts runs, seeds of a size. `low` and `high` are each row's own 95% interval. `p_holm` is
    corrected over the table, and `verdict` rests on it: "shrinks", "grows" or "unclear". Two sizes give a slope alone.
    """
    body = frames.body_m
    pairs = transfer_pairs(frames, cells=cells)
    pairs = pairs[pairs["size"].isin(body)]
    pairs = pairs.assign(body=pairs["size"].map(body).astype("float64"))
    groups = [*pairs.groupby("intermediate", sort=False), ("all", pairs)]
    rows = [row for name, group in groups if (row := _slope_row(frames, name, group)) is not None]
    if len(rows) == 2:  # one intermediate task: "all" would repeat it
        rows = rows[:1]
    table = frame(rows, _INTERACTIONS)
    table["p_holm"] = holm(table["p"])
    table["verdict"] = [
        ("shrinks" if slope < 0 else "grows") if p < ALPHA else "unclear"
        for slope, p in zip(table["slope"], table["p_holm"], strict=True)
    ]
    return table


def _slope_row(frames: StudyFrames, name: Any, pairs: pd.DataFrame) -> dict[str, Any] | None:
    """The slope of one intermediate task; None where fewer than two bodies have its gain."""
    everywhere = pairs.groupby(["intermediate", "task"])["body"].transform("nunique") == pairs["body"].nunique()
    by_run = pairs[everywhere].pivot_table(
        index=["body", "size", "seed"], columns=["intermediate", "task"], values="difference"
    )
    by_run = max(by_run.dropna(), by_run.dropna(axis="columns"), key=_left)
    means = by_run.mean(axis="columns")
    by_body = means.groupby(level="body")
    if by_body.ngroups < 2:
        return None
    kept = pd.MultiIndex.from_frame(pairs[["intermediate", "task"]]).isin(by_run.columns)
    complete = pairs[everywhere & kept].set_index(["body", "size", "seed"]).loc[means.index].reset_index()
    variances = _point_variances(frames, means, complete)
    x, y = np.log2(by_body.mean().index.to_numpy(dtype="float64")), by_body.mean().to_numpy(dtype="float64")
    slope, low, high, p = _slope(x, y, 1 / variances)
    row = {"intermediate": name, "slope": slope, "low": low, "high": high, "p": p}
    return row | {"sizes": len(x), "points": len(means), "verdict": ""}


def _left(by_run: pd.DataFrame) -> tuple[int, int]:
    """How many sizes and how many cells a table of runs by cells has: no size may be lost."""
    return by_run.index.get_level_values("body").nunique() if by_run.size else 0, by_run.size


def _point_variances(frames: StudyFrames, means: pd.Series[float], pairs: pd.DataFrame) -> Floats:
    """Variances of the mean gains by body over seeds (pooled, as three seeds say little about one point) and examples.

    All 1 where no point was repeated.
    """
    by_body = means.groupby(level="body")
    counts = by_body.size().to_numpy(dtype="float64")
    spare = float((counts - 1).sum())
    within = float(((means - by_body.transform("mean")) ** 2).sum()) / spare if spare else math.nan
    if not within > 0:
        return np.ones(len(counts))
    tasks = list(pairs["task"].unique())
    examples = [mean_example_variance(frames, group, tasks) for _, group in pairs.groupby("body")]
    return within / counts + (np.array(examples) if np.isfinite(examples).all() else 0.0)


def _slope(x: Floats, y: Floats, weights: Floats) -> tuple[float, float, float, float]:
    """Slope, interval and p-value of a weighted regression on distinct x; the last three are NaN below three points."""
    centred = x - np.average(x, weights=weights)
    spread = float((weights * centred**2).sum())
    slope = float((weights * centred * y).sum()) / spread
    df = len(x) - 2
    if df < 1:
        return slope, math.nan, math.nan, math.nan
    residuals = y - np.average(y, weights=weights) - slope * centred
    se = math.sqrt(float((weights * residuals**2).sum()) / df / spread)
    half = float(stats.t.ppf(0.5 + LEVEL / 2, df)) * se
    p = 2 * float(stats.t.sf(abs(slope) / se, df)) if se > 0 else math.nan
    return slope, slope - half, slope + half, p
