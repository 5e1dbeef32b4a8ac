"""What languages have to do with it: how good a language is against script, pre-training share and pieces; what it costs."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
from babel import Locale, UnknownLocaleError
from babel.core import get_global
from scipy import stats

from analysis.store.frames import AGGREGATES, ENGLISH, StudyFrames, frame
from analysis.tables.inference import LEVEL
from analysis.tables.tradeoff import best_trials

_LANGUAGES = {
    "size": "str",
    "language": "str",
    "name": "str",
    "script": "str",
    "effect": "float64",
    "tasks": "int64",
    "score": "float64",
    "gap_to_english": "float64",
    "share": "float64",
    "pieces": "float64",
    "pieces_to_english": "float64",
    "pieces_per_word": "float64",
    "p50_ms": "float64",
    "latency_to_english": "float64",
}
_SCRIPTS = {
    "size": "str",
    "script": "str",
    "effect": "float64",
    "lowest": "float64",
    "highest": "float64",
    "languages": "int64",
}
_ASSOCIATIONS = {
    "size": "str",
    "what": "str",
    "spearman": "float64",
    "low": "float64",
    "high": "float64",
    "p": "float64",
    "languages": "int64",
}


def language_name(code: str) -> str:
    """A language's English name in CLDR, or its code."""
    try:
        return Locale.parse(code).get_display_name("en") or code
    except (UnknownLocaleError, ValueError):
        return str(Locale("en").languages.get(code, code))


def script_of(code: str) -> str:
    """The script a language is mostly written in (CLDR's likely subtags), such as "Latn"; "" if CLDR does not say."""
    likely = str(get_global("likely_subtags").get(code, ""))
    return next((part for part in likely.split("_") if len(part) == 4 and part.isalpha()), "")


def language_table(frames: StudyFrames) -> pd.DataFrame:
    """A row a size and language: how well the size's best trial (chosen on dev) does in it, and what the language costs.

    `effect` is what the language adds to a test score (`language_effects`), the measure to compare languages by. `score` is the
    mean over those `tasks` (their number) that the study scores in the language, be they easy or hard, so that it compares
    languages of the same tasks alone; `gap_to_english` the mean over those scored in English too of English minus the language.
    `share` is the language's part of the pre-training text, where the study recorded it. `pieces` (mean of a query),
    `pieces_per_word` (NaN too for languages written without spaces), `p50_ms` and the ratios to English are of the size's
    fastest variant that was timed by language; NaN where that was not measured.
    """
    speed = _speed(frames)
    shares = frames.context.get("pretraining") or {}
    test = frames.scores[(frames.scores["split"] == "test") & ~frames.scores["language"].isin(AGGREGATES)]
    test = test.merge(best_trials(frames), on=["size", "trial_id"])
    rows: list[dict[str, Any]] = []
    for size, of_size in test.groupby("size", sort=False):
        by_language = of_size.pivot_table(index="language", columns="task", values="value")
        english = by_language.loc[ENGLISH] if ENGLISH in by_language.index else pd.Series(dtype="float64")
        effects = language_effects(by_language)
        own = shares.get(size, shares)  # by size, or one for all
        for language, scores in by_language.iterrows():
            cost = speed.get((str(size), str(language)), {})
            base = speed.get((str(size), ENGLISH), {})
            rows.append(
                {
                    "size": size,
                    "language": language,
                    "name": language_name(str(language)),
                    "script": script_of(str(language)),
                    "effect": effects[str(language)],
                    "tasks": int(scores.notna().sum()),
                    "score": scores.mean(),
                    "gap_to_english": (english - scores).mean(),
                    "share": own.get(language) if isinstance(own.get(language), (int, float)) else None,
                    "pieces": cost.get("mean_pieces"),
                    "pieces_to_english": _ratio(cost, base, "mean_pieces"),
                    "pieces_per_word": cost.get("pieces_per_word"),
                    "p50_ms": cost.get("p50_ms"),
                    "latency_to_english": _ratio(cost, base, "p50_ms"),
                }
            )
    return frame(rows, _LANGUAGES)


