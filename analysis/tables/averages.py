"""What an intermediate task adds on average: over targets, for how much training, and by trained language."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import pandas as pd

from analysis.store.counted import Cells, counted_trials
from analysis.store.examples import Floats
from analysis.store.frames import ENGLISH, NONE, StudyFrames, frame, rows_where
from analysis.tables.chance import at_chance
from analysis.tables.gains import paired_scores
from analysis.tables.inference import ALPHA, example_variance, holm, infer, pooled_variance, tie_ranks

_AVERAGES = {
    "size": "str",
    "intermediate": "str",
    "gain": "float64",
    "sd": "float64",
    "low": "float64",
    "high": "float64",
    "p_holm": "float64",
    "seeds": "int64",
    "targets": "int64",
    "collapsed": "int64",
    "replaced": "int64",
    "rank": "Int64",
    "not_zero_shot": "str",
}
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
_BREAK_EVEN = {
    "size": "str",
    "intermediate": "str",
    "gain": "float64",
    "low": "float64",
    "high": "float64",
    "seeds": "int64",
    "targets": "int64",
    "train_s": "float64",
    "extra_s": "float64",
    "gain_per_hour": "float64",
}
S_PER_HOUR = 3600.0
TIMING_NOISE = (
    0.3  # short trainings side by side take up to this share more or less from run to run (docs/measured/micro_arms)
)


def average_gains(frames: StudyFrames, *, cells: Cells = "default", above_chance: bool = False) -> pd.DataFrame:
    """Mean gain over targets per size and intermediate task, in test points.

    Each target counts with its mean of `StudyFrames.judged_by`: without English wherever that is recorded. Targets with a
    contamination flag are left out, so are, if `above_chance`, those of `chance.at_chance`. A seed in which a run collapsed
    (`chance.collapsed_runs`) is left out whole where another was run in its place; `replaced` counts these seeds. Targets that
    not every seed has are left out; `collapsed` counts those for which a run collapsed that none replaces.

    `sd` is over the `seeds` of the mean over `targets`. `low` and `high` are each row's own 95% interval, `p_holm` is corrected
    over the table, both as in `gains.gains`; the spread over seeds is pooled over the intermediate tasks that have all of the
    row's targets and seeds, over these. `rank` orders the intermediate tasks of a size in tie groups (`ranks`).
    `not_zero_shot` are the languages besides English, of these targets, that the intermediate task is trained in, or "unknown".
    """
    pairs = transfer_pairs(frames, cells=cells, with_left_out=True)
    if above_chance:
        pairs = pairs[~pairs["task"].isin(at_chance(frames))]
    rows: list[dict[str, Any]] = []
    counted = pairs[~pairs["collapsed"] & ~pairs["replaced"]]
    by_run_of = {str(size): _by_run(own) for size, own in counted.groupby("size", sort=False)}
    for (size, intermediate), every in pairs.groupby(["size", "intermediate"], sort=False):
        group = every[~every["replaced"]]
        means, scored = _mean_by_seed(group)
        if means.empty:
            continue
        arms = _arms(by_run_of[str(size)], scored, means.index) if len(means) > 1 else {}
        variance, df = _spread(means.to_list(), np.array(list(arms.values())))
        rows.append(
            {
                "size": size,
                "intermediate": intermediate,
                "gain": means.mean(),
                "sd": means.std(ddof=1),
                "seeds": len(means),
                "targets": len(scored),
                "collapsed": group.loc[group["collapsed"], "task"].nunique(),
                "replaced": every.loc[every["replaced"], "seed"].nunique(),
                "variance": variance,
                "df": df,
                "example_variance": mean_example_variance(frames, group, [task for _, task in scored]),
                "not_zero_shot": frames.not_zero_shot_in_words(str(intermediate), [task for _, task in scored]),
            }
        )
    table = pd.DataFrame(rows, columns=[*_AVERAGES, "variance", "df", "example_variance"])
    inferred = infer(
        table["gain"].astype("float64"),
        table["variance"].astype("float64"),
        df=table["df"].astype("float64"),
        seeds=table["seeds"].astype("float64"),
        example_variances=table["example_variance"].astype("float64"),
    )
    table = table.assign(low=inferred.low, high=inferred.high, p_holm=holm(inferred.p))
    table["rank"] = pd.Series(pd.NA, index=table.index, dtype="Int64")
    for size, group in table[table["seeds"] > 1].groupby("size", sort=False):
        own = pairs[(pairs["size"] == size) & ~pairs["collapsed"] & ~pairs["replaced"]]
        places = ranks(frames, own, dict(zip(group["intermediate"], group["gain"], strict=True)))
        table.loc[group.index, "rank"] = group["intermediate"].map(places)
    return table[list(_AVERAGES)].astype(_AVERAGES)


def ranks(frames: StudyFrames, pairs: pd.DataFrame, gains: Mapping[str, float]) -> dict[str, int]:
    """Ranks (1, 1, 3 ...) of intermediate tasks by these mean gains, in groups that the study does not tell apart.

    The best heads a group, and every task that is not told from it shares its rank; the rest are ranked alike
    (`inference.tie_ranks`). Told means: on the seeds and cells (size and target) that both have in `pairs`, the paired
    difference is above zero at 5%, tested as a gain is. Since the data chose the head, p is multiplied by the number of all
    pairs of tasks (Bonferroni): among tasks that do the same, at most 5% of studies have a second rank. `pairs` are rows of
    `transfer_pairs`; cells with one seed do not count.
    """
    names = list(gains)
    comparisons = len(names) * (len(names) - 1) / 2
    seeds = pairs.groupby(["size", "intermediate", "task"])["seed"].transform("nunique")
    pairs = pairs[seeds > 1]
    pairs_of = {name: pairs[pairs["intermediate"] == name] for name in names}
    by_run = _by_run(pairs)

    @cache
    def told_from(head: str) -> dict[str, bool]:
        others = [name for name in names if name != head]
        rows = [_difference(frames, by_run, pairs_of[head], pairs_of[other]) for other in others]
        inferred = infer(
            estimates := np.array([row["difference"] for row in rows]),
            [row["variance"] for row in rows],
            df=[row["df"] for row in rows],
            seeds=[row["seeds"] for row in rows],
            example_variances=[row["example_variance"] for row in rows],
        )
        return dict(zip(others, (estimates > 0) & (inferred.p * comparisons < ALPHA), strict=True))

    places = tie_ranks(list(gains.values()), lambda head, other: told_from(names[head])[names[other]])
    return dict(zip(names, places, strict=True))


def _difference(frames: StudyFrames, by_run: pd.DataFrame, own: pd.DataFrame, other: pd.DataFrame) -> dict[str, Any]:
    """Mean difference of two intermediate tasks' gains over seeds, and its variances; the baseline that both share cancels."""
    keys = ["size", "task", "language", "seed"]
    both = own.merge(other[[*keys, "trial_id", "difference"]], on=keys, suffixes=("", "_other"))
    both["difference"] -= both["difference_other"]
    means, cells = _mean_by_seed(both)
    shared = [cell in set(cells) for cell in zip(both["size"], both["task"], strict=True)]
    examples = both[pd.Series(shared, index=both.index, dtype=bool)].assign(trial_id_none=both["trial_id_other"])
    arms = _arms(by_run, cells, means.index) if len(means) > 1 else {}
    of_head = arms.pop(str(own["intermediate"].iloc[0])) if arms else np.array([])
    variance, df = _spread(means.to_list(), np.array([of_head - arm for arm in arms.values()]))
    return {
        "difference": means.mean(),
        "seeds": len(means),
        "variance": variance,
        "df": df,
        "example_variance": mean_example_variance(frames, examples, [task for _, task in cells]),
    }


