"""Which intermediate task to take: one for all targets, a mixture, or the best for each target; and whether size changes it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from analysis.store.examples import Floats
from analysis.store.frames import NONE, StudyFrames, frame, kept
from analysis.tables.gains import ALPHA, Cells, chosen_trials, paired_scores, seed_variances
from analysis.tables.inference import LEVEL, example_variance, holm, infer, pooled_variance

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
}
_CHOICES = {
    "size": "str",
    "choice": "str",
    "intermediate": "str",
    "test_score": "float64",
    "gain": "float64",
    "low": "float64",
    "high": "float64",
    "seeds": "int64",
    "targets": "int64",
}
_ORDER = ("none", "best single", "best per target")
_INTERACTIONS = {
    "intermediate": "str",
    "slope": "float64",
    "low": "float64",
    "high": "float64",
    "p": "float64",
    "sizes": "int64",
    "points": "int64",
    "verdict": "str",
}


def average_gains(frames: StudyFrames, *, cells: Cells = "default") -> pd.DataFrame:
    """Of each size and intermediate the mean gain over the targets it may be judged on, in test points.

    Each target counts with the mean over languages of `StudyFrames.judged_by`: without English wherever that is recorded.
    Marked targets (same data, leak) are left out, and so are targets that not every paired seed has. `sd` is over the `seeds`
    of the mean over `targets`; `low`, `high` and `p_holm` as in `gains.gains`, Holm over the table.
    """
    pairs = paired_scores(frames, cells=cells)
    pairs = kept(pairs, (frames.mark(i, t) == "" for i, t in zip(pairs["intermediate"], pairs["task"], strict=True)))
    rows: list[dict[str, Any]] = []
    for (size, intermediate), group in pairs.groupby(["size", "intermediate"], sort=False):
        by_seed = group.pivot_table(index="seed", columns="task", values="difference").dropna(axis="columns")
        means = by_seed.mean(axis="columns").dropna()
        if means.empty:
            continue
        rows.append(
            {
                "size": size,
                "intermediate": intermediate,
                "gain": means.mean(),
                "sd": means.std(ddof=1),
                "seeds": len(means),
                "targets": by_seed.shape[1],
                "by_seed": means.to_dict(),
                "example_variance": _mean_example_variance(frames, group, list(by_seed.columns)),
            }
        )
    table = pd.DataFrame(rows, columns=[*_AVERAGES, "example_variance", "by_seed"])
    variances, df = seed_variances(table["by_seed"], table["size"])
    found = infer(
        table["gain"].astype("float64"),
        variances,
        df=df,
        seeds=table["seeds"].astype("float64"),
        example_variances=table["example_variance"].astype("float64"),
    )
    table = table.assign(low=found.low, high=found.high, p_holm=holm(found.p))
    return table[list(_AVERAGES)].astype(_AVERAGES)


def _mean_example_variance(frames: StudyFrames, pairs: pd.DataFrame, tasks: list[str]) -> float:
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


def choices(frames: StudyFrames) -> pd.DataFrame:
    """Of each size the test score (mean over targets, percent) that ways to choose the intermediate task lead to.

    Test scores are those of `StudyFrames.judged_by`: without English wherever that is recorded.
    "none"; "best single": the intermediate best on mean English dev; "best per target": for each target the one best on its own
    English dev (targets without a dev set take the best single); "mixture": any whose name says so. Every choice is made on
    English dev, so that no test score is the greatest of several. `intermediate` names what was chosen; `test_score` is of the
    runs chosen, over the `targets` that all of them have.

    `gain` is the difference to "none" over the same targets, paired by seed as tuned gains are (`gains.gains`), with their
    interval: that of `average_gains` for one intermediate whose targets are all unmarked. The seed that a choice was made on
    is left out where two others are paired; where it is all there is, dev and test scores of one run go together, and picking
    the best inflates the gain by what no interval shows. Without a pair it is the difference of the runs chosen, `seeds` is 0
    and the interval NaN.
    """
    best, pairs = chosen_trials(frames), paired_scores(frames, cells="tuned")
    rows: list[dict[str, Any]] = []
    for size in frames.size_names:
        trials = dict(best.loc[best["size"] == size, ["intermediate", "trial_id"]].itertuples(index=False, name=None))
        if not trials:
            continue
        test, dev = (_by_target(frames, size, trials, split=split) for split in ("test", "dev"))
        test = test.dropna(axis="columns")
        means: dict[Any, float] = test.mean(axis="columns").to_dict()
        ranks = best[best["size"] == size].set_index("intermediate")["dev_score"]
        single = str(ranks.drop(NONE, errors="ignore").idxmax()) if len(ranks.drop(NONE, errors="ignore")) else ""
        targets = [str(task) for task in test.columns]
        of_task: dict[Any, dict[Any, float]] = test.to_dict()
        found: dict[str, dict[str, str]] = {}  # by choice, the intermediate of each target
        named: dict[str, str] = {}
        if NONE in means:
            named["none"] = NONE
        if single:
            named["best single"] = single
            found["best per target"] = {task: _best_on_dev(dev, task, otherwise=single) for task in targets}
        named |= {f"mixture {name}": name for name in trials if "mix" in name.lower()}
        found = {choice: dict.fromkeys(targets, name) for choice, name in named.items()} | found
        own = pairs[(pairs["size"] == size) & pairs["task"].isin(targets)]
        for choice in sorted(found, key=lambda choice: _ORDER.index(choice) if choice in _ORDER else len(_ORDER)):
            taken = found[choice]
            scores = [of_task[task][name] for task, name in taken.items()]
            score = float(np.mean(scores)) if scores else math.nan
            chosen = named.get(choice) or "; ".join(f"{task}: {name}" for task, name in taken.items())
            row = {"size": size, "choice": choice, "intermediate": chosen, "test_score": score, "targets": len(targets)}
            rows.append(row | {"gain": score - means.get(NONE, math.nan)} | _paired(frames, own, taken))
    table = pd.DataFrame(rows, columns=[*_CHOICES, "variance", "df", "example_variance"])
    found_intervals = infer(
        table["gain"].astype("float64"),
        table["variance"].astype("float64"),
        df=table["df"].astype("float64"),
        seeds=table["seeds"].astype("float64"),
        example_variances=table["example_variance"].astype("float64"),
    )
    return table.assign(low=found_intervals.low, high=found_intervals.high)[list(_CHOICES)].astype(_CHOICES)


def _paired(frames: StudyFrames, pairs: pd.DataFrame, taken: dict[str, str]) -> dict[str, Any]:
    """The gain of these intermediates by target over the seeds that all of them and none share, and its variances.

    What seeds do is estimated from all intermediates over the same targets and seeds, or from the choice where it varies more.
    """
    unknown = {"seeds": 0, "variance": math.nan, "df": 0.0, "example_variance": math.nan}
    wanted = [(name, task) for task, name in taken.items() if name != NONE]  # none differs from itself by nothing
    by_seed = pairs.pivot_table(index="seed", columns=["intermediate", "task"], values="difference")
    if not wanted or not set(wanted) <= set(by_seed.columns):
        return unknown
    differences = by_seed[wanted].dropna().sum(axis="columns") / len(taken)
    if differences.empty:
        return unknown
    variance, df = math.nan, 0.0
    if len(differences) > 1:
        arms = []
        for name in dict.fromkeys(pairs["intermediate"]):
            cells = [(name, task) for _, task in wanted]
            arm = by_seed.reindex(columns=cells).dropna().sum(axis="columns") / len(taken)
            if arm.index.equals(differences.index):
                arms.append(arm.to_numpy(dtype="float64"))
        own = float(differences.var(ddof=1))
        pooled, df = pooled_variance(np.array(arms)) if arms else (own, len(differences) - 1.0)
        variance = max(own, pooled)
    places = pd.MultiIndex.from_frame(pairs[["intermediate", "task"]]).isin(wanted)
    shared = pairs[places & pairs["seed"].isin(differences.index)]
    drawn = _mean_example_variance(frames, shared, list(taken)) * (len(wanted) / len(taken)) ** 2
    return {"gain": differences.mean(), "seeds": len(differences)} | {
        "variance": variance,
        "df": df,
        "example_variance": drawn,
    }


def _by_target(frames: StudyFrames, size: str, trials: dict[str, str], *, split: str) -> pd.DataFrame:
    """Scores by intermediate (rows) and target."""
    judged = frames.judged(split)
    wanted = judged[judged["size"] == size]
    wanted = kept(wanted, (trials.get(i) == t for i, t in zip(wanted["intermediate"], wanted["trial_id"], strict=True)))
    return wanted.pivot_table(index="intermediate", columns="task", values="value").reindex(list(trials))


def _best_on_dev(dev: pd.DataFrame, task: str, *, otherwise: str) -> str:
    return str(dev[task].idxmax()) if task in dev and dev[task].notna().any() else otherwise


def interactions(frames: StudyFrames, *, cells: Cells = "default") -> pd.DataFrame:
    """Does the gain shrink as models grow? Of each intermediate the slope of its mean gain, in points a doubling of the body.

    A line through the mean gains of the sizes over log2 of their body parameters, each weighted by its inverse variance over
    seeds and examples, with the scale estimated from the sizes' distances to the line and Student's t of sizes - 2 degrees of
    freedom (Knapp and Hartung 2003, without a variance between sizes). Seeds of one size are no further points: what sets a
    size apart from the line is common to them. Sizes with one encoder are one point. The gain is averaged over unmarked
    targets that every size has (each by its mean of `StudyFrames.judged_by`), and over intermediates in the last row, "all".
    `points` counts runs. `verdict`: "shrinks", "grows" or "unclear" (Holm over the table); from two sizes there is a slope
    alone.
    """
    body = frames.body_m
    pairs = paired_scores(frames, cells=cells)
    pairs = pairs[pairs["size"].isin(body)]
    pairs = kept(pairs, (frames.mark(i, t) == "" for i, t in zip(pairs["intermediate"], pairs["task"], strict=True)))
    pairs = pairs.assign(body=pairs["size"].map(body).astype("float64"))
    rows: list[dict[str, Any]] = []
    for name, group in [*pairs.groupby("intermediate", sort=False), ("all", pairs)]:
        everywhere = group.groupby(["intermediate", "task"])["body"].transform("nunique") == group["body"].nunique()
        cells_of_run = group[everywhere].pivot_table(
            index=["body", "size", "seed"], columns=["intermediate", "task"], values="difference"
        )
        means = cells_of_run.dropna().mean(axis="columns")
        by_body = means.groupby(level="body")
        if by_body.ngroups < 2:
            continue
        complete = group[everywhere].set_index(["body", "size", "seed"]).loc[means.index].reset_index()
        variances = _point_variances(frames, means, complete)
        x, y = np.log2(by_body.mean().index.to_numpy(dtype="float64")), by_body.mean().to_numpy(dtype="float64")
        slope, low, high, p = _slope(x, y, 1 / variances)
        row = {"intermediate": name, "slope": slope, "low": low, "high": high, "p": p}
        rows.append(row | {"sizes": len(x), "points": len(means), "verdict": ""})
    table = frame(rows, _INTERACTIONS)
    if len(table) == 2:  # one intermediate: "all" says the same again
        table = table.iloc[:1]
    adjusted = holm(table["p"])
    table["verdict"] = [
        ("shrinks" if slope < 0 else "grows") if p < ALPHA else "unclear"
        for slope, p in zip(table["slope"], adjusted, strict=True)
    ]
    return table


def _point_variances(frames: StudyFrames, means: pd.Series[float], pairs: pd.DataFrame) -> Floats:
    """Variances of the mean gains by body: seeds' (pooled, for three seeds say little of one point) and examples'.

    All one where no point was repeated.
    """
    by_body = means.groupby(level="body")
    counts = by_body.size().to_numpy(dtype="float64")
    spare = float((counts - 1).sum())
    within = float(((means - by_body.transform("mean")) ** 2).sum()) / spare if spare else math.nan
    if not within > 0:
        return np.ones(len(counts))
    tasks = list(pairs["task"].unique())
    examples = [_mean_example_variance(frames, group, tasks) for _, group in pairs.groupby("body")]
    return within / counts + (np.array(examples) if np.isfinite(examples).all() else 0.0)


def _slope(x: Floats, y: Floats, weights: Floats) -> tuple[float, float, float, float]:
    """Slope, interval and p-value of a weighted regression on different x; NaN for the latter two below three points."""
    centred = x - np.average(x, weights=weights)
    spread = float((weights * centred**2).sum())
    slope = float((weights * centred * y).sum()) / spread
    df = len(x) - 2
    if df < 1:
        return slope, math.nan, math.nan, math.nan
    residuals = y - np.average(y, weights=weights) - slope * centred
    se = math.sqrt(float((weights * residuals**2).sum()) / df / spread)
    half = float(stats.t.ppf(0.5 + LEVEL / 2, df)) * se
    p = 2 * float(stats.t.sf(abs(slope) / se, df)) if se > 0 else math.nan
    return slope, slope - half, slope + half, p
