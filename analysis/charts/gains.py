"""Gains of intermediate training: per cell, and on average."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import altair as alt
import pandas as pd

from analysis.charts.common import (
    GREY,
    LANGUAGE,
    PALETTE,
    ROW_PX,
    SHAPES,
    SIZE,
    cycled,
    data,
    legend,
    selector,
    tooltips,
)
from analysis.store.frames import AGGREGATE_NAMES
from analysis.store.names import VERDICT_NAMES
from analysis.tables.formatting import interval, p_value, quantity, signed

FLAG_SIGNS = {"": "", "same data": "*", "leak": "!", "seen": "†"}  # after a gain that is not transfer
VERDICT_SIGNS = {"gain": "▲", "loss": "▼", "tie": "="}
_LABEL_PX = 200  # fits target names of about 30 characters


def gains_heatmap(cells: pd.DataFrame, by_language: pd.DataFrame, *, size: str, language: str) -> alt.LayerChart:
    """Gain in points, targets by intermediate tasks, for the chosen size and language, as colour and text.

    `cells`: rows of `gains.gains`, the judged means with their uncertainty, shown while the page's selector is at `language`
    (its initial value). `by_language`: rows of `gains.gains_by_language`, for the other languages. The colour scale is the same
    for every size and language. Cells without a value are grey and show their reason.
    """
    judged = [_cell(row) | {"language": language} for row in cells.to_dict("records")]
    flags = {(row["size"], row["intermediate"], row["task"]): row["mark"] for row in cells.to_dict("records")}
    rows = judged + [
        _language_cell(row, flags.get((row["size"], row["intermediate"], row["task"]), ""))
        for row in by_language[by_language["language"] != language].to_dict("records")
    ]
    x, y = _heatmap_axes(cells)
    background = (
        alt.Chart(data([{name: row[name] for name in ("size", "intermediate", "task")} for row in judged]))
        .transform_filter(f"datum.size == {SIZE}")
        .mark_rect(stroke=GREY, strokeWidth=0.4, color=GREY, opacity=0.15)
        .encode(x=x, y=y)
    )
    base = (
        alt.Chart(data(rows))
        .transform_filter(f"datum.size == {SIZE} && datum.language == {LANGUAGE}")
        .encode(x=x, y=y, tooltip=tooltips(_CELL_TITLES))
    )
    gains = cells["gain"].dropna().abs()
    bound = max(1.0, float(gains.max())) if len(gains) else 1.0
    scale = alt.Scale(scheme="blueorange", reverse=True, domain=[-bound, bound], domainMid=0, clamp=True)
    # Separate layers, because Vega-Lite drops a rectangle whose colour value is null.
    strong = f"abs(datum.gain) > {0.7 * bound}"
    present = base.transform_filter("isValid(datum.gain)")
    return (
        alt.layer(
            background,
            present.mark_rect(stroke=GREY, strokeWidth=0.4).encode(color=alt.Color("gain:Q", scale=scale, legend=None)),
            present.transform_filter(strong).mark_text(fontSize=12, color="white").encode(text="label:N"),
            present.transform_filter(f"!({strong})").mark_text(fontSize=12, color="#1a1a1a").encode(text="label:N"),
            base.transform_filter("!isValid(datum.gain)")
            .mark_text(fontSize=10, fontStyle="italic")
            .encode(text="label:N"),
        )
        .add_params(selector(SIZE, size), selector(LANGUAGE, language))
        .properties(width="container", height=ROW_PX * max(1, cells["task"].nunique()))
    )


_CELL_TITLES = {
    "intermediate": "intermediate task",
    "task": "target",
    "over": "score over",
    "gain_text": "gain (points)",
    "interval": "95% interval",
    "covers": "interval covers",
    "verdict": "verdict",
    "p_text": "corrected p (Holm)",
    "sd_text": "sd over seeds",
    "score_text": "score (%)",
    "none_text": "score with none (%)",
    "n": "seeds",
    "flag": "contamination flag",
}


def _heatmap_axes(cells: pd.DataFrame) -> tuple[alt.X, alt.Y]:
    names = list(dict.fromkeys(cells["intermediate"]))
    fits = max(map(len, names), default=0) * len(names) <= 60  # characters beside each other in half the page's width
    x = alt.X("intermediate:N", title=None, sort=names).axis(
        orient="top", labelAngle=0 if fits else -45, labelLimit=_LABEL_PX, domain=False
    )
    y = alt.Y("task:N", title=None, sort=list(dict.fromkeys(cells["task"]))).axis(
        labelLimit=_LABEL_PX, labelPadding=6, domain=False, ticks=False
    )
    return x, y


def gain_intervals(cells: pd.DataFrame, *, size: str) -> alt.LayerChart:
    """Gains of the chosen size with their 95% intervals, by target and intermediate task; pale where only one seed was run.

    `cells`: rows of `gains.gains` that have a gain.
    """
    shown = ("task", "intermediate", "gain_text", "interval", "covers", "over", "n", "p_text", "verdict", "flag")
    return _forest(
        [_cell(row) for row in cells.to_dict("records")],
        rows_by=("task", list(dict.fromkeys(cells["task"]))),
        marks_by=("intermediate", list(dict.fromkeys(cells["intermediate"]))),
        titles={name: _CELL_TITLES[name] for name in shown},
        size=size,
    )


def average_chart(table: pd.DataFrame, *, sizes: Sequence[str]) -> alt.LayerChart:
    """Average gains with their 95% intervals, by intermediate task and size. `table`: rows of `averages.average_gains`."""
    rows = [
        {
            "intermediate": row["intermediate"],
            "size": row["size"],
            "gain": row["gain"],
            "low": row["low"],
            "high": row["high"],
            "gain_text": signed(row["gain"]),
            "interval": interval(row["low"], row["high"]) or "none",
            "n": row["seeds"],
            "targets": row["targets"],
            "p_text": p_value(row["p_holm"]) or "one seed: not tested",
        }
        for row in table.to_dict("records")
    ]
    return _forest(
        rows,
        rows_by=("intermediate", list(dict.fromkeys(table["intermediate"]))),
        marks_by=("size", sizes),
        titles={"intermediate": "intermediate task", "size": "size", "gain_text": "mean gain (points)"}
        | {"interval": "95% interval", "n": "seeds", "targets": "targets", "p_text": "corrected p (Holm)"},
        size=None,
    )


def _forest(
    rows: list[dict[str, Any]],
    *,
    rows_by: tuple[str, Sequence[str]],
    marks_by: tuple[str, Sequence[str]],
    titles: dict[str, str],
    size: str | None,
) -> alt.LayerChart:
    """Estimates with their intervals: one labelled row per name of `rows_by`, in it one mark per name of `marks_by`."""
    by, names = marks_by
    y = alt.Y(f"{rows_by[0]}:N", title=None, sort=list(rows_by[1])).axis(
        labelLimit=_LABEL_PX, domain=False, ticks=False, grid=False
    )
    x_title, x_axis = "gain over none (points)", alt.Axis(tickCount=8)
    offset = alt.YOffset(f"{by}:N", sort=list(names))
    zero = alt.Chart(data([{"zero": 0}])).mark_rule(color=GREY, strokeDash=[4, 3]).encode(x="zero:Q")
    base = alt.Chart(data(rows))
    if size is not None:
        base = base.transform_filter(f"datum.size == {SIZE}")
    title = {"intermediate": "intermediate task"}.get(by, by)
    colour = alt.Color(
        f"{by}:N", title=title, scale=cycled(PALETTE, names), legend=legend(columns=_legend_columns(names))
    )
    bars = (
        base.transform_filter("isValid(datum.low)")
        .mark_rule(strokeWidth=2)
        .encode(x=alt.X("low:Q", title=x_title, axis=x_axis), x2="high:Q", y=y, yOffset=offset, color=colour)
    )
    points = base.mark_point(size=70, filled=True).encode(
        x=alt.X("gain:Q", title=x_title, axis=x_axis),
        y=y,
        yOffset=offset,
        color=colour,
        shape=alt.Shape(f"{by}:N", title=title, scale=cycled(SHAPES, names)),
        opacity=alt.condition("datum.n > 1", alt.value(1), alt.value(0.4)),
        tooltip=tooltips(titles),
    )
    # Vega warns about the infinite extent of an empty layer.
    layers = [zero, bars, points] if any(not pd.isna(row["low"]) for row in rows) else [zero, points]
    chart = alt.layer(*layers).properties(width="container", height=alt.Step(14))
    return chart if size is None else chart.add_params(selector(SIZE, size))


def _legend_columns(names: Sequence[str]) -> int:
    """As many entries per row as fit beside the labels of a narrow screen."""
    return max(1, min(4, 24 // max(map(len, names), default=1)))


def _cell(row: dict[Hashable, Any]) -> dict[str, Any]:
    known = not pd.isna(row["gain"])
    covers = (["seeds"] if row["n"] > 1 else []) + (["test examples"] if row["with_examples"] else [])
    sign = VERDICT_SIGNS.get(row["verdict"], "")
    return {
        "size": row["size"],
        "intermediate": row["intermediate"],
        "task": row["task"],
        "over": AGGREGATE_NAMES.get(row["judged_by"], "not scored"),
        "gain": float(row["gain"]) if known else None,
        "low": row["low"],
        "high": row["high"],
        "label": f"{signed(row['gain'])}{FLAG_SIGNS[row['mark']]}{sign}" if known else row["reason"],
        "gain_text": signed(row["gain"]) or row["reason"],
        "interval": interval(row["low"], row["high"]) or "none: one seed, no examples",
        "covers": " and ".join(covers) + (" (one seed)" if row["n"] == 1 else "") if covers else "nothing",
        "verdict": VERDICT_NAMES.get(row["verdict"], "none"),
        "p_text": p_value(row["p_holm"]) or _untested(row),
        "sd_text": quantity(row["sd"], 2) if row["n"] > 1 else "none: fewer than two seeds",
        "score_text": quantity(row["score"]),
        "none_text": quantity(row["score_none"]),
        "n": int(row["n"]),
        "flag": row["mark"] or "none",
    }


def _untested(row: dict[Hashable, Any]) -> str:
    if row["mark"]:
        return "not tested: not transfer"
    return "one seed: not tested" if row["n"] == 1 else "not tested"


def _language_cell(row: dict[Hashable, Any], flag: str) -> dict[str, Any]:
    return {
        "size": row["size"],
        "intermediate": row["intermediate"],
        "task": row["task"],
        "language": row["language"],
        "over": AGGREGATE_NAMES.get(row["language"], row["language"]),
        "gain": float(row["gain"]),
        "label": f"{signed(row['gain'])}{FLAG_SIGNS[flag]}",
        "gain_text": signed(row["gain"]),
        "interval": "only for the judged mean",
        "covers": "",
        "verdict": "not tested by language",
        "p_text": "not tested",
        "sd_text": quantity(row["sd"], 2) if row["n"] > 1 else "none: fewer than two seeds",
        "score_text": quantity(row["score"]),
        "none_text": quantity(row["score_none"]),
        "n": int(row["n"]),
        "flag": flag or "none",
    }