def _mean_by_seed(pairs: pd.DataFrame) -> tuple[pd.Series[float], list[tuple[str, str]]]:
    """The mean difference by seed over the cells (size and target) that every seed has uncollapsed, and these cells."""
    by_seed = pairs.assign(difference=pairs["difference"].where(~pairs["collapsed"])).pivot_table(
        index="seed", columns=["size", "task"], values="difference", dropna=False
    )
    by_seed = by_seed.dropna(axis="columns")
    cells: list[Any] = list(by_seed.columns)
    return by_seed.mean(axis="columns").dropna(), cells


def _by_run(pairs: pd.DataFrame) -> pd.DataFrame:
    """The differences, seeds by intermediate task, size and target."""
    return pairs.pivot_table(index="seed", columns=["intermediate", "size", "task"], values="difference")


def _arms(by_run: pd.DataFrame, cells: Sequence[tuple[str, str]], seeds: Iterable[Any]) -> dict[str, Floats]:
    """By intermediate task, the mean over these cells (size and target) by seed: of each that has them all with every seed."""
    arms = {}
    for name in dict.fromkeys(by_run.columns.get_level_values("intermediate")):
        own = by_run.reindex(index=list(seeds), columns=[(name, *cell) for cell in cells])
        if own.notna().all(axis=None):
            arms[str(name)] = own.mean(axis="columns").to_numpy(dtype="float64")
    return arms


