"""What an English intermediate task adds: paired differences against no intermediate task."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis.store.counted import Cells, chosen_trials, counted_trials
from analysis.store.examples import Floats
from analysis.store.frames import AGGREGATES, NONE, StudyFrames
from analysis.tables.chance import collapsed_keys
from analysis.tables.inference import ALPHA, block_variances, detectable, example_variance, holm, infer

_GAINS = {
    "size": "str",
    "intermediate": "str",
    "task": "str",
    "judged_by": "str",
    "gain": "float64",
    "sd": "float64",
    "se": "float64",
    "se_examples": "float64",
    "low": "float64",
    "high": "float64",
    "p": "float64",
    "p_holm": "float64",
    "detectable": "float64",
    "detectable_corrected": "float64",
    "score": "float64",
    "score_none": "float64",
    "chance": "float64",
    "n": "int64",
    "collapsed": "int64",
    "with_examples": "bool",
    "verdict": "str",
    "reason": "str",
    "mark": "str",
    "seen": "str",
    "not_zero_shot": "str",
}
_SPREADS = {
    "task": "str",
    "sd": "float64",
    "se_examples": "float64",
    "examples": "float64",
    "seeds": "int64",
    "gains": "int64",
}
_PAIRS = ["size", "intermediate", "task", "language", "lr_target", "seed"]
TIE_POINTS = 1.0  # an interval within this distance of zero is a tie


def gains(
    frames: StudyFrames, *, split: str = "test", language: str | None = None, cells: Cells = "default"
) -> pd.DataFrame:
    """One row per size, intermediate task (except none) and target: the gain over "none", in percentage points.

    `cells="default"`: trials at the default learning rates and their repeats, paired on seed and target learning rate within a
    size, so the intermediate task is the only difference. `cells="tuned"`: for each intermediate task and for none the trial
    best on English dev with its repeats, paired on seed, each at its own best rates. The seed a trial was chosen on is the
    luckiest of several; it is left out where two other seeds are paired.

    `gain` averages the `n` paired seeds; `sd` is their sample standard deviation (NaN below two). `score` and `score_none` are
    the means on both sides, `chance` is the score of guessing. `se`, `low` and `high` (95%) cover the seeds and, if
    `with_examples`, the test examples; with one seed, the examples alone. `se_examples` is their part of `se` (NaN: unknown).
    `p` is two-sided, `p_holm` is corrected over all gains of the table without a contamination flag. Intervals are not
    corrected.

    `detectable` is the smallest true gain that the comparison would tell from zero at 5% with 80% power, given the variances
    that its interval rests on (`inference.detectable`); NaN with one seed. `detectable_corrected` is the same at 5% divided by
    the number of gains that `p_holm` is corrected for, which is somewhat more than Holm's correction asks for.

    `verdict`: "gain" or "loss" where `p_holm` < 0.05, "tie" where the interval lies within `TIE_POINTS` of zero, else
    "unclear"; "one seed" where nothing was tested; "" without a pair or with a contamination flag. A cell without a pair has
    NaN, n = 0 and a `reason`. `collapsed` counts the seeds left out because one of the two runs is at chance after training
    (`chance.collapsed_runs`); a cell that has only such seeds has the reason "collapsed". `mark` is the contamination flag:
    "same data" where intermediate task and target share training data, "leak" where the intermediate task trains on data the
    target is scored on, "seen" where the intermediate choice is a checkpoint that others trained on data of the target, else
    "". A flagged gain is not transfer.
    `seen` is what of the target's data the encoder that the target starts from was trained on by others, else "".
    `not_zero_shot` are the target's languages besides English in which the intermediate task has labelled training data
    (`averages.split_gains`), "unknown" where the card of a published checkpoint does not state them, else "".

    `language` is a code or one of `frames.AGGREGATES`. By default each target is judged by the mean of `StudyFrames.judged_by`;
    `judged_by` names it.
    """
    languages = None if language is None else (language,)
    pairs = paired_scores(frames, split=split, languages=languages, cells=cells)
    cell = ["size", "intermediate", "task"]
    pairs_of: dict[Any, pd.DataFrame] = dict(iter(pairs[~pairs["collapsed"]].groupby(cell, sort=False)))
    collapsed = pairs[pairs["collapsed"]].groupby(cell)["seed"].nunique().to_dict()
    scored = _scored(frames, split=split, languages=languages, cells=cells)
    means = scored.groupby(cell)["value"].mean().to_dict()
    chances = frames.scores.groupby("task")["chance"].max().to_dict()
    judged_by = scored.groupby("task")["language"].first().to_dict()
    outcomes = _outcomes(frames, cells)
    rows: list[dict[str, Any]] = []
    for size in frames.size_names:
        for intermediate in frames.intermediates:
            if intermediate == NONE:
                continue
            for task in frames.targets:
                key = (size, intermediate, task)
                row = _cell(pairs_of.get(key), means.get(key), means.get((size, NONE, task)))
                row |= {"size": size, "intermediate": intermediate, "task": task, "chance": chances.get(task)}
                row["collapsed"] = collapsed.get(key, 0)
                flag = frames.contamination_flag(size, intermediate, task)
                row |= {"mark": flag, "judged_by": judged_by.get(task, "")}
                row["seen"] = frames.seen(size, task, intermediate)
                row["not_zero_shot"] = frames.not_zero_shot_in_words(intermediate, [task])
                row["example_variance"] = (
                    _example_variance(frames, pairs_of.get(key), task) if split == "test" else float("nan")
                )
                if row["n"] == 0:
                    row["reason"] = "collapsed" if row["collapsed"] else _reason(key, means, outcomes)
                rows.append(row)
    table = pd.DataFrame(rows, columns=[*_GAINS, "example_variance", "by_seed"])
    return _judged(table)[list(_GAINS)].astype(_GAINS)


def gains_by_language(frames: StudyFrames, *, cells: Cells = "default") -> pd.DataFrame:
    """Mean gains in test points for every language and both aggregates, with their `sd` and number of seeds `n`.

    Without collapsed runs, as in `gains`.
    """
    pairs = paired_scores(frames, languages=(*AGGREGATES, *frames.languages), cells=cells)
    grouped = pairs[~pairs["collapsed"]].groupby(["size", "intermediate", "task", "language"], sort=False)
    table = grouped.agg(
        gain=("difference", "mean"),
        sd=("difference", "std"),
        score=("value", "mean"),
        score_none=("value_none", "mean"),
        n=("seed", "nunique"),
    )
    return table.reset_index()


def paired_scores(
    frames: StudyFrames, *, split: str = "test", languages: Sequence[str] | None = None, cells: Cells = "default"
) -> pd.DataFrame:
    """One row per seed that an intermediate task and "none" share: `value`, `value_none`, `difference` and both trial ids.

    For these `languages`, or for the mean each target is judged by (`StudyFrames.judged_by`). `collapsed`: one of the two runs
    is in `chance.collapsed_runs`, so the difference is not transfer. `replaced`: one of them collapsed on this or another
    target, and a pair with another seed was run in its place (`run --retry-collapsed`). A mean over targets, which needs whole
    seeds, counts the other pair; a single target counts every pair that did not collapse there.
    """
    scored = _scored(frames, split=split, languages=languages, cells=cells)
    if cells == "tuned":
        scored = scored.assign(lr_target=0.0)  # each side has its own rates, so only the seed pairs
    scored = scored.groupby(_PAIRS, sort=False, dropna=False).agg(
        value=("value", "mean"), trial_id=("trial_id", "first")
    )
    scored = scored.reset_index()
    none = scored[scored["intermediate"] == NONE].drop(columns="intermediate")
    others = scored[scored["intermediate"] != NONE]
    keys = [name for name in _PAIRS if name != "intermediate"]
    pairs = others.merge(none, on=keys, suffixes=("", "_none"))
    collapsed = collapsed_keys(frames)
    runs = zip(pairs["size"], pairs["task"], pairs["trial_id"], pairs["trial_id_none"], strict=True)
    either = [bool({(size, own, task), (size, none, task)} & collapsed) for size, task, own, none in runs]
    pairs = pairs.assign(
        difference=pairs["value"] - pairs["value_none"],
        collapsed=pd.Series(either, index=pairs.index, dtype=bool),
    )
    pairs = pairs.assign(replaced=_replaced(frames, pairs))
    return _without_selection_seed(frames, pairs) if cells == "tuned" else pairs


def _replaced(frames: StudyFrames, pairs: pd.DataFrame) -> pd.Series[bool]:
    """Whether a run of the pair collapsed, on any target, and another pair of the same choice is in its place."""
    columns = ["size", "trial_id", "in_place_of"]
    further = frames.trials[columns].itertuples(index=False, name=None)
    made_for = {(size, run): set(names.split(", ")) for size, run, names in further if names}
    replaced = pd.Series(False, index=pairs.index)
    if not made_for:
        return replaced
    for (size, _), group in pairs.groupby(["size", "intermediate"], sort=False):
        runs = set(group["trial_id"]) | set(group["trial_id_none"])
        answered = set[str]().union(*(made_for.get((size, run), set()) for run in runs))
        for _, of_seed in group.groupby("seed"):
            if of_seed["collapsed"].any() and answered & {*of_seed["trial_id"], *of_seed["trial_id_none"]}:
                replaced[of_seed.index] = True
    return replaced


def _without_selection_seed(frames: StudyFrames, pairs: pd.DataFrame) -> pd.DataFrame:
    """The pairs without those of a trial chosen on dev, where at least two pairs of repeats remain.

    The best of several noisy scores exceeds its own mean (Cawley and Talbot 2010), on test as far as test correlates with dev.
    The excess is larger for an intermediate task with many trials than for a baseline with few.
    """
    chosen = set(chosen_trials(frames)[["size", "trial_id"]].itertuples(index=False, name=None))
    ids = zip(pairs["size"], pairs["trial_id"], pairs["trial_id_none"], strict=True)
    fresh = pd.Series(
        [not chosen & {(size, own), (size, none)} for size, own, none in ids], index=pairs.index, dtype=bool
    )
    cells = [pairs[name] for name in ("size", "intermediate", "task", "language")]
    return pairs[fresh | (fresh.groupby(cells).transform("sum") < 2)]


def _scored(frames: StudyFrames, *, split: str, languages: Sequence[str] | None, cells: Cells) -> pd.DataFrame:
    columns = ["size", "trial_id", "lr_target", "seed"]
    trials = counted_trials(frames, cells)[columns].drop_duplicates(["size", "trial_id"])
    trials = trials.assign(lr_target=trials["lr_target"].fillna(-1.0), seed=trials["seed"].fillna(-1))
    if languages is None:
        wanted = frames.judged(split)
    else:
        wanted = frames.scores[(frames.scores["split"] == split) & frames.scores["language"].isin(languages)]
    return wanted[wanted["value"].notna()].merge(trials, on=["size", "trial_id"])


def _outcomes(frames: StudyFrames, cells: Cells) -> dict[tuple[str, str], set[str]]:
    trials = frames.searched if cells == "tuned" else frames.trials[frames.trials["default_cell"]]
    outcomes: dict[tuple[str, str], set[str]] = {}
    for row in trials.to_dict("records"):
        outcomes.setdefault((row["size"], row["intermediate"]), set()).add(row["outcome"])
    return outcomes


def _cell(pairs: pd.DataFrame | None, own: float | None, none: float | None) -> dict[str, Any]:
    if pairs is None:
        return {"score": own, "score_none": none, "n": 0, "reason": "", "by_seed": {}}
    by_seed = pairs.groupby("seed")["difference"].mean()
    return {
        "gain": pairs["difference"].mean(),
        "sd": by_seed.std(ddof=1),
        "score": pairs["value"].mean(),
        "score_none": pairs["value_none"].mean(),
        "n": len(by_seed),
        "reason": "",
        "by_seed": by_seed.to_dict(),
    }


def _example_variance(frames: StudyFrames, pairs: pd.DataFrame | None, task: str) -> float:
    """Variance over test examples, from the examples of the languages that the scores cover."""
    if pairs is None:
        return float("nan")
    draws: list[Floats] = []
    for row in pairs.drop_duplicates("seed").to_dict("records"):
        both = [
            frames.examples.draws((row["size"], row[name]), task, row["language"])
            for name in ("trial_id", "trial_id_none")
        ]
        if both[0] is None or both[1] is None:
            return float("nan")
        draws.append(both[0] - both[1])
    return example_variance(np.stack(draws))


def _judged(table: pd.DataFrame) -> pd.DataFrame:
    variances, df = seed_variances(table["by_seed"], zip(table["size"], table["task"], strict=True))
    examples = table["example_variance"].astype("float64")
    inferred = infer(
        table["gain"].astype("float64"),
        variances,
        df=df,
        seeds=table["n"],
        example_variances=examples,
    )
    p_holm = holm(np.where(table["mark"] == "", inferred.p, np.nan))
    table = table.assign(se=inferred.se, low=inferred.low, high=inferred.high, p=inferred.p, p_holm=p_holm)
    table["with_examples"], table["se_examples"] = examples.notna(), np.sqrt(examples)
    alone, corrected = (
        _detectable(variances, df, seeds=table["n"], examples=examples.fillna(0.0), comparisons=comparisons)
        for comparisons in (1, max(int(np.isfinite(p_holm).sum()), 1))
    )
    table["detectable"], table["detectable_corrected"] = alone, np.where(np.isnan(p_holm), np.nan, corrected)
    table["verdict"] = [_verdict(row) for row in table.to_dict("records")]
    return table


def _detectable(
    variances: Floats, df: Floats, *, seeds: Iterable[int], examples: Iterable[float], comparisons: int
) -> Floats:
    """`inference.detectable` per row; the degrees of freedom say how many treatments were pooled."""
    return np.array(
        [
            detectable(
                variance,
                seeds=count,
                example_variance=of_examples,
                treatments=round(freedom / (count - 1)),
                comparisons=comparisons,
            )
            if count > 1
            else math.nan
            for variance, freedom, count, of_examples in zip(variances, df, seeds, examples, strict=True)
        ],
        dtype="float64",
    )


def spreads(frames: StudyFrames) -> pd.DataFrame:
    """What makes gains uncertain, per target: the spread that the size of a further study can be planned with.

    Over the gains of two seeds or more without a contamination flag, at the default learning rates or tuned, whichever are
    more. `sd`: root mean square of their standard deviations over seeds, in points. `se_examples`: that of their standard
    errors over `examples` test examples of each language (NaN: not recorded). `seeds`: the most that a gain has. No rows
    where no gain has two seeds.
    """
    tables = [
        table[(table["n"] > 1) & (table["mark"] == "")] for table in (gains(frames), gains(frames, cells="tuned"))
    ]
    rows = []
    for task, group in max(tables, key=len).groupby("task", sort=False):
        squares = group[["sd", "se_examples"]] ** 2
        row = {
            "task": task,
            "seeds": group["n"].max(),
            "gains": len(group),
            "examples": _examples_a_language(frames, str(task)),
        }
        rows.append(row | np.sqrt(squares.mean()).to_dict())
    return pd.DataFrame(rows, columns=list(_SPREADS)).astype(_SPREADS)


def _examples_a_language(frames: StudyFrames, task: str) -> float:
    """Mean number of test examples of a language; NaN where no trial has them."""
    for key in frames.trials[["size", "trial_id"]].itertuples(index=False, name=None):
        if by_language := frames.examples.sums(key).get(task):
            return float(np.mean([len(numerator) for numerator, _ in by_language.values()]))
    return math.nan


def seed_variances(by_seed: Iterable[Mapping[Any, float]], groups: Iterable[object]) -> tuple[Floats, Floats]:
    """Variances over seeds, and their degrees of freedom, of differences (by seed) to a baseline shared within a group.

    Differences of one group over the same seeds are pooled (`inference.block_variances`). Below two seeds: NaN and 0.
    """
    rows = [dict(row) for row in by_seed]
    variances, df = np.full(len(rows), np.nan), np.zeros(len(rows))
    blocks: dict[Any, list[int]] = {}
    for position, (row, group) in enumerate(zip(rows, groups, strict=True)):
        if len(row) > 1:
            blocks.setdefault((group, tuple(sorted(row))), []).append(position)
    for (_, seeds), positions in blocks.items():
        differences = np.array([[rows[position][seed] for seed in seeds] for position in positions])
        variances[positions], df[positions] = block_variances(differences)
    return variances, df


def _verdict(row: dict[Any, Any]) -> str:
    if row["n"] == 0 or row["mark"]:
        return ""
    if row["n"] == 1:
        return "one seed"
    if row["p_holm"] < ALPHA:
        return "gain" if row["gain"] > 0 else "loss"
    return "tie" if max(abs(row["low"]), abs(row["high"])) <= TIE_POINTS else "unclear"


def _reason(key: tuple[str, str, str], scored: dict[Any, float], outcomes: dict[tuple[str, str], set[str]]) -> str:
    size, intermediate, task = key
    if key not in scored:
        return _why_unscored(outcomes.get((size, intermediate), set()))
    if (size, NONE, task) not in scored:
        return f"no baseline: {_why_unscored(outcomes.get((size, NONE), set()))}"
    return "no common seed"


def _why_unscored(outcomes: set[str]) -> str:
    for outcome, reason in (("failed", "failed"), ("stopped_early", "stopped early"), ("unfinished", "unfinished")):
        if outcome in outcomes:
            return reason
    return "not scored" if outcomes else "not run"
