"""Which intermediate task to use: one for all targets, a mixture, or the best for each target."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from analysis.store.counted import chosen_trials
from analysis.store.frames import NONE, StudyFrames, rows_where
from analysis.tables.averages import mean_example_variance
from analysis.tables.gains import paired_scores
from analysis.tables.inference import infer, pooled_variance

_CHOICES = {
    "size": "str",
    "choice": "str",
    "intermediate": "str",
    "test_score": "float64",
    "gain": "float64",
    "low": "float64",
    "high": "float64",
    "seeds": "int64",
    "targets": "int64",
}
_ORDER = ("none", "best single", "best per target")


def choices(frames: StudyFrames) -> pd.DataFrame:
    """Test score of each size (mean over targets, percent) under different ways to choose the intermediate task.

    "none"; "best single": the intermediate task best on mean English dev; "best per target": for each target the one best on
    its own English dev, and the best single one where a target has no dev set; "mixture": any with "mix" in its name. Every
    choice is made on English dev, so no test score is the maximum of several. Test scores are those of `StudyFrames.judged_by`,
    without English wherever that is recorded. `intermediate` names the choice; `test_score` is of the chosen trials, over
    the `targets` that all of them have.

    `gain` is the difference to "none" over the same targets, paired by seed as tuned gains are (`gains.gains`), with its
    interval: that of `average_gains` for one intermediate task whose targets are all unflagged. The seed of the choice is left
    out where two others are paired. Where it is the only one, dev and test scores of one run are correlated, so picking
    the best inflates the gain by an amount no interval shows. Without a pair, `gain` is the difference of the chosen trials,
    `seeds` is 0 and the interval is NaN.
    """
    best, pairs = chosen_trials(frames), paired_scores(frames, cells="tuned")
    rows = [
        row
        for size in frames.size_names
        for row in _choices_of_size(frames, size, best=best[best["size"] == size], pairs=pairs[pairs["size"] == size])
    ]
    table = pd.DataFrame(rows, columns=[*_CHOICES, "variance", "df", "example_variance"])
    inferred = infer(
        table["gain"].astype("float64"),
        table["variance"].astype("float64"),
        df=table["df"].astype("float64"),
        seeds=table["seeds"].astype("float64"),
        example_variances=table["example_variance"].astype("float64"),
    )
    return table.assign(low=inferred.low, high=inferred.high)[list(_CHOICES)].astype(_CHOICES)


def _choices_of_size(
    frames: StudyFrames, size: str, *, best: pd.DataFrame, pairs: pd.DataFrame
) -> list[dict[str, Any]]:
    """One row per way to choose; `best` and `pairs` hold the size's chosen trials and paired scores."""
    trials = dict(best[["intermediate", "trial_id"]].itertuples(index=False, name=None))
    if not trials:
        return []
    test = _by_target(frames, size, trials, split="test").dropna(axis="columns")
    targets = [str(task) for task in test.columns]
    singles, chosen = _chosen(best, targets, dev=_by_target(frames, size, trials, split="dev"))
    means: dict[Any, float] = test.mean(axis="columns").to_dict()
    score_of: dict[Any, dict[Any, float]] = test.to_dict()
    own_pairs = pairs[pairs["task"].isin(targets)]
    rows = []
    for choice in sorted(chosen, key=lambda choice: _ORDER.index(choice) if choice in _ORDER else len(_ORDER)):
        by_target = chosen[choice]
        scores = [score_of[task][name] for task, name in by_target.items()]
        score = float(np.mean(scores)) if scores else math.nan
        named = singles.get(choice) or "; ".join(f"{task}: {name}" for task, name in by_target.items())
        row = {"size": size, "choice": choice, "intermediate": named, "test_score": score, "targets": len(targets)}
        rows.append(row | {"gain": score - means.get(NONE, math.nan)} | _paired(frames, own_pairs, by_target))
    return rows


def _chosen(
    best: pd.DataFrame, targets: list[str], *, dev: pd.DataFrame
) -> tuple[dict[str, str], dict[str, dict[str, str]]]:
    """Ways that use one intermediate task, with its name; and for all ways the intermediate task of each target.

    `dev`: scores, intermediate tasks by targets.
    """
    ranks = best.set_index("intermediate")["dev_score"].drop(NONE, errors="ignore")
    names = list(best["intermediate"])
    singles = {"none": NONE} if NONE in names else {}
    singles |= {"best single": str(ranks.idxmax())} if len(ranks) else {}
    singles |= {f"mixture {name}": name for name in names if "mix" in name.lower()}
    chosen = {choice: dict.fromkeys(targets, name) for choice, name in singles.items()}
    if len(ranks):
        chosen["best per target"] = {
            task: _best_on_dev(dev, task, otherwise=singles["best single"]) for task in targets
        }
    return singles, chosen


def _paired(frames: StudyFrames, pairs: pd.DataFrame, by_target: dict[str, str]) -> dict[str, Any]:
    """The gain of these intermediate tasks over the seeds that all of them share with none, and its variances.

    The spread over seeds is estimated from all intermediate tasks over the same targets and seeds, or from the choice itself
    where that varies more.
    """
    unknown = {"seeds": 0, "variance": math.nan, "df": 0.0, "example_variance": math.nan}
    cells = [(name, task) for task, name in by_target.items() if name != NONE]  # none minus itself is zero
    by_seed = pairs.pivot_table(index="seed", columns=["intermediate", "task"], values="difference")
    if not cells or not set(cells) <= set(by_seed.columns):
        return unknown
    differences = by_seed[cells].dropna().sum(axis="columns") / len(by_target)
    if differences.empty:
        return unknown
    variance, df = math.nan, 0.0
    if len(differences) > 1:
        arms = []
        for name in dict.fromkeys(pairs["intermediate"]):
            columns = [(name, task) for _, task in cells]
            arm = by_seed.reindex(columns=columns).dropna().sum(axis="columns") / len(by_target)
            if arm.index.equals(differences.index):
                arms.append(arm.to_numpy(dtype="float64"))
        own = float(differences.var(ddof=1))
        pooled, df = pooled_variance(np.array(arms)) if arms else (own, len(differences) - 1.0)
        variance = max(own, pooled)
    is_chosen = pd.MultiIndex.from_frame(pairs[["intermediate", "task"]]).isin(cells)
    shared = pairs[is_chosen & pairs["seed"].isin(differences.index)]
    drawn = mean_example_variance(frames, shared, list(by_target)) * (len(cells) / len(by_target)) ** 2
    return {
        "gain": differences.mean(),
        "seeds": len(differences),
        "variance": variance,
        "df": df,
        "example_variance": drawn,
    }


def _by_target(frames: StudyFrames, size: str, trials: dict[str, str], *, split: str) -> pd.DataFrame:
    """Scores of these trials, intermediate tasks by targets."""
    judged = frames.judged(split)
    rows = judged[judged["size"] == size]
    rows = rows_where(rows, (trials.get(i) == t for i, t in zip(rows["intermediate"], rows["trial_id"], strict=True)))
    return rows.pivot_table(index="intermediate", columns="task", values="value").reindex(list(trials))


def _best_on_dev(dev: pd.DataFrame, task: str, *, otherwise: str) -> str:
    return str(dev[task].idxmax()) if task in dev and dev[task].notna().any() else otherwise