def _spread(own: Sequence[float], arms: Floats) -> tuple[float, float]:
    """The variance over seeds of a difference, and its degrees of freedom: pooled over arms, or its own if that is larger."""
    if len(own) < 2:
        return math.nan, 0.0
    pooled, df = pooled_variance(arms)
    return max(float(np.var(own, ddof=1)), pooled), df


def transfer_pairs(frames: StudyFrames, *, cells: Cells, with_left_out: bool = False) -> pd.DataFrame:
    """The rows of `gains.paired_scores` without those of a pair with a contamination flag.

    Unless `with_left_out`, also without collapsed runs and without seeds whose place another takes.
    """
    pairs = paired_scores(frames, cells=cells)
    pairs = pairs if with_left_out else pairs[~pairs["collapsed"] & ~pairs["replaced"]]
    keys = zip(pairs["size"], pairs["intermediate"], pairs["task"], strict=True)
    flags = (frames.contamination_flag(*key) for key in keys)
    return rows_where(pairs, (flag == "" for flag in flags))


def mean_example_variance(frames: StudyFrames, pairs: pd.DataFrame, tasks: list[str]) -> float:
    """Variance over test examples of the mean gain over these tasks; NaN where a score has no examples."""
    by_seed: list[Floats] = []
    for _, group in pairs[pairs["task"].isin(tasks)].groupby("seed"):
        draws = []
        for row in group.to_dict("records"):
            own = frames.examples.draws((row["size"], row["trial_id"]), row["task"], row["language"])
            none = frames.examples.draws((row["size"], row["trial_id_none"]), row["task"], row["language"])
            if own is None or none is None:
                return math.nan
            draws.append(own - none)
        by_seed.append(np.mean(draws, axis=0))
    return example_variance(np.stack(by_seed)) if by_seed else math.nan


def split_gains(frames: StudyFrames, *, cells: Cells = "default") -> pd.DataFrame:
    """Gains apart by language: one row per size, intermediate task and target with a test set in a language it is trained in.

    `trained_languages` are those of the target's that the intermediate task has labelled training data in; English, in which
    every model is supervised, is in neither mean. `gain_trained` and `gain_untrained` average the languages, then the `n`
    paired seeds; only the second is zero-shot, over `untrained` languages (NaN: none). `sd_untrained` is over seeds.
    Collapsed runs and pairs with a contamination flag are left out. Nothing is tested.
    """
    rows = []
    for (size, intermediate, task), pairs in _other_language_pairs(frames, cells).groupby(
        ["size", "intermediate", "task"], sort=False
    ):
        trained = frames.not_zero_shot(str(intermediate), str(task))
        in_trained = pairs["language"].isin(trained)
        untrained = _seed_means(pairs[~in_trained])
        rows.append(
            {
                "size": size,
                "intermediate": intermediate,
                "task": task,
                "trained_languages": ", ".join(trained),
                "gain_trained": _seed_means(pairs[in_trained]).mean(),
                "gain_untrained": untrained.mean(),
                "sd_untrained": untrained.std(ddof=1),
                "untrained": pairs.loc[~in_trained, "language"].nunique(),
                "n": pairs["seed"].nunique(),
            }
        )
    return frame(rows, _SPLIT_GAINS)


