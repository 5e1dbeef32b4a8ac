"""Scores of two studies side by side, with intervals: cells, cells by language, and models as they are served."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from analysis.store.frames import AGGREGATES, MEAN, MEAN_WITHOUT_ENGLISH, StudyFrames, cascade_in, frame
from analysis.tables.comparison.scope import Scope, languages_of
from analysis.tables.inference import LEVEL, Floats, example_variance, holm, infer, unpaired_variance

SAME, HIGHER, LOWER, UNCLEAR, UNTESTED = "same", "higher", "lower", "unclear", "untested"
TOLD = (HIGHER, LOWER)
PAIRED = "paired"
# What an interval covers.
SEEDS_AND_EXAMPLES, SEEDS, EXAMPLES = "seeds and examples", "seeds", "examples"
COLUMNS = {
    "size": "str",
    "variant": "str",
    "intermediate": "str",
    "task": "str",
    "judged_by": "str",
    "score": "float64",
    "score_other": "float64",
    "difference": "float64",
    "low": "float64",
    "high": "float64",
    "p_holm": "float64",
    "n": "int64",
    "n_other": "int64",
    "pairing": "str",
    "basis": "str",
    "verdict": "str",
}
_CELL = ["size", "variant", "intermediate", "task", "judged_by"]
_SETTINGS = ["seed", "lr_intermediate", "lr_target"]
Refused = dict[str, str]  # what cannot be compared, and why


class _OtherExamples(Exception):
    """Two scores are of different test examples."""


def cells(scope: Scope) -> tuple[pd.DataFrame, Refused]:
    """Default cells of both studies, and what cannot be compared. A row is about a mean over languages."""
    frames, other = scope.frames, scope.other
    by = {
        task: mean if other.judged_by.get(task) == mean else MEAN
        for task, mean in frames.judged_by.items()
        if task in other.judged_by
    }
    refused, kept = Refused(), {}
    for task, mean in by.items():
        if unshared := languages_of(frames, task) ^ languages_of(other, task):
            differing = ", ".join(sorted(unshared))
            refused[f"mean of {task}"] = f"other languages ({differing} in one only)"
        else:
            kept[task] = mean
    own, theirs = (_default(study, study.judged(by=kept)) for study in (frames, other))
    return _table(scope, own, theirs, refused)


def other_cascades(frames: StudyFrames, other: StudyFrames) -> dict[tuple[str, str], tuple[str, str]]:
    """The sizes and variants that name cascades of other models in the two studies, with what each has."""
    pairs = [
        {
            (row["size"], row["variant"]): f"{cascade['small']} before {row['size']}, as {cascade['served_as']}"
            for row in study.benchmarks.to_dict("records")
            if (cascade := cascade_in(row))
        }
        for study in (frames, other)
    ]
    shared = pairs[0].keys() & pairs[1].keys()
    return {key: (pairs[0][key], pairs[1][key]) for key in sorted(shared) if pairs[0][key] != pairs[1][key]}


def by_language(scope: Scope) -> tuple[pd.DataFrame, Refused]:
    """The same cells in each language of both."""
    tables = []
    for study in (scope.frames, scope.other):
        tests = study.scores[study.scores["split"] == "test"]
        tables.append(_default(study, tests[~tests["language"].isin(AGGREGATES)]))
    return _table(scope, tables[0], tables[1], {})


def served(scope: Scope) -> tuple[pd.DataFrame, Refused]:
    """Models as they were benchmarked, by size and serving variant, where both studies chose the same intermediate task."""
    own, theirs = _served(scope.frames), _served(scope.other)
    refused = Refused()
    chosen = [
        table.drop_duplicates(["size", "variant"]).set_index(["size", "variant"])["intermediate"]
        for table in (own, theirs)
    ]
    for size, variant in chosen[0].index.intersection(chosen[1].index):
        first, second = (series[size, variant] for series in chosen)
        if first != second:
            refused[f"{size} served as {variant}"] = f"the chosen intermediate task differs ({first}; {second})"
    for (size, variant), (first, second) in other_cascades(scope.frames, scope.other).items():
        refused[f"{size} served as {variant}"] = f"other models ({first}; {second})"
        own, theirs = (table[(table["size"] != size) | (table["variant"] != variant)] for table in (own, theirs))
    return _table(scope, own, theirs, refused)


def _table(scope: Scope, own: pd.DataFrame, theirs: pd.DataFrame, refused: Refused) -> tuple[pd.DataFrame, Refused]:
    groups = dict(iter(scope.comparable(theirs).groupby(_CELL, sort=False)))
    rows = []
    for key, mine in scope.comparable(own).groupby(_CELL, sort=False):
        if key not in groups:
            continue
        cell = dict(zip(_CELL, map(str, key), strict=True))
        try:
            rows.append(cell | _row(scope, mine, groups[key]))
        except _OtherExamples as error:
            refused.setdefault(f"target {cell['task']} in {cell['judged_by']}", str(error))
    table = pd.DataFrame(rows, columns=[*COLUMNS, "variance", "df", "count", "example_variance"])
    known = {
        name: table[name].astype("float64") for name in ("difference", "variance", "df", "count", "example_variance")
    }
    inferred = infer(
        known["difference"],
        known["variance"],
        df=known["df"],
        seeds=known["count"],
        example_variances=known["example_variance"],
    )
    repeated, exampled = known["variance"].notna(), known["example_variance"].notna()
    # One trained model against another: the examples alone tell them apart, and nothing about training follows.
    with np.errstate(divide="ignore", invalid="ignore"):
        of_examples = 2 * stats.norm.sf(np.abs(known["difference"]) / inferred.se)
    p = np.where(repeated | ~(inferred.se > 0), inferred.p, of_examples)
    table = table.assign(low=inferred.low, high=inferred.high, p_holm=holm(p))
    table["basis"] = np.select(
        [repeated & exampled, repeated, exampled], [SEEDS_AND_EXAMPLES, SEEDS, EXAMPLES], default=""
    )
    table["verdict"] = [_verdict(row) for row in table.to_dict("records")]
    return frame(table[list(COLUMNS)].to_dict("records"), COLUMNS), refused


def _row(scope: Scope, own: pd.DataFrame, theirs: pd.DataFrame) -> dict[str, Any]:
    """One cell of both studies, from a row per seed of each.

    One pair among several seeds is not judged alone: it would leave out what the other seeds tell of training.
    """
    pairs = own.merge(theirs, on=_SETTINGS, suffixes=("", "_other")).drop_duplicates("seed")
    draws, draws_other = _draws(scope.frames, own), _draws(scope.other, theirs)
    if counts := _counts_differ(scope, own, theirs):
        raise _OtherExamples(f"other test examples ({counts})")
    if len(pairs) > 1 or len(pairs) == len(own) == len(theirs) == 1:
        differences = pairs["value_other"] - pairs["value"]
        drawn = [
            (draws_other[one], draws[two]) for one, two in zip(pairs["trial_id_other"], pairs["trial_id"], strict=True)
        ]
        known = [theirs_ - own_ for theirs_, own_ in drawn if theirs_ is not None and own_ is not None]
        return {
            "score": pairs["value"].mean(),
            "score_other": pairs["value_other"].mean(),
            "difference": differences.mean(),
            "variance": differences.var(ddof=1),
            "df": len(pairs) - 1,
            "count": len(pairs),
            "example_variance": example_variance(np.stack(known)) if len(known) == len(pairs) else math.nan,
            "n": len(pairs),
            "n_other": len(pairs),
            "pairing": PAIRED,
            "verdict": SAME if not differences.any() and len(pairs) == _seeds(own) == _seeds(theirs) else "",
        }
    variance, df = unpaired_variance(own["value"].to_numpy("float64"), theirs["value"].to_numpy("float64"))
    means = [_mean(found) for found in (draws, draws_other)]
    return {
        "score": own["value"].mean(),
        "score_other": theirs["value"].mean(),
        "difference": theirs["value"].mean() - own["value"].mean(),
        "variance": variance,
        "df": df,
        "count": 1,  # the variance is that of the difference of means
        "example_variance": math.nan
        if means[0] is None or means[1] is None
        else example_variance((means[1] - means[0])[None]),
        "n": len(own),
        "n_other": len(theirs),
        "pairing": _why_unpaired(own, theirs, shared=len(pairs)),
        "verdict": "",
    }


def _seeds(rows: pd.DataFrame) -> int:
    return int(rows["seed"].nunique())


def _why_unpaired(own: pd.DataFrame, theirs: pd.DataFrame, *, shared: int) -> str:
    if shared:
        return "unpaired: one shared seed"
    rates = [set(zip(rows["lr_intermediate"], rows["lr_target"], strict=True)) for rows in (own, theirs)]
    return "unpaired: other seeds" if rates[0] & rates[1] else "unpaired: other learning rates"


def _draws(frames: StudyFrames, rows: pd.DataFrame) -> dict[str, Floats | None]:
    """Scores on resampled test sets by trial."""
    found = {}
    for row in rows.to_dict("records"):
        found[row["trial_id"]] = frames.examples.draws((row["size"], row["trial_id"]), row["task"], row["judged_by"])
    return found


def _mean(draws: Mapping[str, Floats | None]) -> Floats | None:
    known = [drawn for drawn in draws.values() if drawn is not None]
    return np.mean(known, axis=0) if known and len(known) == len(draws) else None


def _counts_differ(scope: Scope, own: pd.DataFrame, theirs: pd.DataFrame) -> str:
    """How many test examples each has, where the numbers differ and both are known; else ""."""
    first, second = (_counts(study, rows) for study, rows in ((scope.frames, own), (scope.other, theirs)))
    differing = sorted(code for code in first.keys() & second.keys() if first[code] != second[code])
    return ", ".join(f"{code}: {first[code]}; {second[code]}" for code in differing)


def _counts(frames: StudyFrames, rows: pd.DataFrame) -> dict[str, int]:
    """Test examples by language, of a cell's first trial."""
    row = rows.iloc[0]
    sums = frames.examples.sums((row["size"], row["trial_id"])).get(row["task"], {})
    wanted = row["judged_by"]
    return {
        code: len(numerator)
        for code, (numerator, _) in sums.items()
        if wanted in (code, MEAN) or (wanted == MEAN_WITHOUT_ENGLISH and code != "en")
    }


