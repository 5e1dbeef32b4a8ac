"""Accuracy against cost: the configurations served, the Pareto fronts and hypervolumes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from analysis.store.frames import BENCH_METRICS, FLIPS, MEAN, NONE, StudyFrames, cascade_in, frame, unique, zero_shot
from analysis.tables.chance import at_chance, mean_over
from analysis.tables.seeds import mean_over_seeds

# Less is better, except for throughput and load. The p99 under load is not a cost: at the highest load that keeps it within a
# bound, it is close to that bound for every configuration.
COSTS = ("p50_ms", "server_qps", "throughput_sps", "energy_j_per_sample", "peak_memory_mb")
MORE_IS_BETTER = frozenset({"throughput_sps", "server_qps"})
_OF_A_TRIAL = ("trial_id", "test_score", "test_score_without_english", "task_scores", "task_scores_without_english")
BEYOND_DOUBLINGS = 1.0  # from the most expensive configuration to the reference point of a hypervolume

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

    Row a dominates row b if it costs no more and benefits no less, and one of the two is strict. For a cost in `MORE_IS_BETTER`
    (throughput) more is better. Rows equal in both do not dominate each other, so all ties stay. A row with NaN in either
    column is never on the front and dominates nothing.
    """
    costs, benefits = table[cost].to_numpy(dtype="float64"), table[benefit].to_numpy(dtype="float64")
    if cost in MORE_IS_BETTER:
        costs = -costs
    known = ~(np.isnan(costs) | np.isnan(benefits))
    front: npt.NDArray[np.bool_] = np.zeros(len(table), dtype=np.bool_)
    best = -np.inf
    # Cheapest first: of equal costs only the best benefit survives, and only if it exceeds everything cheaper.
    for level in np.unique(costs[known]):
        same_cost = known & (costs == level)
        top = benefits[same_cost].max()
        if top > best:
            front |= same_cost & (benefits == top)
            best = top
    return pd.Series(front, index=table.index, dtype=bool)


