"""Among which trials of a size a choice is made, what each selector sees of them, and by which runs a choice is judged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from analysis.store.examples import Floats
from analysis.store.frames import UNKNOWN, StudyFrames

FEWEST_SEEDS = 2  # further seeds of every candidate, from which on they judge instead of the runs that were chosen from
ENGLISH_DEV = "English dev"
# What may choose without a label in a target language: the name in tables, and the signal in `StudyFrames.diagnostics`.
LABEL_FREE = {"confidence": "confidence", "agreement between languages": "agreement"}
SELECTORS = (ENGLISH_DEV, *LABEL_FREE)
Among = Literal["zero-shot", "every trial"]
ZERO_SHOT: Among = "zero-shot"
EVERY_TRIAL: Among = "every trial"
NO_SIGNAL = "not recorded for every trial: scored by an earlier version, or no target provides it"
NO_EXAMPLES = "scores by test example are not recorded"


@dataclass(frozen=True)
class Candidates:
    """Complete trials of a size's search, at least two, that were scored on every one of `tasks`.

    `trials`: their ids in the order of the search; `intermediates`: what they were first trained on. `runs`: for each the runs
    that judge it. They are its repeats with those further seeds that every candidate was repeated with, if `fresh`: then no
    choice has seen them. Otherwise, it is the trial itself.
    """

    size: str
    trials: tuple[str, ...]
    intermediates: tuple[str, ...]
    tasks: tuple[str, ...]
    runs: tuple[tuple[str, ...], ...]
    fresh: bool


def why_not_zero_shot(frames: StudyFrames, size: str, intermediate: str) -> str:
    """What an intermediate choice has of the targets' other languages or tests, as a phrase; "" if nothing is known.

    English training data that it shares with a target ("same data") make no gain of transfer, but the target's scores in other
    languages stay zero-shot.
    """
    languages = frames.not_zero_shot_in_words(intermediate, frames.targets)
    flags = {task: frames.contamination_flag(size, intermediate, task) for task in frames.targets}
    leaks, seen = ([task for task, flag in flags.items() if flag == name] for name in ("leak", "seen"))
    reasons = [
        "unknown languages" if languages == UNKNOWN else f"trained in {languages}" if languages else "",
        f"reads tests of {', '.join(leaks)}" if leaks else "",
        f"has seen data of {', '.join(seen)}" if seen else "",
    ]
    return ", ".join(filter(None, reasons))


def has_marked(frames: StudyFrames, size: str) -> bool:
    """Whether some complete trial of the size is not zero-shot."""
    searched = frames.searched[(frames.searched["size"] == size) & (frames.searched["outcome"] == "complete")]
    return any(why_not_zero_shot(frames, size, str(name)) for name in searched["intermediate"].unique())


def candidates_of(frames: StudyFrames, size: str, among: Among = ZERO_SHOT) -> Candidates | None:
    """The candidates of a size, those that are zero-shot or all; None if there is nothing to choose between."""
    judged = frames.judged()
    by_run = judged[judged["size"] == size].pivot_table(index="trial_id", columns="task", values="value")
    complete = frames.trials[(frames.trials["size"] == size) & (frames.trials["outcome"] == "complete")]
    complete = complete[complete["trial_id"].isin(by_run.index)].drop_duplicates("trial_id")
    searched = complete[complete["kind"] == "trial"]
    if among == ZERO_SHOT:
        marked = {name for name in searched["intermediate"].unique() if why_not_zero_shot(frames, size, str(name))}
        searched = searched[~searched["intermediate"].isin(marked)]
    by_trial = by_run.reindex(searched["trial_id"]).dropna(axis="columns")
    tasks = tuple(task for task in frames.targets if task in by_trial)
    if len(searched) < 2 or not tasks:
        return None
    scored = by_run.reindex(columns=list(tasks)).dropna().index
    trials = tuple(map(str, searched["trial_id"]))
    repeats = complete[(complete["kind"] == "repeat") & complete["trial_id"].isin(scored)].dropna(subset=["seed"])
    runs_of = {trial: _by_seed(repeats[repeats["repeats"] == trial]) for trial in trials}
    own_seeds = set(searched["seed"].dropna())
    seeds = sorted(set.intersection(*(set(runs) for runs in runs_of.values())) - own_seeds)
    fresh = len(seeds) >= FEWEST_SEEDS
    runs = tuple(tuple(runs_of[trial][seed] for seed in seeds) if fresh else (trial,) for trial in trials)
    return Candidates(size, trials, tuple(map(str, searched["intermediate"])), tasks, runs, fresh)


def own_scores(frames: StudyFrames, candidates: Candidates) -> Floats:
    """Test scores of the candidates themselves: (K, T)."""
    judged = frames.judged()
    by_run = judged[judged["size"] == candidates.size].pivot_table(index="trial_id", columns="task", values="value")
    scores: Floats = by_run.loc[list(candidates.trials), list(candidates.tasks)].to_numpy()
    return scores


def _by_seed(repeats: pd.DataFrame) -> dict[int, str]:
    return dict(zip(map(int, repeats["seed"]), map(str, repeats["trial_id"]), strict=True))


def selector_values(frames: StudyFrames, candidates: Candidates, selector: str) -> Floats:
    """What the selector sees of each candidate on each target, higher is better: (K, T), NaN where it sees nothing.

    A target that not every candidate has a value of is NaN for all: there the selector cannot compare them.
    """
    if selector == ENGLISH_DEV:
        table = frames.judged("dev")
    else:
        table = frames.diagnostics[frames.diagnostics["signal"] == LABEL_FREE[selector]]
    by_trial = table[table["size"] == candidates.size].pivot_table(index="trial_id", columns="task", values="value")
    values = by_trial.reindex(index=list(candidates.trials), columns=list(candidates.tasks)).to_numpy(
        dtype="float64", copy=True
    )
    values[:, np.isnan(values).any(axis=0)] = np.nan
    return values


def one_choice(frames: StudyFrames, candidates: Candidates, selector: str) -> int | None:
    """The candidate with the highest mean over the targets that the selector sees, the first of equals; None if it sees none.

    For English dev the mean is the trial's own `dev_score`, as the search has it.
    """
    if selector == ENGLISH_DEV:
        own = frames.trials[frames.trials["size"] == candidates.size].drop_duplicates("trial_id").set_index("trial_id")
        scores = own["dev_score"].reindex(list(candidates.trials)).to_numpy(dtype="float64")
        return None if np.isnan(scores).all() else int(np.nanargmax(scores))
    values = selector_values(frames, candidates, selector)
    seen = ~np.isnan(values[0])
    return int(values[:, seen].mean(axis=1).argmax()) if seen.any() else None


def choice_per_target(frames: StudyFrames, candidates: Candidates, selector: str) -> list[int] | None:
    """For each target the candidate with its highest value there; the one choice for all where the selector sees nothing."""
    otherwise = one_choice(frames, candidates, selector)
    if otherwise is None:
        return None
    values = selector_values(frames, candidates, selector)
    return [otherwise if np.isnan(column[0]) else int(column.argmax()) for column in values.T]
