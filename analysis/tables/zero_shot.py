"""Gains of intermediate tasks that are trained in other languages than English: where they are zero-shot, and where not."""

from __future__ import annotations

from typing import Any

import pandas as pd

from analysis.store.counted import Cells
from analysis.store.frames import ENGLISH, StudyFrames, frame
from analysis.tables.gains import paired_scores

_SPLIT_GAINS = {
    "size": "str",
    "intermediate": "str",
    "task": "str",
    "trained_languages": "str",
    "gain_trained": "float64",
    "gain_untrained": "float64",
    "sd_untrained": "float64",
    "untrained": "int64",
    "n": "int64",
}
_SPLIT_AVERAGES = {
    "size": "str",
    "intermediate": "str",
    "trained_languages": "str",
    "gain_trained": "float64",
    "gain_untrained": "float64",
    "sd_untrained": "float64",
    "targets": "int64",
    "seeds": "int64",
}


def split_gains(frames: StudyFrames, *, cells: Cells = "default") -> pd.DataFrame:
    """Gains apart by language: one row per size, intermediate task and target with a test set in a language it is trained in.

    `trained_languages` are those of the target's that the intermediate task has labelled training data in; English, in which
    every model is supervised, is in neither mean. `gain_trained` and `gain_untrained` average the languages, then the `n`
    paired seeds; only the second is zero-shot, over `untrained` languages (NaN: none). `sd_untrained` is over seeds.
    Collapsed runs and pairs with a contamination flag are left out. Nothing is tested.
    """
    rows = []
    for (size, intermediate, task), pairs in _pairs(frames, cells).groupby(["size", "intermediate", "task"], sort=False):
        trained = frames.not_zero_shot(str(intermediate), str(task))
        in_trained = pairs["language"].isin(trained)
        untrained = _by_seed(pairs[~in_trained])
        rows.append(
            {
                "size": size,
                "intermediate": intermediate,
                "task": task,
                "trained_languages": ", ".join(trained),
                "gain_trained": _by_seed(pairs[in_trained]).mean(),
                "gain_untrained": untrained.mean(),
                "sd_untrained": untrained.std(ddof=1),
                "untrained": pairs.loc[~in_trained, "language"].nunique(),
                "n": pairs["seed"].nunique(),
            }
        )
    return frame(rows, _SPLIT_GAINS)


def split_averages(frames: StudyFrames, *, cells: Cells = "default") -> pd.DataFrame:
    """Means over targets of `split_gains`, per size and intermediate task; `sd_untrained` is over the `seeds` of the mean.

    Over the `targets` that have both kinds of languages, so that the two means are of the same targets.
    """
    rows: list[dict[str, Any]] = []
    for (size, intermediate), pairs in _pairs(frames, cells).groupby(["size", "intermediate"], sort=False):
        pairs = pairs.assign(
            trained=[
                language in frames.not_zero_shot(str(intermediate), task)
                for task, language in zip(pairs["task"], pairs["language"], strict=True)
            ]
        )
        both = pairs.groupby("task")["trained"].nunique() == 2
        pairs = pairs[pairs["task"].isin(both.index[both])]
        if pairs.empty:
            continue
        means = pairs.groupby(["trained", "task", "seed"])["difference"].mean()
        by_seed = means.groupby(["trained", "seed"]).mean()
        rows.append(
            {
                "size": size,
                "intermediate": intermediate,
                "trained_languages": ", ".join(frames.trained_languages(str(intermediate))),
                "gain_trained": by_seed.loc[True].mean(),
                "gain_untrained": by_seed.loc[False].mean(),
                "sd_untrained": by_seed.loc[False].std(ddof=1),
                "targets": pairs["task"].nunique(),
                "seeds": pairs["seed"].nunique(),
            }
        )
    return frame(rows, _SPLIT_AVERAGES)


def _pairs(frames: StudyFrames, cells: Cells) -> pd.DataFrame:
    """Paired scores in every language but English, of pairs that are trained in one of the target's languages."""
    others = [language for language in frames.languages if language != ENGLISH]
    pairs = paired_scores(frames, languages=others, cells=cells)
    pairs = pairs[~pairs["collapsed"]]
    keep = [
        bool(frames.not_zero_shot(intermediate, task)) and not frames.contamination_flag(intermediate, task)
        for intermediate, task in zip(pairs["intermediate"], pairs["task"], strict=True)
    ]
    return pairs[pd.Series(keep, index=pairs.index, dtype=bool)]


def _by_seed(pairs: pd.DataFrame) -> pd.Series[float]:
    return pairs.groupby("seed")["difference"].mean()
