"""Gains of intermediate training with their intervals: per cell, and on average."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import altair as alt
import pandas as pd

from analysis.charts.common import (
    GREY,
    PALETTE,
    SHAPES,
    SIZE,
    cycled,
    data,
    legend,
    selector,
    size_legend,
    tooltips,
)
from analysis.store.frames import AGGREGATE_NAMES
from analysis.store.names import VERDICT_NAMES
from analysis.tables.formatting import interval, p_value, quantity, signed

FLAG_SIGNS = {"": "", "same data": "*", "leak": "!", "seen": "†"}  # after a gain that is not transfer
VERDICT_SIGNS = {"gain": "▲", "loss": "▼", "tie": "="}
FOREST_ROW_PX, LEAST_LABEL_PX = 10, 16  # of a mark; of a labelled row
CELL_TITLES = {
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


def gain_intervals(cells: pd.DataFrame, *, size: str) -> alt.LayerChart:
    """Gains of the chosen size with their 95% intervals, by target and intermediate task; pale where only one seed was run.

    `cells`: rows of `gains.gains` that have a gain.
    """
    shown = ("task", "intermediate", "gain_text", "interval", "covers", "over", "n", "p_text", "verdict", "flag")
    return _forest(
        [gain_cell(row) for row in cells.to_dict("records")],
        rows_by=("task", list(dict.fromkeys(cells["task"]))),
        marks_by=("intermediate", list(dict.fromkeys(cells["intermediate"]))),
        titles={name: CELL_TITLES[name] for name in shown},
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
    y = alt.Y(f"{rows_by[0]}:N", title=None, sort=list(rows_by[1])).axis(domain=False, ticks=False, grid=False)
    x_title, x_axis = "gain (points)", alt.Axis(tickCount=8)
    offset = alt.YOffset(f"{by}:N", sort=list(names))
    zero = alt.Chart(data([{"zero": 0}])).mark_rule(color=GREY, strokeDash=[4, 3]).encode(x="zero:Q")
    base = alt.Chart(data(rows))
    if size is not None:
        base = base.transform_filter(f"datum.size == {SIZE}")
    title = {"intermediate": "intermediate task"}.get(by, by)
    named = size_legend(names) if by == "size" else legend(names)
    colour = alt.Color(f"{by}:N", title=title, scale=cycled(PALETTE, names), legend=named)
    bars = (
        base.transform_filter("isValid(datum.low)")
        .mark_rule(strokeWidth=2)
        .encode(x=alt.X("low:Q", title=x_title, axis=x_axis), x2="high:Q", y=y, yOffset=offset, color=colour)
    )
    points = base.mark_point(size=45, filled=True).encode(
        x=alt.X("gain:Q", title=x_title, axis=x_axis),
        y=y,
        yOffset=offset,
        color=colour,
        shape=alt.Shape(f"{by}:N", title=title, scale=cycled(SHAPES, names), legend=named),
        opacity=alt.condition("datum.n > 1", alt.value(1), alt.value(0.4)),
        tooltip=tooltips(titles),
    )
    # Vega warns about the infinite extent of an empty layer.
    layers = [zero, bars, points] if any(not pd.isna(row["low"]) for row in rows) else [zero, points]
    step_px = max(FOREST_ROW_PX, LEAST_LABEL_PX / max(1, len(names)))
    chart = alt.layer(*layers).properties(width="container", height=alt.Step(step_px))
    return chart if size is None else chart.add_params(selector(SIZE, size))


def gain_cell(row: dict[Hashable, Any]) -> dict[str, Any]:
    """A row of `gains.gains` as chart data: its fields are those of `CELL_TITLES`, and `label` the text of its cell."""
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
