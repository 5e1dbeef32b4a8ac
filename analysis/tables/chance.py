"""Targets that no size learned, and runs that did not learn a target: means over them say nothing about transfer."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats

from analysis.store.counted import counted_trials
from analysis.store.frames import MEAN, StudyFrames, frame, rows_where
from analysis.tables.inference import LEVEL

NEAR_CHANCE_POINTS = 1.0  # a score this close to chance counts as chance, however small its standard error
FAR_POINTS = 25.0  # farther above is not chance: an interval so wide takes fewer than 16 examples
FELL = 0.05  # a loss that fell by less never fell: the first is of a single batch, and batches differ by some percent
DEV_POINTS = 5.0  # two standard errors of 400 examples at 50%: a dev score this close to chance may be chance

_TARGETS = {"task": "str", "chance": "float64", "size": "str", "score": "float64", "at_chance": "bool"}

_COLLAPSED = {
    "size": "str",
    "trial_id": "str",
    "intermediate": "str",
    "seed": "Int64",
    "task": "str",
    "score": "float64",
    "dev_score": "float64",
    "chance": "float64",
    "reason": "str",
    "replaced_by": "str",
}


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
            not near_chance(frames, score, chance, of_task[of_task["size"] == size]) for size, score in means.items()
        ]
        row = {"task": task, "chance": chance, "size": means.idxmax(), "score": means.max()}
        rows.append(row | {"at_chance": not math.isnan(chance) and not any(above)})
    return frame(rows, _TARGETS)


def collapsed_runs(frames: StudyFrames) -> pd.DataFrame:
    """One row per run and trained target at chance after training, in English dev as on test, where the target can be learned.

    Such a run says that training failed (too few steps, a poor rate, an unlucky seed), not what an intermediate task
    transfers. On test the mean over all languages, English included, must be within the larger of
    `NEAR_CHANCE_POINTS` and its 95% interval over test examples of `chance`; on dev the score within `DEV_POINTS`. A
    run that learned English and transfers nothing is not collapsed. `reason` adds what became of the loss of the target's
    training, where that is recorded: it never fell, or it fell and nothing was learned that English dev shows. `replaced_by`
    names the run of the same choice with another seed that is in its place (`gains.paired_scores`), else "". Not listed:
    targets at chance in every size (`targets_against_chance`), those without training, those without a dev score, and those
    without a recorded chance.
    """
    return frames.once("collapsed_runs", _collapsed_runs).copy()


def _collapsed_runs(frames: StudyFrames) -> pd.DataFrame:
    against = targets_against_chance(frames)
    learned = set(against.loc[~against["at_chance"], "task"]) - set(frames.context.get("untrained", ()))
    scores = frames.scores[(frames.scores["language"] == MEAN) & frames.scores["task"].isin(learned)]
    chances = {task: float(value) for task, value in frames.scores.groupby("task")["chance"].max().items()}
    keys = ["size", "trial_id", "intermediate", "task"]
    dev = scores[scores["split"] == "dev"][[*keys, "value"]].rename(columns={"value": "dev_score"})
    test = scores[scores["split"] == "test"][[*keys, "language", "value"]].rename(columns={"value": "score"})
    both = test.merge(dev, on=keys).dropna(subset=["score", "dev_score"])
    both = both.assign(chance=both["task"].map(chances).astype("float64"))
    both = both[both["dev_score"] - both["chance"] <= DEV_POINTS]  # drops targets without a chance
    collapsed = (
        near_chance(frames, row["score"], row["chance"], pd.DataFrame([row])) for row in both.to_dict("records")
    )
    rows = rows_where(both, collapsed)
    seeds = frames.trials[["size", "trial_id", "seed"]].drop_duplicates(["size", "trial_id"])
    listed = rows.merge(seeds, on=["size", "trial_id"], how="left").to_dict("records")
    losses = _losses(frames)
    replaced_by = _replaced_by(frames)
    return frame(
        (
            {str(name): value for name, value in row.items()}
            | {
                "reason": _reason(losses.get((row["size"], row["trial_id"], row["task"]), {})),
                "replaced_by": replaced_by.get((row["size"], row["trial_id"]), ""),
            }
            for row in listed
        ),
        _COLLAPSED,
    )


def _replaced_by(frames: StudyFrames) -> dict[tuple[str, str], str]:
    """By size and collapsed run, the run of the same trial that was made in its place."""
    runs = frames.trials[["size", "trial_id", "repeats", "in_place_of"]].to_dict("records")
    trial_of = {(run["size"], run["trial_id"]): run["repeats"] or run["trial_id"] for run in runs}
    return {
        (run["size"], collapsed): run["trial_id"]
        for run in runs
        for collapsed in filter(None, run["in_place_of"].split(", "))
        if trial_of.get((run["size"], collapsed)) == run["repeats"]
    }


def _losses(frames: StudyFrames) -> dict[tuple[str, str, str], dict[str, float]]:
    """First and final loss of the target's training by size, trial and task, where they are recorded."""
    losses: dict[tuple[str, str, str], dict[str, float]] = {}
    recorded = frames.diagnostics[frames.diagnostics["signal"].isin(["first_loss", "final_loss"])]
    for size, trial, task, signal, value in recorded.itertuples(index=False, name=None):
        losses.setdefault((size, trial, task), {})[signal] = value
    return losses


def _reason(losses: dict[str, float]) -> str:
    first, final = losses.get("first_loss", math.nan), losses.get("final_loss", math.nan)
    if math.isnan(first) or math.isnan(final):
        return "at chance; its losses are not recorded"
    if final > (1 - FELL) * first:
        return f"at chance; its loss never fell ({first:.2f} to {final:.2f})"
    return f"at chance, although its loss fell ({first:.2f} to {final:.2f})"


def collapsed_keys(frames: StudyFrames) -> set[tuple[str, str, str]]:
    """Size, trial id and target of `collapsed_runs`."""
    return set(collapsed_runs(frames)[["size", "trial_id", "task"]].itertuples(index=False, name=None))


def at_chance(frames: StudyFrames) -> list[str]:
    """Targets that no size scores above chance, in the study's order; empty if that holds for every target."""
    table = targets_against_chance(frames)
    return [] if table["at_chance"].all() else list(table.loc[table["at_chance"], "task"])


def mean_over(scores: dict[str, float], tasks: Sequence[str]) -> float:
    """Mean over these targets; NaN if one of them is missing."""
    return float(np.mean([scores.get(task, math.nan) for task in tasks])) if tasks else math.nan


def near_chance(frames: StudyFrames, score: float, chance: float, scored: pd.DataFrame) -> bool:
    """Whether a score is at most `NEAR_CHANCE_POINTS` above chance, or its 95% interval over test examples reaches chance.

    `scored`: the rows of `frames.scores` that the score averages, of one target.
    """
    distance = score - chance
    if distance <= NEAR_CHANCE_POINTS or math.isnan(distance):
        return distance <= NEAR_CHANCE_POINTS
    return distance <= FAR_POINTS and distance <= _half_width(frames, scored)


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
