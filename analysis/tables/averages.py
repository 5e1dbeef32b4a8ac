"""What an intermediate task adds on average over targets."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from analysis.store.counted import Cells
from analysis.store.examples import Floats
from analysis.store.frames import StudyFrames, rows_where
from analysis.tables.chance import at_chance
from analysis.tables.gains import paired_scores, seed_variances
from analysis.tables.inference import example_variance, holm, infer

_AVERAGES = {
    "size": "str",
    "intermediate": "str",
    "gain": "float64",
    "sd": "float64",
    "low": "float64",
    "high": "float64",
    "p_holm": "float64",
    "seeds": "int64",
    "targets": "int64",
    "collapsed": "int64",
}


def average_gains(frames: StudyFrames, *, cells: Cells = "default", above_chance: bool = False) -> pd.DataFrame:
    """Mean gain over targets per size and intermediate task, in test points.

    Each target counts with its mean of `StudyFrames.judged_by`: without English wherever that is recorded. Targets with a
    contamination flag are left out, so are targets that not every paired seed has (a run may have collapsed, as in
    `chance.collapsed_runs`) and, if `above_chance`, those of `chance.at_chance`. `collapsed` counts the targets left out
    because of it. `sd` is over the `seeds` of the mean over `targets`. `low` and `high` are each row's own 95% interval,
    `p_holm` is corrected over the table, both as in `gains.gains`.
    """
    pairs = transfer_pairs(frames, cells=cells, with_collapsed=True)
    if above_chance:
        pairs = pairs[~pairs["task"].isin(at_chance(frames))]
    rows: list[dict[str, Any]] = []
    for (size, intermediate), group in pairs.groupby(["size", "intermediate"], sort=False):
        differences = group["difference"].where(~group["collapsed"])
        by_seed = group.assign(difference=differences).pivot_table(
            index="seed", columns="task", values="difference", dropna=False
        )
        by_seed = by_seed.dropna(axis="columns")
        means = by_seed.mean(axis="columns").dropna()
        if means.empty:
            continue
        rows.append(
            {
                "size": size,
                "intermediate": intermediate,
                "gain": means.mean(),
                "sd": means.std(ddof=1),
                "seeds": len(means),
                "targets": by_seed.shape[1],
                "collapsed": group.loc[group["collapsed"], "task"].nunique(),
                "by_seed": means.to_dict(),
                "example_variance": mean_example_variance(frames, group, list(by_seed.columns)),
            }
        )
    table = pd.DataFrame(rows, columns=[*_AVERAGES, "example_variance", "by_seed"])
    variances, df = seed_variances(table["by_seed"], table["size"])
    inferred = infer(
        table["gain"].astype("float64"),
        variances,
        df=df,
        seeds=table["seeds"].astype("float64"),
        example_variances=table["example_variance"].astype("float64"),
    )
    table = table.assign(low=inferred.low, high=inferred.high, p_holm=holm(inferred.p))
    return table[list(_AVERAGES)].astype(_AVERAGES)


def transfer_pairs(frames: StudyFrames, *, cells: Cells, with_collapsed: bool = False) -> pd.DataFrame:
    """The rows of `gains.paired_scores` without those of a pair with a contamination flag, and without collapsed runs."""
    pairs = paired_scores(frames, cells=cells)
    pairs = pairs if with_collapsed else pairs[~pairs["collapsed"]]
    flags = (frames.contamination_flag(i, t) for i, t in zip(pairs["intermediate"], pairs["task"], strict=True))
    return rows_where(pairs, (flag == "" for flag in flags))


def mean_example_variance(frames: StudyFrames, pairs: pd.DataFrame, tasks: list[str]) -> float:
    """Variance over test examples of the mean gain over these tasks; NaN where a score has no examples."""
    by_seed: list[Floats] = []
    for _, group in pairs[pairs["task"].isin(tasks)].groupby("seed"):
        draws = []
        for row in group.to_dict("records"):
            own = frames.examples.draws((row["size"], row["trial_id"]), row["task"], row["language"])
            none = frames.examples.draws((row["size"], row["trial_id_none"]), row["task"], row["language"])
            if own is None or none is None:
                return math.nan
            draws.append(own - none)
        by_seed.append(np.mean(draws, axis=0))
    return example_variance(np.stack(by_seed)) if by_seed else math.nan
