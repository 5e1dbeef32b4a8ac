"""The trials that comparisons between intermediate tasks are made of."""

from __future__ import annotations

from typing import Literal

import pandas as pd

from analysis.store.frames import StudyFrames, rows_where

Cells = Literal["default", "tuned"]


def chosen_trials(frames: StudyFrames) -> pd.DataFrame:
    """The complete trial best on English dev for each size and intermediate task, with its `dev_score`."""
    ranked = frames.searched[(frames.searched["outcome"] == "complete") & frames.searched["dev_score"].notna()]
    best = ranked.sort_values("dev_score", ascending=False, kind="stable").drop_duplicates(["size", "intermediate"])
    return best.sort_index()[["size", "intermediate", "trial_id", "dev_score"]].reset_index(drop=True)


def counted_trials(frames: StudyFrames, cells: Cells) -> pd.DataFrame:
    """The rows of `trials` that count: default cells, or the trials best on English dev and their repeats."""
    if cells == "default":
        return frames.trials[frames.trials["default_cell"]]
    chosen = set(chosen_trials(frames)[["size", "trial_id"]].itertuples(index=False, name=None))
    source = frames.trials["repeats"].where(frames.trials["repeats"] != "", frames.trials["trial_id"])
    return rows_where(frames.trials, (pair in chosen for pair in zip(frames.trials["size"], source, strict=True)))
