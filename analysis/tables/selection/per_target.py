"""A trial for each target beside one trial for all targets, chosen by the same selector."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from analysis.store.frames import StudyFrames
from analysis.tables.inference import holm
from analysis.tables.selection.candidates import (
    NO_EXAMPLES,
    NO_SIGNAL,
    SELECTORS,
    Candidates,
    choice_per_target,
    one_choice,
    own_scores,
)
from analysis.tables.selection.differences import difference
from analysis.tables.selection.halves import TargetScores, candidates_with_scores

_PER_TARGET = {
    "size": "str",
    "selector": "str",
    "one": "str",
    "each": "str",
    "score_one": "float64",
    "score_each": "float64",
    "difference": "float64",
    "low": "float64",
    "high": "float64",
    "p": "float64",
    "p_holm": "float64",
    "seeds": "int64",
    "targets": "int64",
    "reason": "str",
}


def per_target_choices(frames: StudyFrames) -> pd.DataFrame:
    """One row per size and selector: a trial for each target (Phang et al. 2020) beside one for all, by the same selector.

    Among the trials that are zero-shot, as the main rows of `selection_costs`.

    `score_one` and `score_each` are mean test scores of the trials chosen. `difference` is each minus one, by the runs that
    judge a choice (`selection_costs`), with its interval, `p` and `p_holm` over the table. Neither choice saw a test score, so
    no half of the examples is kept apart. `one` and `each` name the intermediate tasks.
    """
    rows = []
    for size in frames.size_names:
        if (found := candidates_with_scores(frames, size)) is not None:
            rows += [_one_or_each(frames, *found, selector) for selector in SELECTORS]
    table = pd.DataFrame(rows, columns=list(_PER_TARGET))
    table["p_holm"] = holm(table["p"].astype("float64"))
    return table.astype(_PER_TARGET)


def _one_or_each(
    frames: StudyFrames, candidates: Candidates, scores: list[TargetScores], selector: str
) -> dict[str, Any]:
    one, each = one_choice(frames, candidates, selector), choice_per_target(frames, candidates, selector)
    row = {"size": candidates.size, "selector": selector, "targets": len(candidates.tasks)}
    if one is None or each is None:
        return row | {"one": "", "each": "", "seeds": 0, "p": math.nan, "reason": NO_SIGNAL}
    own_KT, targets = own_scores(frames, candidates), np.arange(len(each))
    apart = difference(scores, np.array(each), np.full(len(each), one))
    pairs = zip(candidates.tasks, each, strict=True)
    return row | {
        "one": candidates.intermediates[one],
        "each": "; ".join(f"{task}: {candidates.intermediates[index]}" for task, index in pairs),
        "score_one": float(own_KT[one].mean()),
        "score_each": float(own_KT[each, targets].mean()),
        "difference": apart.value,
        "low": apart.low,
        "high": apart.high,
        "p": apart.p,
        "seeds": len(candidates.runs[0]),
        "reason": "" if pd.notna(apart.low) else NO_EXAMPLES,
    }
