"""Targets that no size learned: a mean over them says nothing about transfer."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats

from analysis.store.frames import StudyFrames, frame
from analysis.tables.gains import counted_trials
from analysis.tables.inference import LEVEL

NEAR_CHANCE_POINTS = 1.0  # a score this close to chance counts as chance, however small its standard error

_TARGETS = {"task": "str", "chance": "float64", "size": "str", "score": "float64", "at_chance": "bool"}


def targets_against_chance(frames: StudyFrames) -> pd.DataFrame:
    """One row per scored target: the score of guessing, and the score of the size that does best.

    A size's `score` averages the trials best on English dev for each intermediate task and their repeats, so that neither one
    lucky trial nor a poor learning rate decides. `at_chance`: for no size is that mean more than `NEAR_CHANCE_POINTS` above
    `chance` and, where examples are recorded, the lower end of its 95% interval over test examples above it. A target without
    a recorded chance (NaN) is not `at_chance`.
    """
    trials = counted_trials(frames, "tuned")
    trials = frames.trials if trials.empty else trials
    scores = frames.judged().dropna(subset=["value"]).merge(trials[["size", "trial_id"]].drop_duplicates())
    chances = frames.scores.groupby("task")["chance"].max().to_dict()
    rows = []
    for task in frames.targets:
        of_task = scores[scores["task"] == task]
        if of_task.empty:
            continue
        means = of_task.groupby("size", sort=False)["value"].mean()
        chance = float(chances.get(task, math.nan))
        above = [
            score - chance > max(NEAR_CHANCE_POINTS, _half_width(frames, of_task[of_task["size"] == size]))
            for size, score in means.items()
        ]
        row = {"task": task, "chance": chance, "size": means.idxmax(), "score": means.max()}
        rows.append(row | {"at_chance": not math.isnan(chance) and not any(above)})
    return frame(rows, _TARGETS)


def at_chance(frames: StudyFrames) -> list[str]:
    """Targets that no size scores above chance, in the study's order; empty if that holds for every target."""
    table = targets_against_chance(frames)
    return [] if table["at_chance"].all() else list(table.loc[table["at_chance"], "task"])


def mean_over(scores: dict[str, float], tasks: Sequence[str]) -> float:
    """Mean over these targets; NaN if one of them is missing."""
    return float(np.mean([scores.get(task, math.nan) for task in tasks])) if tasks else math.nan


def _half_width(frames: StudyFrames, scored: pd.DataFrame) -> float:
    """Half the interval of the mean over these trials of one target, over test examples; 0 where none are recorded."""
    draws = [
        frames.examples.draws((row["size"], row["trial_id"]), row["task"], row["language"])
        for row in scored.to_dict("records")
    ]
    known = [drawn for drawn in draws if drawn is not None]
    if not known:
        return 0.0
    return float(stats.norm.ppf(0.5 + LEVEL / 2) * np.mean(known, axis=0).std(ddof=1))