def language_effects(scores: pd.DataFrame) -> pd.Series[float]:
    """By language, how many points it is better than the mean language in the tasks that it has.

    `scores`: languages by tasks, NaN where a language is not scored.

    The language's part in score = task + language, fitted by least squares to the cells that there are (the two-way layout with
    unequal numbers, Yates 1934). It assumes that a language is as many points better in one task as in another; a task whose
    languages lie further apart counts for more. English, which the models are trained on, is no zero-shot language and takes no
    part in the fit: its effect is the mean of what it has over the tasks fitted. The other languages' effects have a mean of
    zero, so that with every language in every task they are the means over tasks less the mean of these.

    Two languages can be compared if they have a task in common or a chain of such pairs links them (Weeks and Williams 1964).
    Where not all are linked, the largest linked group has effects, and the rest NaN.
    """
    cells = scores.drop(index=ENGLISH, errors="ignore").stack().dropna()
    effects = pd.Series(np.nan, index=scores.index, dtype="float64")
    linked = _largest_linked(cells.index.tolist())
    if not linked:
        return effects
    cells = cells[cells.index.get_level_values(0).isin(linked)]
    languages, tasks = (list(dict.fromkeys(cells.index.get_level_values(level))) for level in (0, 1))
    design = np.zeros((len(cells), len(languages) + len(tasks)))
    for row, (language, task) in enumerate(cells.index):
        design[row, [languages.index(language), len(languages) + tasks.index(task)]] = 1.0
    fitted = np.linalg.lstsq(design, cells.to_numpy(dtype="float64"), rcond=None)[0]
    centre = fitted[: len(languages)].mean()
    effects[languages] = fitted[: len(languages)] - centre
    if ENGLISH in scores.index:
        of_tasks = pd.Series(fitted[len(languages) :] + centre, index=tasks)
        effects[ENGLISH] = (scores.loc[ENGLISH, tasks] - of_tasks).mean()
    return effects


def _largest_linked(pairs: list[tuple[str, str]]) -> set[str]:
    """The languages of the largest group whose (language, task) pairs hang together; of two as large, that with more pairs."""
    groups: list[tuple[set[str], set[str], int]] = []  # languages, tasks, pairs
    for language, task in pairs:
        languages, tasks, count = {language}, {task}, 1
        apart = []
        for group in groups:
            if language in group[0] or task in group[1]:
                languages, tasks, count = languages | group[0], tasks | group[1], count + group[2]
            else:
                apart.append(group)
        groups = [*apart, (languages, tasks, count)]
    return max(groups, key=lambda group: (len(group[0]), group[2]), default=(set(), set(), 0))[0]


def effects_by_script(table: pd.DataFrame) -> pd.DataFrame:
    """By size and script, best first: the mean effect of the languages mostly written in it, the lowest, the highest, and how
    many they are; English left out.

    Languages count alike, and a script is no cause: those of one script are often related, and alike in pre-training text.
    `table`: rows of `language_table`.
    """
    known = table[(table["language"] != ENGLISH) & table["effect"].notna()]
    rows: list[dict[str, Any]] = []
    for size, of_size in known.groupby("size", sort=False):
        found = of_size.groupby("script")["effect"].agg(["mean", "min", "max", "count"])
        for script, row in found.sort_values("mean", ascending=False, kind="stable").iterrows():
            ends = {"lowest": row["min"], "highest": row["max"], "languages": int(row["count"])}
            rows.append({"size": size, "script": script, "effect": row["mean"]} | ends)
    return frame(rows, _SCRIPTS)


def associations(table: pd.DataFrame) -> pd.DataFrame:
    """Spearman's rank correlations over languages, by size, English left out: of the language's effect with pre-training share
    and pieces, and of latency with pieces.

    The effect and no mean score: languages have different tasks, and a mean over an easy one or a hard one says which.
    Intervals by Fisher's z with variance 1.06 / (n - 3) (Fieller, Hartley and Pearson 1957). Fewer than five languages, or a
    column without spread, give no row. `table`: rows of `language_table`.
    """
    rows: list[dict[str, Any]] = []
    for size, group in table[table["language"] != ENGLISH].groupby("size", sort=False):
        for what, one, other in (
            ("language effect with pre-training share", "effect", "share"),
            ("language effect with pieces", "effect", "pieces"),
            ("language effect with pieces per word", "effect", "pieces_per_word"),
            ("latency with pieces", "p50_ms", "pieces"),
        ):
            known = group[[one, other]].dropna()
            if len(known) < 5 or (known.nunique() < 2).any():
                continue
            found = stats.spearmanr(known[one], known[other])
            half = float(stats.norm.ppf(0.5 + LEVEL / 2)) * math.sqrt(1.06 / (len(known) - 3))
            z = np.arctanh(np.clip(found.statistic, -0.9999, 0.9999))
            row = {"size": size, "what": what, "spearman": found.statistic, "p": found.pvalue, "languages": len(known)}
            rows.append(row | {"low": np.tanh(z - half), "high": np.tanh(z + half)})
    return frame(rows, _ASSOCIATIONS)


def _speed(frames: StudyFrames) -> dict[tuple[str, str], dict[str, float]]:
    """Of each size and language what its fastest variant timed by language takes."""
    by_variant = frames.speed_by_language.groupby(["size", "variant"])["p50_ms"].mean().reset_index()
    fastest = by_variant.sort_values("p50_ms", kind="stable").drop_duplicates("size")
    kept = frames.speed_by_language.merge(fastest[["size", "variant"]], on=["size", "variant"])
    return {(row["size"], row["language"]): {str(k): v for k, v in row.items()} for row in kept.to_dict("records")}


def _ratio(own: dict[str, float], base: dict[str, float], name: str) -> float | None:
    one, other = own.get(name), base.get(name)
    return one / other if one and other else None
