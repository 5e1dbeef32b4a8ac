"""Mean score of a configuration over its seeds, and how certain it is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.store.examples import Floats, Key
from analysis.store.frames import StudyFrames
from analysis.tables.inference import example_variance, infer


@dataclass(frozen=True)
class SeedRun:
    """A trial, or its repeat with another seed, with its test scores (percent) by task."""

    trial_id: str
    scores: Mapping[str, float]


@dataclass(frozen=True)
class SeedMean:
    """The mean over `seeds` with its 95% interval (NaN: unknown); `covers` names the interval's sources of error."""

    mean: float
    low: float
    high: float
    seeds: int
    covers: str


def searched_as(frames: StudyFrames, key: Key) -> Key:
    """The size and trial that this one repeats, or its own: of joined runs, a later one's model may be the one served."""
    trials = frames.trials
    repeated = trials.loc[(trials["size"] == key[0]) & (trials["trial_id"] == key[1]), "repeats"]
    return key[0], next((name for name in repeated if name), key[1])


def seed_runs(frames: StudyFrames, key: Key, tasks: Sequence[str], language: str) -> dict[int, SeedRun]:
    """The complete runs of a trial and its repeats that were scored on every task, by seed; `language` as in `SCORES`.

    `key` may name one of the repeats.
    """
    key = searched_as(frames, key)
    trials = frames.trials[(frames.trials["size"] == key[0]) & (frames.trials["outcome"] == "complete")]
    own = trials[(trials["trial_id"] == key[1]) | (trials["repeats"] == key[1])]
    scores = frames.scores
    rows = scores[(scores["size"] == key[0]) & (scores["split"] == "test") & (scores["language"] == language)]
    rows = rows[rows["task"].isin(tasks) & rows["value"].notna() & rows["trial_id"].isin(own["trial_id"])]
    by_trial: dict[str, dict[str, float]] = {}
    for trial, task, value in rows[["trial_id", "task", "value"]].itertuples(index=False, name=None):
        by_trial.setdefault(trial, {})[task] = value
    return {
        int(seed): SeedRun(trial, by_trial[trial])
        for seed, trial in zip(own["seed"].fillna(-1), own["trial_id"], strict=True)
        if tasks and by_trial.get(trial, {}).keys() == set(tasks)
    }


def served_scores(row: Mapping[str, Any], tasks: Sequence[str], runs: Mapping[int, SeedRun]) -> dict[int, float]:
    """Score over the tasks by seed, as a row of `tradeoff.configurations` has it or would have it if it served that seed.

    Only one seed's model was scored as served. The change that serving made to it is assumed for the other seeds; it is taken
    over all its targets where it is unknown for these.
    """
    own = next((run for run in runs.values() if run.trial_id == row["trial_id"]), None)
    if own is None:
        return {}
    served: Mapping[str, float] = row["judged_scores"]
    if served.keys() >= set(tasks):
        change = float(np.mean([served[task] - own.scores[task] for task in tasks]))
    elif row["task_scores"].keys() == set(tasks):
        change = float(row["score"]) - float(np.mean(list(own.scores.values())))
    else:
        change = 0.0
    return {seed: float(np.mean(list(run.scores.values()))) + change for seed, run in runs.items()}


def mean_over_seeds(frames: StudyFrames, row: Mapping[str, Any]) -> SeedMean:
    """The seed mean of a row of `tradeoff.configurations` over its own targets; without complete runs, its score as served."""
    key, tasks, language = (str(row["size"]), str(row["trial_id"])), list(row["task_scores"]), str(row["judged_by"])
    runs = seed_runs(frames, key, tasks, language)
    scores = np.array(list(served_scores(row, tasks, runs).values()))
    if not len(scores) or math.isnan(row["score"]):
        return SeedMean(float(row["score"]), math.nan, math.nan, 0, "nothing: no complete run has its targets")
    drawn = [mean_draws(frames, (key[0], run.trial_id), tasks, language) for run in runs.values()]
    draws = [of_seed for of_seed in drawn if of_seed is not None]
    with_examples = len(draws) == len(scores)
    inferred = infer(
        [scores.mean()],
        [scores.var(ddof=1) if len(scores) > 1 else math.nan],
        df=[len(scores) - 1],
        seeds=[len(scores)],
        example_variances=[example_variance(np.stack(draws)) if with_examples else math.nan],
    )
    sources = ([f"{len(scores)} seeds"] if len(scores) > 1 else []) + (["test examples"] if with_examples else [])
    covers = " and ".join(sources) or "nothing: one seed, no examples"
    return SeedMean(float(scores.mean()), float(inferred.low[0]), float(inferred.high[0]), len(scores), covers)


def mean_draws(frames: StudyFrames, key: Key, tasks: Sequence[str], language: str) -> Floats | None:
    """Mean scores over the tasks on resampled test sets; None if a task has no examples."""
    drawn = [frames.examples.draws(key, task, language) for task in tasks]
    known = [of_task for of_task in drawn if of_task is not None]
    return np.mean(known, axis=0) if known and len(known) == len(drawn) else None


def trial_means(frames: StudyFrames, tasks: Sequence[str], *, language: str) -> pd.DataFrame:
    """Mean test score over these tasks and all seeds of each trial (`size`, `trial_id`, `intermediate`, `score`, `seeds`).

    Only complete runs scored on every task count. `language` as in `SCORES`.
    """
    trials = frames.trials[frames.trials["outcome"] == "complete"]
    source = trials["repeats"].where(trials["repeats"] != "", trials["trial_id"])
    scores = frames.scores[(frames.scores["split"] == "test") & (frames.scores["language"] == language)]
    by_run = scores.pivot_table(index=["size", "trial_id"], columns="task", values="value").reindex(columns=list(tasks))
    means = by_run.dropna().mean(axis="columns").rename("score").reset_index()
    runs = trials.assign(source=source).merge(means, on=["size", "trial_id"])
    grouped = runs.groupby(["size", "source"], sort=False).agg(
        intermediate=("intermediate", "first"), score=("score", "mean"), seeds=("trial_id", "nunique")
    )
    return grouped.reset_index().rename(columns={"source": "trial_id"})
