"""What a configuration scores over the seeds it was trained with, and how well that is known."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis.store.examples import Floats, Key
from analysis.store.frames import StudyFrames
from analysis.tables.inference import example_variance, infer


@dataclass(frozen=True)
class SeedRun:
    """A trial, or its repeat with another seed, with its test scores by task in percent."""

    trial_id: str
    scores: Mapping[str, float]


@dataclass(frozen=True)
class OverSeeds:
    """The mean over seeds with its 95 % interval (NaN: unknown), and what that covers."""

    mean: float
    low: float
    high: float
    seeds: int
    covers: str


def seed_runs(frames: StudyFrames, key: Key, tasks: Sequence[str], language: str) -> dict[int, SeedRun]:
    """By seed, the complete ones of a trial and its repeats that were scored on every task; `language` as in `SCORES`."""
    trials = frames.trials[(frames.trials["size"] == key[0]) & (frames.trials["outcome"] == "complete")]
    own = trials[(trials["trial_id"] == key[1]) | (trials["repeats"] == key[1])]
    scores = frames.scores
    wanted = scores[(scores["size"] == key[0]) & (scores["split"] == "test") & (scores["language"] == language)]
    wanted = wanted[wanted["task"].isin(tasks) & wanted["value"].notna() & wanted["trial_id"].isin(own["trial_id"])]
    by_trial: dict[str, dict[str, float]] = {}
    for trial, task, value in wanted[["trial_id", "task", "value"]].itertuples(index=False, name=None):
        by_trial.setdefault(trial, {})[task] = value
    return {
        int(seed): SeedRun(trial, by_trial[trial])
        for seed, trial in zip(own["seed"].fillna(-1), own["trial_id"], strict=True)
        if tasks and by_trial.get(trial, {}).keys() == set(tasks)
    }


def served_score(row: Mapping[str, Any], tasks: Sequence[str], runs: Mapping[int, SeedRun]) -> dict[int, float]:
    """By seed, the score over the tasks that a row of `tradeoff.configurations` has, or would have if it served that seed.

    One seed's model alone was scored as it is served. What serving changed there, over all its targets if it is not known for
    these, is taken to hold for the others.
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


def over_seeds(frames: StudyFrames, row: Mapping[str, Any]) -> OverSeeds:
    """Of a row of `tradeoff.configurations`, over its own targets; without complete runs, the score as measured."""
    key, tasks, language = (str(row["size"]), str(row["trial_id"])), list(row["task_scores"]), str(row["judged_by"])
    runs = seed_runs(frames, key, tasks, language)
    scores = np.array(list(served_score(row, tasks, runs).values()))
    if not len(scores) or math.isnan(row["score"]):
        return OverSeeds(float(row["score"]), math.nan, math.nan, 0, "nothing: no complete run has its targets")
    drawn = [mean_draws(frames, (key[0], run.trial_id), tasks, language) for run in runs.values()]
    draws = [one for one in drawn if one is not None]
    whole = len(draws) == len(scores)
    found = infer(
        [scores.mean()],
        [scores.var(ddof=1) if len(scores) > 1 else math.nan],
        df=[len(scores) - 1],
        seeds=[len(scores)],
        example_variances=[example_variance(np.stack(draws)) if whole else math.nan],
    )
    covers = ([f"{len(scores)} seeds"] if len(scores) > 1 else []) + (["test examples"] if whole else [])
    said = " and ".join(covers) or "nothing: one seed, no examples"
    return OverSeeds(float(scores.mean()), float(found.low[0]), float(found.high[0]), len(scores), said)


def mean_draws(frames: StudyFrames, key: Key, tasks: Sequence[str], language: str) -> Floats | None:
    """Mean scores over the tasks on resampled test sets; None where a task has no examples."""
    drawn = [frames.examples.draws(key, task, language) for task in tasks]
    known = [one for one in drawn if one is not None]
    return np.mean(known, axis=0) if known and len(known) == len(drawn) else None
