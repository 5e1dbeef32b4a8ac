"""Accuracy against cost: which configurations nothing else beats, and what a budget buys."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from analysis.frames import StudyFrames, frame, kept
from analysis.inference import example_variance, infer

# Costs a study may be judged by: the less the better, but for throughput.
COSTS = ("p50_ms", "server_p99_ms", "throughput_sps", "energy_j_per_sample", "peak_memory_mb")
MORE_IS_BETTER = frozenset({"throughput_sps", "server_qps"})

_HYPERVOLUMES = {
    "hardware": "str",
    "cost": "str",
    "hypervolume": "float64",
    "mean_best_score": "float64",
    "from_cost": "float64",
    "to_cost": "float64",
    "configurations": "int64",
    "on_front": "int64",
}


def pareto_front(table: pd.DataFrame, *, cost: str, benefit: str) -> pd.Series[bool]:
    """True for each undominated row, aligned with `table`.

    Row a dominates row b when it costs no more and benefits no less, one of them strictly; a cost in `MORE_IS_BETTER`
    (throughput) is the better the more. Rows equal in both do not dominate each other, so ties are all kept. A row with NaN in
    either column is never on the front and dominates nothing.
    """
    costs, benefits = table[cost].to_numpy(dtype="float64"), table[benefit].to_numpy(dtype="float64")
    if cost in MORE_IS_BETTER:
        costs = -costs
    known = ~(np.isnan(costs) | np.isnan(benefits))
    front: npt.NDArray[np.bool_] = np.zeros(len(table), dtype=np.bool_)
    best = -np.inf
    # cheapest first: rows of one cost survive only by their best benefit, and only above everything cheaper
    for level in np.unique(costs[known]):
        same_cost = known & (costs == level)
        top = benefits[same_cost].max()
        if top > best:
            front |= same_cost & (benefits == top)
            best = top
    return pd.Series(front, index=table.index, dtype=bool)


def hypervolume(costs: npt.ArrayLike, benefits: npt.ArrayLike, *, reference: tuple[float, float]) -> float:
    """Area dominated by points (cost, benefit) within a reference (highest cost, lowest benefit); points beyond it count not.

    The measure of Zitzler and Thiele (1998) for two objectives, one to be lowered and one raised.
    """
    highest, lowest = reference
    points = np.column_stack([np.asarray(costs, dtype="float64"), np.asarray(benefits, dtype="float64")])
    points = points[~np.isnan(points).any(axis=1)]
    points = points[(points[:, 0] < highest) & (points[:, 1] > lowest)]
    area, best = 0.0, lowest
    for cost, benefit in points[np.lexsort((-points[:, 1], points[:, 0]))]:
        if benefit > best:
            area += (highest - cost) * (benefit - best)
            best = benefit
    return float(area)


def hypervolumes(frames: StudyFrames) -> pd.DataFrame:
    """Of each hardware and cost with two configurations or more: the hypervolume over log2 cost, above a score of zero.

    The reference is the dearest configuration; a unit is one point of score over one doubling of the budget.
    `mean_best_score` divides by the doublings from the cheapest to the dearest: the score that a budget drawn evenly on the log
    scale buys on average. Compare only figures over the same range.
    """
    served = configurations(frames)
    rows: list[dict[str, Any]] = []
    for hardware, group in served.groupby("hardware", sort=False):
        for cost in COSTS:
            known = group[(group[cost] > 0) & group["test_score"].notna()]
            if known[cost].nunique() < 2:
                continue
            values = known[cost].to_numpy(dtype="float64")
            log = -np.log2(values) if cost in MORE_IS_BETTER else np.log2(values)
            area = hypervolume(log, known["test_score"], reference=(float(log.max()), 0.0))
            ends = (values.max(), values.min()) if cost in MORE_IS_BETTER else (values.min(), values.max())
            front = pareto_front(known, cost=cost, benefit="test_score")
            rows.append(
                {
                    "hardware": hardware,
                    "cost": cost,
                    "hypervolume": area,
                    "mean_best_score": area / float(log.max() - log.min()),
                    "from_cost": ends[0],
                    "to_cost": ends[1],
                    "configurations": len(known),
                    "on_front": int(front.sum()),
                }
            )
    return frame(rows, _HYPERVOLUMES)


def configurations(frames: StudyFrames) -> pd.DataFrame:
    """The benchmarks, each with the `intermediate` of the trial it serves and whether it is on a front.

    `on_front` is the front of p50 latency, `on_front_<cost>` that of each of `COSTS`. Fronts are taken within one hardware: a
    latency from another machine neither dominates nor is dominated. What a scenario found INVALID is not on a front.
    `score_low` and `score_high` are the 95 % interval of the score, over what `interval_covers` says (`score_interval`).
    """
    trials = frames.trials[["size", "trial_id", "intermediate"]].drop_duplicates(["size", "trial_id"])
    served = frames.benchmarks.merge(trials, on=["size", "trial_id"], how="left")
    served["intermediate"] = served["intermediate"].fillna("")
    for cost in COSTS:
        name = f"on_front_{cost}"
        served[name] = False
        usable = kept(served, (invalid_scenario(row, cost) is None for row in served.to_dict("records")))
        for _, group in usable.groupby("hardware"):
            served.loc[group.index, name] = pareto_front(group, cost=cost, benefit="test_score")
    served["on_front"] = served["on_front_p50_ms"]
    halves = {
        pair: score_interval(frames, *pair)
        for pair in dict.fromkeys(zip(served["size"], served["trial_id"], strict=True))
    }
    of_rows = [halves[pair] for pair in zip(served["size"], served["trial_id"], strict=True)]
    served["score_low"] = served["test_score"] - pd.Series([half[0] for half in of_rows], dtype="float64")
    served["score_high"] = served["test_score"] + pd.Series([half[1] for half in of_rows], dtype="float64")
    served["interval_covers"] = pd.Series([half[2] for half in of_rows], dtype="str")
    return served


def score_interval(frames: StudyFrames, size: str, trial_id: str) -> tuple[float, float, str]:
    """Half widths below and above a trial's mean test score (95 %, points), and what they cover: seeds, examples, nothing.

    The spread over the trial and its repeats with other seeds, and resampled test examples where they are recorded.
    """
    trials = frames.trials[(frames.trials["size"] == size) & frames.trials["test_score"].notna()]
    own = trials[(trials["trial_id"] == trial_id) | (trials["repeats"] == trial_id)]
    own = own[own["targets_finished"] == own["targets_finished"].max()]
    tasks = list(frames.examples.sums((size, trial_id)))
    draws = []
    for one in own["trial_id"]:
        drawn = [scores for task in tasks if (scores := frames.examples.draws((size, one), task)) is not None]
        if drawn and len(drawn) == len(tasks):
            draws.append(np.mean(drawn, axis=0))
    whole = bool(draws) and len(draws) == len(own)
    variance = float(own["test_score"].var(ddof=1)) if len(own) > 1 else np.nan
    found = infer(
        [0.0],
        [variance],
        df=[len(own) - 1],
        seeds=[max(len(own), 1)],
        example_variances=[example_variance(np.stack(draws)) if whole else np.nan],
    )
    covers = ([f"{len(own)} seeds"] if len(own) > 1 else []) + (["test examples"] if whole else [])
    return float(-found.low[0]), float(found.high[0]), " and ".join(covers) or "nothing: one seed, no examples"


_SCENARIO_OF = {
    "p50_ms": "SingleStream",
    "p90_ms": "SingleStream",
    "p99_ms": "SingleStream",
    "throughput_sps": "Offline",
}
_SCENARIO_OF |= {"server_p99_ms": "Server", "server_qps": "Server"}


def invalid_scenario(row: Any, cost: str) -> str | None:
    """The scenario that measured `cost`, if its result was INVALID."""
    scenario = _SCENARIO_OF.get(cost)
    return scenario if scenario and row["results"].get(scenario, "VALID") != "VALID" else None


def best_trials(frames: StudyFrames) -> pd.DataFrame:
    """One row a size (size, trial_id): the trial the study names, else the complete one best on English dev.

    Test scores are never looked at here. A size without a scored, complete trial has no row.
    """
    named = dict(zip(frames.sizes["size"], frames.sizes["best_trial"], strict=True))
    rows: list[dict[str, str]] = []
    for size in frames.size_names:
        trials = frames.searched[frames.searched["size"] == size]
        if named.get(size) and (trials["trial_id"] == named[size]).any():
            rows.append({"size": size, "trial_id": named[size]})
            continue
        ranked = trials[(trials["outcome"] == "complete") & trials["dev_score"].notna()]
        if len(ranked):
            rows.append({"size": size, "trial_id": ranked["trial_id"].iloc[int(ranked["dev_score"].argmax())]})
    return pd.DataFrame(rows, columns=["size", "trial_id"]).astype("str")
