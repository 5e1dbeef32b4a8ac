"""What choosing a trial without labels in the target languages costs, beside choosing by them.

English dev scores can say little about other languages (Keung et al. 2020, 2004.15001: up to 17 points lost). The cost is the
distance to the trial that the target languages' own labels would have chosen among the same trials.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import pandas as pd

from analysis.store.frames import StudyFrames, unique
from analysis.tables.inference import ALPHA, holm
from analysis.tables.selection.candidates import (
    EVERY_TRIAL,
    NO_EXAMPLES,
    NO_SIGNAL,
    SELECTORS,
    ZERO_SHOT,
    Among,
    Candidates,
    choice_per_target,
    has_marked,
    one_choice,
    own_scores,
    why_not_zero_shot,
)
from analysis.tables.selection.differences import gap_to_best
from analysis.tables.selection.halves import TargetScores, candidates_with_scores

ALL_TARGETS = "all targets"
Scope = Literal["one for all", "one for each"]

_COSTS = {
    "size": "str",
    "among": "str",
    "task": "str",
    "scope": "str",
    "selector": "str",
    "chosen": "str",
    "marked": "str",
    "score": "float64",
    "best": "float64",
    "apparent": "float64",
    "cost": "float64",
    "low": "float64",
    "high": "float64",
    "p": "float64",
    "p_holm": "float64",
    "verdict": "str",
    "seeds": "int64",
    "trials": "int64",
    "reason": "str",
}


def selection_costs(frames: StudyFrames) -> pd.DataFrame:
    """One row per size, selector, scope and target, and `ALL_TARGETS`: what the selector's choice loses, in test points.

    A selector chooses among a size's complete trials (`candidates.Candidates`): by English dev, confidence, or agreement
    between languages. The main rows have `among` "zero-shot": choice and best trial are of those whose intermediate choice has
    no labelled data in another language of a target, no test data and no checkpoint that has seen data of a target
    (`candidates.why_not_zero_shot`). Where a size has other trials too, further rows are `among` "every trial", and `marked`
    says of the chosen what is not zero-shot.

    `scope` "one for all": one trial for all targets, by the mean over targets; "one for each": for each target the trial best
    there by the selector, or the one for all where it sees nothing. `chosen` names intermediate tasks. Scores are those of
    `StudyFrames.judged_by`, without English wherever that is recorded.

    `score` is the test score of the choice, `best` the highest of any trial (over all targets: of one trial, or the mean of
    each target's highest), both of the trials chosen from. `apparent` is their distance. It is above zero even among equal
    trials, since the best of several noisy scores was picked by looking. `cost` is free of that: the best trial on a random
    half of the test examples is judged on the other half, both ways, over several splits (`differences.gap_to_best`). Where all
    candidates were repeated with two further `seeds` or more, these judge both choices; else `seeds` is 1, and the cost is that
    of these trained models, luck of their seed included. The cost can be below zero: half the test examples may choose worse.

    `low` and `high`: 95%, over examples and seeds, not corrected. `p` is two-sided, `p_holm` corrected over the table.
    `verdict`: "none" where the choice is the best on every half, "costs" or "gains" where `p_holm` < 0.05, "one seed" where
    nothing was tested, else "unclear"; "" without a cost, with a `reason`. Collapsed runs count as they are.
    """
    groups = [
        (size, among)
        for among in (ZERO_SHOT, EVERY_TRIAL)
        for size in frames.size_names
        if among == ZERO_SHOT or has_marked(frames, size)
    ]
    rows = [{"among": among} | row for size, among in groups for row in _costs_of_size(frames, size, among)]
    table = pd.DataFrame(rows, columns=list(_COSTS))
    table["p_holm"] = holm(table["p"].astype("float64"))
    table["verdict"] = [_verdict(row) for row in table.to_dict("records")]
    return table.astype(_COSTS)


def _costs_of_size(frames: StudyFrames, size: str, among: Among) -> Iterator[dict[str, Any]]:
    if (found := candidates_with_scores(frames, size, among)) is None:
        return
    candidates, scores = found
    own_KT = own_scores(frames, candidates)
    for selector in SELECTORS:
        one = one_choice(frames, candidates, selector)
        each = choice_per_target(frames, candidates, selector)
        if one is None or each is None:
            yield {"size": size, "task": ALL_TARGETS, "scope": "one for all", "selector": selector} | _without_signal(
                candidates
            )
            continue
        choices: dict[Scope, list[int]] = {"one for all": [one] * len(each), "one for each": each}
        for scope, chosen in choices.items():
            whole = list(range(len(each)))
            for task, places in [(ALL_TARGETS, whole), *((candidates.tasks[place], [place]) for place in whole)]:
                named = {"size": size, "task": task, "scope": scope, "selector": selector}
                cost = _cost(
                    candidates,
                    [scores[place] for place in places],
                    own_KT[:, places],
                    np.array([chosen[place] for place in places]),
                    one_for_all=scope == "one for all",
                )
                yield named | cost | {"marked": _marked(frames, size, cost["chosen"])}


def _cost(
    candidates: Candidates, scores: list[TargetScores], own_KT: np.ndarray, chosen: np.ndarray, *, one_for_all: bool
) -> dict[str, Any]:
    score = float(own_KT[chosen, np.arange(len(chosen))].mean())
    best = float(own_KT.mean(axis=1).max() if one_for_all else own_KT.max(axis=0).mean())
    gap = gap_to_best(scores, chosen, one_for_all=one_for_all)
    row = {
        "chosen": "; ".join(unique(candidates.intermediates[index] for index in chosen)),
        "score": score,
        "best": best,
        "apparent": best - score,
        "seeds": len(candidates.runs[0]),
        "trials": len(candidates.trials),
        "reason": NO_EXAMPLES if gap is None else "",
    }
    return row | ({} if gap is None else {"cost": gap.value, "low": gap.low, "high": gap.high, "p": gap.p})


def _marked(frames: StudyFrames, size: str, chosen: str) -> str:
    """Which of the chosen are not zero-shot, and why; "" if all are."""
    reasons = {name: why_not_zero_shot(frames, size, name) for name in chosen.split("; ")}
    return "; ".join(f"{name}: {reason}" for name, reason in reasons.items() if reason)


def _without_signal(candidates: Candidates) -> dict[str, Any]:
    return {"chosen": "", "marked": "", "seeds": 0, "trials": len(candidates.trials), "reason": NO_SIGNAL}


def _verdict(row: dict[Any, Any]) -> str:
    if pd.isna(row["cost"]):
        return ""
    if row["low"] == row["high"] == row["cost"] == 0:
        return "none"
    if pd.isna(row["p_holm"]):
        return "one seed" if row["seeds"] < 2 else "unclear"
    if row["p_holm"] < ALPHA:
        return "costs" if row["cost"] > 0 else "gains"
    return "unclear"
