"""Accuracy against cost: which configurations nothing else beats."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

from analysis.frames import StudyFrames


def pareto_front(frame: pd.DataFrame, *, cost: str, benefit: str) -> pd.Series[bool]:
    """True for each undominated row, aligned with `frame`.

    Row a dominates row b when cost(a) <= cost(b) and benefit(a) >= benefit(b), one of them strictly. Rows equal in both
    do not dominate each other, so ties are all kept. A row with NaN in either column is never on the front and
    dominates nothing.
    """
    costs, benefits = frame[cost].to_numpy(dtype="float64"), frame[benefit].to_numpy(dtype="float64")
    known = ~(np.isnan(costs) | np.isnan(benefits))
    front: npt.NDArray[np.bool_] = np.zeros(len(frame), dtype=np.bool_)
    best = -np.inf
    # cheapest first: rows of one cost survive only by their best benefit, and only above everything cheaper
    for level in np.unique(costs[known]):
        same_cost = known & (costs == level)
        top = benefits[same_cost].max()
        if top > best:
            front |= same_cost & (benefits == top)
            best = top
    return pd.Series(front, index=frame.index, dtype=bool)


def configurations(frames: StudyFrames) -> pd.DataFrame:
    """The benchmarks, each with the `intermediate` of the trial it serves and `on_front` (p50 latency, test score).

    Fronts are taken within one hardware: a latency from another machine neither dominates nor is dominated.
    """
    trials = frames.trials[["size", "trial_id", "intermediate"]].drop_duplicates(["size", "trial_id"])
    served = frames.benchmarks.merge(trials, on=["size", "trial_id"], how="left")
    served["intermediate"] = served["intermediate"].fillna("")
    served["on_front"] = False
    for _, group in served.groupby("hardware"):
        served.loc[group.index, "on_front"] = pareto_front(group, cost="p50_ms", benefit="test_score")
    return served


def best_trials(frames: StudyFrames) -> pd.DataFrame:
    """One row a size (size, trial_id): the trial the study names, else the complete one best on English dev.

    Test scores are never looked at here. A size without a scored, complete trial has no row.
    """
    named = dict(zip(frames.sizes["size"], frames.sizes["best_trial"], strict=True))
    rows: list[dict[str, str]] = []
    for size in frames.size_names:
        trials = frames.trials[frames.trials["size"] == size]
        if named.get(size) and (trials["trial_id"] == named[size]).any():
            rows.append({"size": size, "trial_id": named[size]})
            continue
        ranked = trials[(trials["outcome"] == "complete") & trials["dev_score"].notna()]
        if len(ranked):
            rows.append({"size": size, "trial_id": ranked["trial_id"].iloc[int(ranked["dev_score"].argmax())]})
    return pd.DataFrame(rows, columns=["size", "trial_id"]).astype("str")