def hypervolume(costs: npt.ArrayLike, benefits: npt.ArrayLike, *, reference: tuple[float, float]) -> float:
    """Area dominated by points (cost, benefit) up to a reference (highest cost, lowest benefit); points beyond it are ignored.

    The measure of Zitzler and Thiele (1998) for two objectives, one minimised and one maximised.
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
    """Hypervolume over log2 cost above a score of zero, per hardware and cost with at least two configurations.

    The load served depends on the latency bound `server_bound_ms`, so each bound has its own row. The reference is one doubling
    beyond the most expensive configuration, which would otherwise span no area. A unit is one point of score over one doubling
    of the budget. `mean_best_score` divides by the doublings from the cheapest (`from_cost`) to the reference (`to_cost`): the
    score that a budget drawn uniformly on the log scale buys on average. Only figures over the same range compare.
    """
    served = configurations(frames)
    rows: list[dict[str, Any]] = []
    for cost in COSTS:
        for group in comparable_groups(served, cost):
            known = group[(group[cost] > 0) & group["score"].notna()]
            if known[cost].nunique() >= 2:
                rows.append(_hypervolume_row(known, cost))
    return frame(rows, _HYPERVOLUMES)


def _hypervolume_row(known: pd.DataFrame, cost: str) -> dict[str, Any]:
    values = known[cost].to_numpy(dtype="float64")
    log = -np.log2(values) if cost in MORE_IS_BETTER else np.log2(values)
    cheapest, reference = float(log.min()), float(log.max()) + BEYOND_DOUBLINGS
    area = hypervolume(log, known["score"], reference=(reference, 0.0))
    from_cost, to_cost = (2.0 ** (-end if cost in MORE_IS_BETTER else end) for end in (cheapest, reference))
    return {
        "hardware": known["hardware"].iloc[0],
        "cost": cost,
        "server_bound_ms": known["server_bound_ms"].iloc[0] if cost == "server_qps" else np.nan,
        "hypervolume": area,
        "mean_best_score": area / (reference - cheapest),
        "from_cost": from_cost,
        "to_cost": to_cost,
        "configurations": len(known),
        "on_front": int(pareto_front(known, cost=cost, benefit="score").sum()),
    }


def front(frames: StudyFrames) -> pd.DataFrame:
    """The configurations on the Pareto front of p50 latency, fastest first for each hardware.

    A `baseline` has the size and variant of the configuration it is compared with.
    """
    served = configurations(frames)
    rows = served[served["on_front"]].sort_values(["hardware", "p50_ms"], kind="stable")
    names = ["size", "variant", "intermediate", "baseline", "hardware", "p50_ms", "score", "judged_by"]
    return rows[names].reset_index(drop=True)


def configurations(frames: StudyFrames) -> pd.DataFrame:
    """The benchmarks and their baselines, each with the `intermediate` task of its trial and whether it is on a Pareto front.

    A row that is a `baseline` follows the benchmark it is compared with and has its costs (`with_baselines`).
    `score` is the mean test score over targets of the artefact that was timed, without English where that is recorded
    (`judged_by`, one of `frames.AGGREGATES`; `judged_scores` by target). `score_above_chance` is the same mean over the targets
    that some size scores above chance (`chance.at_chance` names the others); NaN where a target's score is missing.
    `seed_mean` averages `score` over the trial's `seeds`; `score_low` to `score_high` is its 95% interval over the sources in
    `interval_covers` (`seeds.mean_over_seeds`).
    `on_front` is the front of p50 latency, `on_front_<cost>` that of each of `COSTS`, each within `comparable_groups`. Values
    of a scenario with an INVALID result are NaN.
    """
    trials = frames.trials[["size", "trial_id", "intermediate"]].drop_duplicates(["size", "trial_id"])
    served = with_baselines(valid(frames.benchmarks)).merge(trials, on=["size", "trial_id"], how="left")
    served["intermediate"] = served["intermediate"].fillna("").mask(served["baseline"], NONE)
    served["judged_by"], served["score"] = zero_shot(served)
    served["judged_scores"] = [
        row["task_scores" if row["judged_by"] == MEAN else "task_scores_without_english"]
        for row in served.to_dict("records")
    ]
    served["score_above_chance"] = _scores_above_chance(frames, served)
    for cost in COSTS:
        name = f"on_front_{cost}"
        served[name] = False
        for group in comparable_groups(served, cost):
            served.loc[group.index, name] = pareto_front(group, cost=cost, benefit="score")
    served["on_front"] = served["on_front_p50_ms"]
    rows = [{str(name): value for name, value in row.items()} for row in served.to_dict("records")]
    means = [mean_over_seeds(frames, row) for row in rows]
    served["seed_mean"] = pd.Series([mean.mean for mean in means], dtype="float64")
    served["score_low"] = pd.Series([mean.low for mean in means], dtype="float64")
    served["score_high"] = pd.Series([mean.high for mean in means], dtype="float64")
    served["seeds"] = pd.Series([mean.seeds for mean in means], dtype="int64")
    served["interval_covers"] = pd.Series([mean.covers for mean in means], dtype="str")
    return served


def with_baselines(benchmarks: pd.DataFrame) -> pd.DataFrame:
    """Rows of `StudyFrames.benchmarks`, each followed by its baseline as a row of its own, if it has one.

    A `baseline` has its own trial and scores, and no flips. Its costs are those of `timed_trial`: models that differ only in
    their weights are timed once.
    """
    measured = benchmarks.assign(baseline=False, timed_trial=benchmarks["trial_id"])
    compared = measured[measured["baseline_test_score"].notna() & measured["reason"].eq("")]
    own = {name: compared[f"baseline_{name}"] for name in _OF_A_TRIAL}
    unknown = pd.Series(np.nan, index=compared.index)  # only the predictions of the benchmark's own model are compared
    own |= dict.fromkeys((*FLIPS, "flips_examples"), unknown)
    table = pd.concat([measured, compared.assign(baseline=True, **own)]).sort_index(kind="stable")
    return table.drop(columns=[f"baseline_{name}" for name in _OF_A_TRIAL]).reset_index(drop=True)


def configuration_name(row: Mapping[Any, Any]) -> str:
    """A row of `configurations` by its size and serving variant; a cascade by both sizes."""
    if cascade := cascade_in(row):
        return f"{cascade['small']}→{row['size']} cascade"
    return f"{row['size']} {row['variant']}" + (" without an intermediate task" if row["baseline"] else "")


def configuration_key(row: Mapping[Any, Any]) -> str:
    """What names a row of `configurations` in a page."""
    return "|".join(str(row[name]) for name in ("size", "variant", "trial_id", "hardware"))


def _scores_above_chance(frames: StudyFrames, served: pd.DataFrame) -> pd.Series[float]:
    excluded = set(at_chance(frames))
    if not excluded:
        return served["score"].astype("float64")
    targets = list(dict.fromkeys(task for scores in served["judged_scores"] for task in scores if task not in excluded))
    means = [mean_over(scores, targets) for scores in served["judged_scores"]]
    return pd.Series(means, index=served.index, dtype="float64")


def kinds_of_hardware(benchmarks: pd.DataFrame) -> list[str]:
    """What something was measured on, in the order of the rows; a variant that could not be measured has no hardware."""
    return unique(benchmarks.loc[benchmarks["reason"] == "", "hardware"])


def comparable_groups(served: pd.DataFrame, cost: str) -> list[pd.DataFrame]:
    """The rows whose costs are comparable: of one hardware and, for the load served, one latency bound."""
    by = ["hardware", "server_bound_ms"] if cost == "server_qps" else ["hardware"]
    return [group for _, group in served.groupby(by, sort=False, dropna=False)]


_SCENARIO_OF = {
    "p50_ms": "SingleStream",
    "p90_ms": "SingleStream",
    "p99_ms": "SingleStream",
    "mean_ms": "SingleStream",
    "throughput_sps": "Offline",
    "server_p99_ms": "Server",
    "server_qps": "Server",
}


def invalid_scenario(row: Any, cost: str) -> str | None:
    """The scenario that measured `cost`, if its result is INVALID."""
    scenario = _SCENARIO_OF.get(cost)
    return scenario if scenario and row["results"].get(scenario, "VALID") != "VALID" else None


def valid(benchmarks: pd.DataFrame) -> pd.DataFrame:
    """The benchmarks with NaN for values of INVALID scenarios, and for all values of a variant that could not be measured."""
    rows = benchmarks.to_dict("records")
    failed = pd.Series([bool(row["reason"]) for row in rows], index=benchmarks.index, dtype=bool)
    table = benchmarks.copy()
    table.loc[failed, ["test_score", "test_score_without_english"]] = np.nan
    for name in ("task_scores", "task_scores_without_english"):
        table[name] = pd.Series(
            [{} if row["reason"] else row[name] for row in rows], index=failed.index, dtype="object"
        )
    for metric in BENCH_METRICS:
        invalid = pd.Series([invalid_scenario(row, metric) is not None for row in rows], index=failed.index, dtype=bool)
        table.loc[failed | invalid, [metric, f"{metric}_low", f"{metric}_high"]] = np.nan
    return table


def best_trials(frames: StudyFrames) -> pd.DataFrame:
    """One row (size, trial_id) per size: the trial the study names, else the complete trial best on English dev.

    Test scores are never used here. A size without a scored, complete trial has no row.
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
