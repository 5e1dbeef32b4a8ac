"""Gains of intermediate training as a table of colours, numbers and signs, with totals."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from statistics import mean
from typing import Any

import altair as alt
import pandas as pd

from analysis.charts.common import GREY, LANGUAGE, ROW_PX, SIZE, data, selector, tooltips
from analysis.charts.gains import CELL_TITLES, FLAG_SIGNS, gain_cell
from analysis.tables.formatting import interval, p_value, signed
from analysis.tables.inference import ALPHA

OVER_TARGETS = OVER_TASKS = (
    "(mean)"  # the last row and the last column: a task may be named "mean", none in parentheses
)
CHARACTERS = 110  # of names side by side, in a chart as wide as the page
_LABELS = f"datum.label == '{OVER_TARGETS}' ? 'mean' : datum.label"
# Fields that the cells of a single language and the totals lack, as Vega expressions.
_TEXTS = {
    "gain_text": "(abs(datum.gain) < 0.05 ? '0.0' : format(datum.gain, '+.1f'))",
    "label": "datum.gain_text + (isValid(datum.sign) ? datum.sign : '')",
    "score_text": "isValid(datum.score) ? format(datum.score, '.1f') : 'unavailable'",
    "none_text": "isValid(datum.none) ? format(datum.none, '.1f') : 'unavailable'",
    "over": "datum.language",
    "interval": "'only for the judged mean'",
    "covers": "''",
    "verdict": "'not tested by language'",
    "p_text": "'not tested'",
    "sd_text": "'not shown by language'",
    "flag": "'none'",
}


def gains_heatmap(
    cells: pd.DataFrame, by_language: pd.DataFrame, averages: pd.DataFrame, *, size: str, language: str
) -> alt.LayerChart:
    """Gain in points, targets by intermediate tasks, for the chosen size and language, as colour and text.

    `cells`: rows of `gains.gains`, the judged means with their uncertainty, shown while the page's selector is at `language`
    (its initial value). `by_language`: rows of `gains.gains_by_language`, for the other languages. `averages`: rows of
    `averages.average_gains`, the totals of the intermediate tasks; other totals are plain means and have no sign. Totals leave
    out gains with a contamination flag. Rows and columns are in the order of their mean gains over all sizes, the best first,
    and the colour scale is the same for every size and language, so that nothing moves when another is chosen. Cells without
    a value are grey and show their reason.
    """
    judged = [gain_cell(row) | {"language": language} for row in cells.to_dict("records")]
    flags = {(row["size"], row["intermediate"], row["task"]): row["mark"] for row in cells.to_dict("records")}
    others = [
        _language_cell(row, flags.get((row["size"], row["intermediate"], row["task"]), ""))
        for row in by_language[by_language["language"] != language].to_dict("records")
    ]
    totals = [_average(row) | {"language": language} for row in averages.to_dict("records")]
    totals += _means(judged, by="task") + _means(others, by="task") + _means(others, by="intermediate")
    rows = [*judged, *others, *totals]
    x, y = _axes(cells, averages)
    background = (
        alt.Chart(data([{name: row[name] for name in ("size", "intermediate", "task")} for row in judged]))
        .transform_filter(f"datum.size == {SIZE}")
        .mark_rect(stroke=GREY, strokeWidth=0.4, color=GREY, opacity=0.15)
        .encode(x=x, y=y)
    )
    base = (
        alt.Chart(data(rows))
        .transform_filter(f"datum.size == {SIZE} && datum.language == {LANGUAGE}")
        .transform_calculate(
            **{name: f"isValid(datum.{name}) ? datum.{name} : {text}" for name, text in _TEXTS.items()}
        )
        .encode(x=x, y=y, tooltip=tooltips(CELL_TITLES))
    )
    gains = cells["gain"].dropna().abs()
    bound = max(1.0, float(gains.max())) if len(gains) else 1.0
    # At a luminance of 0.18 black and white both have a contrast of 4.6.
    on_dark = "luminance(scale('color', datum.gain)) < 0.18"
    readable = alt.condition(on_dark, alt.value("#fff"), alt.value("#000"))
    scale = alt.Scale(scheme="blueorange", reverse=True, domain=[-bound, bound], domainMid=0, clamp=True)
    # Separate layers, because Vega-Lite drops a rectangle whose colour value is null.
    present = base.transform_filter("isValid(datum.gain)")
    return (
        alt.layer(
            background,
            present.mark_rect(stroke=GREY, strokeWidth=0.4).encode(color=alt.Color("gain:Q", scale=scale, legend=None)),
            present.mark_text(fontSize=12).encode(text="label:N", color=readable),
            base.transform_filter("!isValid(datum.gain)")
            .mark_text(fontSize=10, fontStyle="italic")
            .encode(text="label:N"),
        )
        .add_params(selector(SIZE, size), selector(LANGUAGE, language))
        .properties(width="container", height=ROW_PX * (cells["task"].nunique() + 1))
    )


def _axes(cells: pd.DataFrame, averages: pd.DataFrame) -> tuple[alt.X, alt.Y]:
    """Columns and rows, best mean gain first and totals last."""
    tasks = _best_first(cells, "task")
    names = _best_first(averages if len(averages) else cells, "intermediate")
    names += [name for name in dict.fromkeys(cells["intermediate"]) if name not in names]
    several = [OVER_TASKS] if len(names) > 1 else []
    columns = [*names, *several]
    x = (
        alt.X("intermediate:N", title=None)
        .scale(domain=columns)
        .axis(orient="top", labelAngle=0 if labels_fit(columns) else -40, domain=False, labelExpr=_LABELS)
    )
    rows = [*tasks, OVER_TARGETS]
    y = alt.Y("task:N", title=None).scale(domain=rows)
    return x, y.axis(labelPadding=6, domain=False, ticks=False, labelExpr=_LABELS)


def labels_fit(columns: Sequence[str]) -> bool:
    """Whether the names of the columns are beside each other in the page's width; else they are slanted."""
    return max(map(len, columns), default=0) * len(columns) <= CHARACTERS


