"""Accuracy against cost: which configurations nothing else beats, and what a budget buys."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from analysis.store.frames import BENCH_METRICS, MEAN, StudyFrames, frame, zero_shot
from analysis.tables.seeds import over_seeds

# Costs a study may be judged by: the less the better, but for throughput and load. The p99 under load is none of them: it is
# taken at the highest load that keeps it within a bound, so that it is near the bound whatever the configuration.
COSTS = ("p50_ms", "server_qps", "throughput_sps", "energy_j_per_sample", "peak_memory_mb")
MORE_IS_BETTER = frozenset({"throughput_sps", "server_qps"})
BEYOND_DOUBLINGS = 1.0  # from the dearest configuration to the reference of a hypervolume

_HYPERVOLUMES = {
    "hardware": "str",
    "cost": "str",
    "server_bound_ms": "float64",
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

    The load served is that within a bound, `server_bound_ms`, and loads within different bounds are kept apart.
    The reference is one doubling beyond the dearest configuration, which would span no area at its own cost; a unit is one
    point of score over one doubling of the budget. `mean_best_score` divides by the doublings from the cheapest, `from_cost`,
    to the reference, `to_cost`: the score that a budget drawn evenly on the log scale buys on average. Compare only figures
    over the same range.
    """
    served = configurations(frames)
    rows: list[dict[str, Any]] = []
    for cost in COSTS:
        for group in alike(served, cost):
            known = group[(group[cost] > 0) & group["score"].notna()]
            if known[cost].nunique() < 2:
                continue
            values = known[cost].to_numpy(dtype="float64")
            log = -np.log2(values) if cost in MORE_IS_BETTER else np.log2(values)
            reference = float(log.max()) + BEYOND_DOUBLINGS
            area = hypervolume(log, known["score"], reference=(reference, 0.0))
            ends = [2.0 ** (-end if cost in MORE_IS_BETTER else end) for end in (float(log.min()), reference)]
            front = pareto_front(known, cost=cost, benefit="score")
            rows.append(
                {
                    "hardware": known["hardware"].iloc[0],
                    "cost": cost,
                    "server_bound_ms": known["server_bound_ms"].iloc[0] if cost == "server_qps" else np.nan,
                    "hypervolume": area,
                    "mean_best_score": area / (reference - float(log.min())),
                    "from_cost": ends[0],
                    "to_cost": ends[1],
                    "configurations": len(known),
                    "on_front": int(front.sum()),
                }
            )
    return frame(rows, _HYPERVOLUMES)


def front(frames: StudyFrames) -> pd.DataFrame:
    """The configurations on a front of p50 latency, fastest first of each hardware, as they are judged."""
    served = configurations(frames)
    found = served[served["on_front"]].sort_values(["hardware", "p50_ms"], kind="stable")
    return found[["size", "variant", "hardware", "p50_ms", "score", "judged_by"]].reset_index(drop=True)


def configurations(frames: StudyFrames) -> pd.DataFrame:
    """The benchmarks, each with the `intermediate` of the trial it serves and whether it is on a front.

    `score` is what it is judged by, the mean test score over targets without English where that is recorded (`judged_by`, one
    of `frames.AGGREGATES`; `judged_scores` by target), of the artefact that was timed. `seed_mean` is the same over the
    `seeds` it was trained with, with its 95 % interval from `score_low` to `score_high` over what `interval_covers` says
    (`seeds.over_seeds`).
    `on_front` is the front of p50 latency, `on_front_<cost>` that of each of `COSTS`. Fronts are taken among what is `alike`.
    What a scenario found INVALID is NaN.
    """
    trials = frames.trials[["size", "trial_id", "intermediate"]].drop_duplicates(["size", "trial_id"])
    served = valid(frames.benchmarks).merge(trials, on=["size", "trial_id"], how="left")
    served["intermediate"] = served["intermediate"].fillna("")
    served["judged_by"], served["score"] = zero_shot(served)
    served["judged_scores"] = [
        row["task_scores" if row["judged_by"] == MEAN else "task_scores_without_english"]
        for row in served.to_dict("records")
    ]
    for cost in COSTS:
        name = f"on_front_{cost}"
        served[name] = False
        for group in alike(served, cost):
            served.loc[group.index, name] = pareto_front(group, cost=cost, benefit="score")
    served["on_front"] = served["on_front_p50_ms"]
    found = [over_seeds(frames, {str(name): value for name, value in row.items()}) for row in served.to_dict("records")]
    served["seed_mean"] = pd.Series([one.mean for one in found], dtype="float64")
    served["score_low"] = pd.Series([one.low for one in found], dtype="float64")
    served["score_high"] = pd.Series([one.high for one in found], dtype="float64")
    served["seeds"] = pd.Series([one.seeds for one in found], dtype="int64")
    served["interval_covers"] = pd.Series([one.covers for one in found], dtype="str")
    return served


def alike(served: pd.DataFrame, cost: str) -> list[pd.DataFrame]:
    """The rows whose costs can be set against each other: of one hardware, and for the load served of one latency bound."""
    by = ["hardware", "server_bound_ms"] if cost == "server_qps" else ["hardware"]
    return [group for _, group in served.groupby(by, sort=False, dropna=False)]


_SCENARIO_OF = {
    "p50_ms": "SingleStream",
    "p90_ms": "SingleStream",
    "p99_ms": "SingleStream",
    "throughput_sps": "Offline",
    "server_p99_ms": "Server",
    "server_qps": "Server",
}


def invalid_scenario(row: Any, cost: str) -> str | None:
    """The scenario that measured `cost`, if its result was INVALID."""
    scenario = _SCENARIO_OF.get(cost)
    return scenario if scenario and row["results"].get(scenario, "VALID") != "VALID" else None


def valid(benchmarks: pd.DataFrame) -> pd.DataFrame:
    """The benchmarks without what a scenario found INVALID, and without any value where the variant could not be measured."""
    rows = benchmarks.to_dict("records")
    lost = pd.Series([bool(row["reason"]) for row in rows], index=benchmarks.index, dtype=bool)
    found = benchmarks.copy()
    found.loc[lost, ["test_score", "test_score_without_english"]] = np.nan
    for name in ("task_scores", "task_scores_without_english"):
        found[name] = pd.Series([{} if row["reason"] else row[name] for row in rows], index=lost.index, dtype="object")
    for metric in BENCH_METRICS:
        invalid = pd.Series([invalid_scenario(row, metric) is not None for row in rows], index=lost.index, dtype=bool)
        found.loc[lost | invalid, [metric, f"{metric}_low", f"{metric}_high"]] = np.nan
    return found


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
