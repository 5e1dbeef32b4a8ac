"""The search: which hyperparameters mattered, how well the first targets predict the end, what stopping and sharing saved."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import stats

from analysis.store.frames import MEAN, NONE, StudyFrames, frame
from analysis.tables.inference import LEVEL

if TYPE_CHECKING:
    import optuna

FEWEST_TRIALS = 8  # complete trials needed for an importance that is more than noise

_STAGES = {
    "size": "str",
    "sort": "str",
    "task": "str",
    "intermediate": "str",
    "lr_intermediate": "float64",
    "lr_target": "float64",
    "seed": "Int64",
    "trials": "int64",
}
_IMPORTANCES = {"size": "str", "parameter": "str", "importance": "float64", "trials": "int64"}
_AGREEMENT = {
    "size": "str",
    "rung": "int64",
    "targets": "int64",
    "kendall_tau": "float64",
    "low": "float64",
    "high": "float64",
    "best_kept": "bool",
    "trials": "int64",
}
_SAVINGS = {
    "size": "str",
    "trials": "int64",
    "targets_in_all": "int64",
    "targets_not_trained": "int64",
    "stages_asked": "int64",
    "stages_made": "int64",
}


def stages(frames: StudyFrames) -> pd.DataFrame:
    """The distinct stages behind the trials, and how many `trials` (repeats included) share each.

    Derived from the trials' parameters and the order of targets, which determine a stage. `sort` is "pretrain", "intermediate"
    or "target" (training or scoring a target). Pre-training counts once per size: repeats share it.
    """
    rows: dict[tuple[Any, ...], int] = {}
    for trial in frames.trials.to_dict("records"):
        finished = 0 if pd.isna(trial["targets_finished"]) else int(trial["targets_finished"])
        if not finished:
            continue
        rate = None if pd.isna(trial["lr_intermediate"]) else trial["lr_intermediate"]
        chain: list[tuple[Any, ...]] = [(trial["size"], "pretrain", "", "", None, None, None)]
        trained_on = (trial["intermediate"], rate)
        if trial["intermediate"] != NONE:
            chain.append((trial["size"], "intermediate", trial["intermediate"], *trained_on, None, trial["seed"]))
        chain += [
            (trial["size"], "target", task, *trained_on, trial["lr_target"], trial["seed"])
            for task in frames.targets[:finished]
        ]
        for stage in chain:
            rows[stage] = rows.get(stage, 0) + 1
    return frame(((*stage, count) for stage, count in rows.items()), _STAGES)


def savings(frames: StudyFrames) -> pd.DataFrame:
    """What stopping early and sharing stages saved per size, in stages of the search (without repeats).

    Stopping early spared `targets_not_trained` of `targets_in_all`. `stages_made` stages ran where trials that share nothing
    would have run `stages_asked`.
    """
    searched = frames.searched
    rows = []
    for size in frames.size_names:
        trials = searched[searched["size"] == size]
        if trials.empty:
            continue
        stopped = trials[trials["outcome"] == "stopped_early"]
        spared = len(frames.targets) * len(stopped) - int(stopped["targets_finished"].fillna(0).sum())
        distinct = stages(StudyFrames(frames.sizes, trials, frames.scores, frames.benchmarks, frames.context))
        rows.append(
            {
                "size": size,
                "trials": len(trials),
                "targets_in_all": len(frames.targets) * len(trials),
                "targets_not_trained": spared,
                "stages_asked": int(distinct["trials"].sum()),
                "stages_made": len(distinct),
            }
        )
    return frame(rows, _SAVINGS)


def rung_agreement(frames: StudyFrames) -> pd.DataFrame:
    """Agreement of the ranking by mean dev score after n targets with the final ranking, over complete trials.

    Kendall's tau-b with a 95% interval (Fisher's z with variance 0.437 / (n - 4), Fieller, Hartley and Pearson 1957), NaN below
    five trials. `best_kept`: the trial best at the end is in the better half after them. The score averages the dev scores of
    the `targets` with a dev set finished by then, as the search does; targets without a dev set are left out.
    """
    dev = frames.scores[(frames.scores["split"] == "dev") & (frames.scores["language"] == MEAN)]
    complete = frames.searched[frames.searched["outcome"] == "complete"]
    with_dev = [task for task in frames.targets if task in set(dev["task"])]
    rows = []
    for size in frames.size_names:
        ids = complete.loc[complete["size"] == size, "trial_id"]
        own = dev[(dev["size"] == size) & dev["trial_id"].isin(ids)]
        by_task = own.pivot_table(index="trial_id", columns="task", values="value")
        by_task = by_task.reindex(columns=[task for task in with_dev if task in by_task]).dropna()
        if len(by_task) < 3:
            continue
        final = by_task.mean(axis="columns")
        for count, task in enumerate(by_task.columns[:-1], 1):
            early = by_task.iloc[:, :count].mean(axis="columns")
            tau = float(stats.kendalltau(early, final).statistic)
            low, high = _tau_interval(tau, len(by_task))
            best_rank = int((early > float(early.iloc[int(final.argmax())])).sum())
            rows.append(
                {
                    "size": size,
                    "rung": frames.targets.index(task) + 1,
                    "targets": count,
                    "kendall_tau": tau,
                    "low": low,
                    "high": high,
                    "best_kept": best_rank < math.ceil(len(by_task) / 2),
                    "trials": len(by_task),
                }
            )
    return frame(rows, _AGREEMENT)


def _tau_interval(tau: float, count: int) -> tuple[float, float]:
    if count < 5 or math.isnan(tau):
        return math.nan, math.nan
    half = float(stats.norm.ppf(0.5 + LEVEL / 2)) * math.sqrt(0.437 / (count - 4))
    z = np.arctanh(np.clip(tau, -0.9999, 0.9999))
    return float(np.tanh(z - half)), float(np.tanh(z + half))


def importances(frames: StudyFrames) -> pd.DataFrame:
    """Share of each hyperparameter in the dev score, by Optuna's conditional PED-ANOVA over each size's complete trials.

    The shares of a size add up to 1. A size with fewer than `FEWEST_TRIALS` trials, or without a hyperparameter that varies,
    has no rows.
    """
    import optuna

    logging.getLogger("optuna").setLevel(logging.ERROR)
    rows: list[dict[str, Any]] = []
    for size in frames.size_names:
        own = frames.searched[(frames.searched["size"] == size) & (frames.searched["outcome"] == "complete")]
        own = own[own["dev_score"].notna()]
        if len(own) < FEWEST_TRIALS or own["dev_score"].nunique() < 2:
            continue
        study, parameters = _as_optuna_study(own)
        try:
            shares = optuna.importance.get_param_importances(study) if parameters else {}
        except (ValueError, RuntimeError):  # no quantile of the scores separates the trials
            shares = {}
        rows += [
            {"size": size, "parameter": name, "importance": share, "trials": len(own)} for name, share in shares.items()
        ]
    return frame(rows, _IMPORTANCES)


def _as_optuna_study(trials: pd.DataFrame) -> tuple[optuna.Study, list[str]]:
    """The trials as a study in memory, and the hyperparameters that vary among them."""
    import optuna

    study = optuna.create_study(direction="maximize")
    distributions = {
        name: optuna.distributions.CategoricalDistribution(sorted(trials[name].dropna().unique().tolist()))
        for name in ("intermediate", "lr_intermediate", "lr_target")
        if trials[name].nunique() > 1
    }
    for trial in trials.to_dict("records"):
        params = {name: trial[name] for name in distributions if not pd.isna(trial[name])}
        study.add_trial(
            optuna.trial.create_trial(
                params=params,
                distributions={name: distributions[name] for name in params},
                value=float(trial["dev_score"]),
            )
        )
    return study, list(distributions)