def split_averages(frames: StudyFrames, *, cells: Cells = "default") -> pd.DataFrame:
    """Means over targets of `split_gains`, per size and intermediate task; `sd_untrained` is over the `seeds` of the mean.

    Over the `targets` that have both kinds of languages in every seed, so that the two means are of the same targets. A seed
    whose place another takes is left out, as in `average_gains`.
    """
    rows: list[dict[str, Any]] = []
    for (size, intermediate), pairs in _other_language_pairs(frames, cells).groupby(
        ["size", "intermediate"], sort=False
    ):
        pairs = pairs.assign(
            trained=[
                language in frames.not_zero_shot(str(intermediate), task)
                for task, language in zip(pairs["task"], pairs["language"], strict=True)
            ]
        )
        pairs = pairs[~pairs["replaced"]]
        kinds = pairs.groupby(["task", "seed"])["trained"].nunique().unstack()
        both = (kinds == 2).all(axis="columns")  # False where a seed has none, because its run collapsed
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


def _other_language_pairs(frames: StudyFrames, cells: Cells) -> pd.DataFrame:
    """Paired scores in every language but English, of pairs that are trained in one of the target's languages."""
    others = [language for language in frames.languages if language != ENGLISH]
    pairs = paired_scores(frames, languages=others, cells=cells)
    pairs = pairs[~pairs["collapsed"]]
    keep = [
        bool(frames.not_zero_shot(intermediate, task)) and not frames.contamination_flag(size, intermediate, task)
        for size, intermediate, task in zip(pairs["size"], pairs["intermediate"], pairs["task"], strict=True)
    ]
    return pairs[pd.Series(keep, index=pairs.index, dtype=bool)]


def _seed_means(pairs: pd.DataFrame) -> pd.Series[float]:
    return pairs.groupby("seed")["difference"].mean()


def break_even(frames: StudyFrames, *, cells: Cells = "default") -> pd.DataFrame:
    """One row per size and intermediate choice with a mean gain: what it gains, and the training seconds that it takes alone.

    `gain`, its 95% interval (`low`, `high`), `seeds` and `targets` are those of `average_gains`. `train_s` is the mean, over
    the counted trials that recorded it, of the seconds of everything that a trial trains after the encoder, as if no stage were
    shared: a merge counts the trainings of all its parts, which cost nothing more where the study has them anyway.

    `extra_s` is what that is more than for "none" with the same seed, and `gain_per_hour` is the gain for an hour of it: NaN
    where there is none, as for a published checkpoint. Trainings of the targets count where they may have more steps than
    none's, as those of joint training, which has no rate of its own, and those with tuned epochs; and where they take over
    `TIMING_NOISE` longer. Elsewhere the difference is other load on the machine. Seconds are those of the machine and the
    workers that trained each stage; sizes are not to be compared by them.
    """
    averages = average_gains(frames, cells=cells)
    trials = counted_trials(frames, cells)
    by_run = trials.groupby(["size", "intermediate", "seed"], dropna=False)
    timed = by_run[["encoder_train_s", "target_train_s"]].mean().dropna()
    before = set() if cells == "tuned" else set(trials.loc[trials["lr_intermediate"].notna(), "intermediate"])
    seconds = {key: own.droplevel([0, 1]) for key, own in timed.groupby(["size", "intermediate"])}
    rows = [
        _break_even(row, seconds, as_many_steps=row["intermediate"] in before) for row in averages.to_dict("records")
    ]
    return pd.DataFrame(rows, columns=list(_BREAK_EVEN)).astype(_BREAK_EVEN)


def _break_even(average: dict[Any, Any], seconds: Mapping[Any, pd.DataFrame], *, as_many_steps: bool) -> dict[str, Any]:
    """A row; `seconds`: those before the targets and those of the targets by seed, of each size and intermediate choice."""
    size, never = average["size"], pd.DataFrame({"encoder_train_s": [], "target_train_s": []}, dtype="float64")
    own, none = seconds.get((size, average["intermediate"]), never), seconds.get((size, NONE), never)
    shared = own.index.intersection(none.index)
    before_s, targets_s = own.mean() if shared.empty else own.loc[shared].mean()
    none_s = none.loc[shared, "target_train_s"].mean()
    longer_s = targets_s - none_s
    as_long = as_many_steps or longer_s <= TIMING_NOISE * none_s
    extra_s = before_s + (0.0 if as_long and not math.isnan(longer_s) else longer_s)
    per_hour = float(average["gain"]) / (extra_s / S_PER_HOUR) if extra_s > 0 else math.nan
    kept = {name: average[name] for name in ("size", "intermediate", "gain", "low", "high", "seeds", "targets")}
    return kept | {"train_s": before_s + targets_s, "extra_s": extra_s, "gain_per_hour": per_hour}
