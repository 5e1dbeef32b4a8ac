"""What an English intermediate task added: paired differences against no intermediate task."""

from __future__ import annotations

from typing import Any

import pandas as pd

from analysis.frames import MEAN, NONE, StudyFrames

Pair = tuple[float, int]
Pairs = dict[Pair, float]

_DTYPES = {
    "size": "str",
    "intermediate": "str",
    "task": "str",
    "gain": "float64",
    "sd": "float64",
    "score": "float64",
    "score_none": "float64",
    "chance": "float64",
    "n": "int64",
    "reason": "str",
    "mark": "str",
}


def gains(frames: StudyFrames, *, split: str = "test", language: str = MEAN) -> pd.DataFrame:
    """A row for every size, intermediate (none left out) and target: the gain over "none", in percentage points.

    Only default cells count, paired on seed and target learning rate within a size, so that the intermediate task is
    the one difference. `gain` is the mean over the `n` seeds paired, `sd` their sample standard deviation (NaN below
    two), `score` and `score_none` the means on both sides, `chance` the score of guessing. A cell without a pair is NaN
    with n = 0 and says why in `reason` ("" otherwise). `mark` is "same data" where the intermediate task was trained on what
    the target is trained on, "leak" where on what it is scored on, else "": a marked gain is no transfer. `language` is a
    code or one of `frames.AGGREGATES`.
    """
    trials = frames.trials[frames.trials["default_cell"]]
    chances = frames.scores.groupby("task")["chance"].max().to_dict()
    scored = _default_scores(frames, split=split, language=language)

    def outcomes(size: str, intermediate: str) -> set[str]:
        return set(trials.loc[(trials["size"] == size) & (trials["intermediate"] == intermediate), "outcome"])

    rows: list[dict[str, Any]] = []
    for size in frames.size_names:
        baseline_outcomes = outcomes(size, NONE)
        for intermediate in frames.intermediates:
            if intermediate == NONE:
                continue
            own_outcomes = outcomes(size, intermediate)
            for task in frames.targets:
                own, baseline = scored.get((size, intermediate, task), {}), scored.get((size, NONE, task), {})
                row = _paired(own, baseline)
                if row["n"] == 0:
                    row["reason"] = _reason(
                        own, baseline, own_outcomes=own_outcomes, baseline_outcomes=baseline_outcomes
                    )
                cell = {"size": size, "intermediate": intermediate, "task": task, "chance": chances.get(task)}
                rows.append(cell | row | {"mark": frames.mark(intermediate, task)})
    return pd.DataFrame(rows, columns=list(_DTYPES)).astype(_DTYPES)


def _default_scores(frames: StudyFrames, *, split: str, language: str) -> dict[tuple[str, str, str], Pairs]:
    """Scores of default cells by (size, intermediate, task), then by what pairs them; a repeated trial is averaged."""
    drawn = {
        (row["size"], row["trial_id"]): (
            -1.0 if pd.isna(row["lr_target"]) else row["lr_target"],
            -1 if pd.isna(row["seed"]) else int(row["seed"]),
        )
        for row in frames.trials.to_dict("records")
    }
    wanted = frames.scores[
        frames.scores["default_cell"]
        & (frames.scores["split"] == split)
        & (frames.scores["language"] == language)
        & frames.scores["value"].notna()
    ]
    values: dict[tuple[str, str, str], dict[Pair, list[float]]] = {}
    for row in wanted.to_dict("records"):
        pair = drawn.get((row["size"], row["trial_id"]))
        if pair is not None:
            cell = values.setdefault((row["size"], row["intermediate"], row["task"]), {})
            cell.setdefault(pair, []).append(row["value"])
    return {key: {pair: _mean(found) for pair, found in cell.items()} for key, cell in values.items()}


def _paired(own: Pairs, baseline: Pairs) -> dict[str, Any]:
    shared = sorted(own.keys() & baseline.keys())
    differences = pd.Series([own[key] - baseline[key] for key in shared], dtype="float64")
    return {
        "gain": differences.mean(),
        "sd": differences.std(ddof=1),
        "score": _mean([own[key] for key in shared] or list(own.values())),
        "score_none": _mean([baseline[key] for key in shared] or list(baseline.values())),
        "n": len({seed for _, seed in shared}),
        "reason": "",
    }


def _reason(own: Pairs, baseline: Pairs, *, own_outcomes: set[str], baseline_outcomes: set[str]) -> str:
    if not own:
        return _why_unscored(own_outcomes)
    if not baseline:
        return f"no baseline: {_why_unscored(baseline_outcomes)}"
    return "no common seed"


def _why_unscored(outcomes: set[str]) -> str:
    for outcome, reason in (("failed", "failed"), ("stopped_early", "stopped early"), ("unfinished", "unfinished")):
        if outcome in outcomes:
            return reason
    return "not scored" if outcomes else "not run"


def _mean(values: list[float]) -> float:
    return float(pd.Series(values, dtype="float64").mean())
