"""Languages: how well each does against script, share of pre-training text and tokens per word, and what it costs."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
from babel import Locale, UnknownLocaleError
from babel.core import get_global
from scipy import stats

from analysis.store.frames import AGGREGATES, ENGLISH, UNKNOWN, StudyFrames, frame
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
    "labelled": "str",
    "seen": "str",
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
    """The script a language is mostly written in, such as "Latn" (CLDR's likely subtags); "" if CLDR has none."""
    likely = str(get_global("likely_subtags").get(code, ""))
    return next((part for part in likely.split("_") if len(part) == 4 and part.isalpha()), "")


def language_table(frames: StudyFrames) -> pd.DataFrame:
    """One row per size and language: how well the size's best trial (chosen on dev) does, and what the language costs.

    `effect` is what the language adds to a test score (`language_effects`); compare languages by it. `score` averages the
    `tasks` (their number) scored in the language, easy or hard, so it only compares languages with the same tasks.
    `gap_to_english` is English minus the language, averaged over the tasks scored in both. `share` is the language's share of
    the pre-training text, where recorded. `pieces` (tokens per query, mean), `pieces_per_word` (tokens per word; NaN for
    languages written without spaces), `p50_ms` and the ratios to English are those of the size's fastest serving variant timed
    by language, on `timed_hardware`; NaN where not measured.

    What is not zero-shot: `labelled` is "yes" for a language besides English in which the trial's intermediate choice has
    labelled data, "unknown" for all where its card does not state them, else "". `seen` are the targets scored in the language
    whose data the encoder was trained on before, with commas.
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
        own = shares.get(size, shares)  # by size, or the same for all sizes
        intermediate = str(of_size["intermediate"].iloc[0])
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
                    "labelled": _labelled(frames, intermediate, str(language)),
                    "seen": ", ".join(
                        task for task in scores.dropna().index if frames.seen(str(size), task, intermediate)
                    ),
                }
            )
    return frame(rows, _LANGUAGES)


def _labelled(frames: StudyFrames, intermediate: str, language: str) -> str:
    if language == ENGLISH:
        return ""
    if frames.languages_unknown(intermediate):
        return UNKNOWN
    return "yes" if language in frames.trained_languages(intermediate) else ""


def language_effects(scores: pd.DataFrame) -> pd.Series[float]:
    """Points by which each language exceeds the mean language in its tasks.

    `scores`: languages by tasks, NaN where a language is not scored.

    The language term of score = task + language, fitted by least squares to the cells present (two-way layout with unequal
    numbers, Yates 1934). The model assumes the same difference between languages in every task, so a task with a wider spread
    counts for more. English is the training language, not a zero-shot one, and is left out of the fit: its effect is its mean
    excess over the fitted tasks. The other effects have mean zero. With every language in every task they are the centred
    means over tasks.

    Two languages compare if they share a task or a chain of such pairs links them (Weeks and Williams 1964). If not all are
    linked, the largest linked group gets effects and the others NaN.
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
    """The languages of the largest connected group of (language, task) pairs; ties go to the group with more pairs."""
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
    """Mean, lowest and highest effect and number of the languages mostly written in a script, by size, best first.

    English is left out. Languages have equal weight. A script is not a cause: languages of one script are often related and
    have similar shares of pre-training text. `table`: rows of `language_table`.
    """
    known = table[(table["language"] != ENGLISH) & table["effect"].notna()]
    rows: list[dict[str, Any]] = []
    for size, of_size in known.groupby("size", sort=False):
        by_script = of_size.groupby("script")["effect"].agg(["mean", "min", "max", "count"])
        for script, row in by_script.sort_values("mean", ascending=False, kind="stable").iterrows():
            ends = {"lowest": row["min"], "highest": row["max"], "languages": int(row["count"])}
            rows.append({"size": size, "script": script, "effect": row["mean"]} | ends)
    return frame(rows, _SCRIPTS)


def associations(table: pd.DataFrame) -> pd.DataFrame:
    """Spearman's rank correlations over languages by size, without English.

    Of the language effect with pre-training share and tokens, and of latency with tokens. The effect is used instead of the
    mean score because languages have different tasks, and their mean mostly reflects which. Intervals by Fisher's z with
    variance 1.06 / (n - 3) (Fieller, Hartley and Pearson 1957). Fewer than five languages, or a constant column, give no row.
    `table`: rows of `language_table`.
    """
    rows: list[dict[str, Any]] = []
    for size, group in table[table["language"] != ENGLISH].groupby("size", sort=False):
        for what, first, second in (
            ("language effect with pre-training share", "effect", "share"),
            ("language effect with pieces", "effect", "pieces"),
            ("language effect with pieces per word", "effect", "pieces_per_word"),
            ("latency with pieces", "p50_ms", "pieces"),
        ):
            known = group[[first, second]].dropna()
            if len(known) < 5 or (known.nunique() < 2).any():
                continue
            correlation = stats.spearmanr(known[first], known[second])
            half = float(stats.norm.ppf(0.5 + LEVEL / 2)) * math.sqrt(1.06 / (len(known) - 3))
            rho = correlation.statistic
            z = np.arctanh(np.clip(rho, -0.9999, 0.9999))
            row = {"size": size, "what": what, "spearman": rho, "p": correlation.pvalue, "languages": len(known)}
            rows.append(row | {"low": np.tanh(z - half), "high": np.tanh(z + half)})
    return frame(rows, _ASSOCIATIONS)


def timed_hardware(frames: StudyFrames) -> str:
    """The hardware of the times by language: that with most sizes, the first of several; "" where none was timed."""
    sizes = frames.speed_by_language.groupby("hardware", sort=False)["size"].nunique()
    return "" if sizes.empty else str(sizes.idxmax())


def _speed(frames: StudyFrames) -> dict[tuple[str, str], dict[str, float]]:
    """Costs by size and language, of the size's fastest serving variant timed by language, on one hardware."""
    timed = frames.speed_by_language[frames.speed_by_language["hardware"] == timed_hardware(frames)]
    by_variant = timed.groupby(["size", "variant"])["p50_ms"].mean().reset_index()
    fastest = by_variant.sort_values("p50_ms", kind="stable").drop_duplicates("size")
    rows = timed.merge(fastest[["size", "variant"]], on=["size", "variant"])
    return {(row["size"], row["language"]): {str(k): v for k, v in row.items()} for row in rows.to_dict("records")}


def _ratio(own: dict[str, float], base: dict[str, float], name: str) -> float | None:
    value, reference = own.get(name), base.get(name)
    return value / reference if value and reference else None