def _best_first(table: pd.DataFrame, name: str) -> list[str]:
    means = (
        table.groupby(name, sort=False)["gain"].mean().sort_values(ascending=False, kind="stable", na_position="last")
    )
    return [str(label) for label in means.index]


def _language_cell(row: dict[Hashable, Any], flag: str) -> dict[str, Any]:
    """Numbers alone: there are thousands of these, and the chart writes their text (`_TEXTS`)."""
    cell = {name: row[name] for name in ("size", "intermediate", "task", "language")}
    cell |= {"gain": round(float(row["gain"]), 2), "n": int(row["n"])}
    cell |= {"score": round(float(row["score"]), 1), "none": round(float(row["score_none"]), 1)}
    return cell | ({"flag": flag, "sign": FLAG_SIGNS[flag]} if flag else {})


def _average(row: dict[Hashable, Any]) -> dict[str, Any]:
    """The mean gain of an intermediate task over targets, with a sign where it is told from zero."""
    told = row["p_holm"] < ALPHA
    return {
        "size": row["size"],
        "intermediate": row["intermediate"],
        "task": OVER_TARGETS,
        "over": f"{row['targets']} targets without a flag",
        "gain": float(row["gain"]),
        "label": signed(row["gain"]) + (("▲" if row["gain"] > 0 else "▼") if told else ""),
        "gain_text": signed(row["gain"]),
        "interval": interval(row["low"], row["high"]) or "none: one seed, no examples",
        "verdict": ("gain" if row["gain"] > 0 else "loss") if told else "none",
        "p_text": p_value(row["p_holm"]) or "not tested",
        "n": int(row["seeds"]),
    }


def _means(rows: list[dict[str, Any]], *, by: str) -> list[dict[str, Any]]:
    """Plain means by target or by intermediate task (`by`), for every size and language, of the gains without a flag."""
    other, total = ("intermediate", OVER_TASKS) if by == "task" else ("task", OVER_TARGETS)
    groups: dict[tuple[str, str, str], list[float]] = {}
    for row in rows:
        if row["gain"] is not None and row.get("flag", "none") == "none":
            groups.setdefault((row["size"], row["language"], row[by]), []).append(row["gain"])
    return [
        {"size": size, "language": language, by: name, other: total, "over": f"{len(gains)} gains"}
        | {"gain": round(mean(gains), 2), "n": ""}
        | {"interval": "none: a plain mean", "verdict": "not tested"}
        for (size, language, name), gains in groups.items()
        if len(gains) > 1
    ]