def _verdict(row: dict[Any, Any]) -> str:
    if row["verdict"] == SAME:
        return SAME
    if row["p_holm"] < 1 - LEVEL:
        return HIGHER if row["difference"] > 0 else LOWER
    return UNTESTED if math.isnan(row["p_holm"]) else UNCLEAR


def _default(frames: StudyFrames, scores: pd.DataFrame) -> pd.DataFrame:
    """Scores of default cells with seed and rates of their trials."""
    trials = frames.trials[frames.trials["default_cell"]]
    scores = scores.dropna(subset=["value"])[["size", "trial_id", "intermediate", "task", "language", "value"]]
    found = scores.merge(_keyed(trials), on=["size", "trial_id"]).assign(variant="")
    return found.rename(columns={"language": "judged_by"})


def _served(frames: StudyFrames) -> pd.DataFrame:
    """Scores of benchmarked models; a model has an id of its own in each variant, as in `Examples`.

    A model that was measured on several kinds of hardware is still one model: the last measurement counts, as in `Examples`.
    """
    trials = frames.trials.set_index(["size", "trial_id"])["intermediate"].to_dict()
    rows = []
    for row in frames.benchmarks[frames.benchmarks["reason"] == ""].to_dict("records"):
        if (row["size"], row["trial_id"]) not in trials:
            continue
        means = {MEAN: row["task_scores"] or {}, MEAN_WITHOUT_ENGLISH: row["task_scores_without_english"] or {}}
        for task in means[MEAN]:
            mean = MEAN_WITHOUT_ENGLISH if task in means[MEAN_WITHOUT_ENGLISH] else MEAN
            key = (row["size"], row["trial_id"], row["variant"], trials[row["size"], row["trial_id"]])
            rows.append((*key, task, mean, means[mean][task]))
    columns = ["size", "trial_id", "variant", "intermediate", "task", "judged_by", "value"]
    models = pd.DataFrame(rows, columns=columns).drop_duplicates(["size", "trial_id", "variant", "task"], keep="last")
    found = models.merge(_keyed(frames.trials), on=["size", "trial_id"])
    return found.assign(trial_id=found["trial_id"] + "/" + found["variant"])


def _keyed(trials: pd.DataFrame) -> pd.DataFrame:
    """Trials with what pairs are matched by; nothing is missing, as missing values match nothing."""
    columns = trials[["size", "trial_id", *_SETTINGS]]
    return columns.fillna({"lr_intermediate": -1.0, "lr_target": -1.0, "seed": -1})
