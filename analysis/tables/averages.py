"""What an intermediate task adds on average over targets."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from analysis.store.examples import Floats
from analysis.store.frames import StudyFrames, rows_where
from analysis.tables.chance import at_chance
from analysis.tables.gains import Cells, paired_scores, seed_variances
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
}


def average_gains(frames: StudyFrames, *, cells: Cells = "default", above_chance: bool = False) -> pd.DataFrame:
    """Mean gain over targets per size and intermediate task, in test points.

    Each target counts with its mean of `StudyFrames.judged_by`: without English wherever that is recorded. Targets with a
    contamination flag are left out, so are targets that not every paired seed has and, if `above_chance`, those of
    `chance.at_chance`. `sd` is over the `seeds` of the mean over `targets`. `low` and `high` are each row's own 95% interval,
    `p_holm` is corrected over the table, both as in `gains.gains`.
    """
    pairs = transfer_pairs(frames, cells=cells)
    if above_chance:
        pairs = pairs[~pairs["task"].isin(at_chance(frames))]
    rows: list[dict[str, Any]] = []
    for (size, intermediate), group in pairs.groupby(["size", "intermediate"], sort=False):
        by_seed = group.pivot_table(index="seed", columns="task", values="difference").dropna(axis="columns")
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


def transfer_pairs(frames: StudyFrames, *, cells: Cells) -> pd.DataFrame:
    """The rows of `gains.paired_scores` without those of a pair with a contamination flag."""
    pairs = paired_scores(frames, cells=cells)
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
