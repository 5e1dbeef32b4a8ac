"""What intermediate training added: by cell, and on average."""

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
    interval,
    quantity,
    selector,
    signed,
    tooltips,
)
from analysis.store.frames import SAID

MARK_SIGNS = {"": "", "same data": "*", "leak": "!"}  # behind a gain that is not transfer
VERDICT_SIGNS = {"gain": "▲", "loss": "▼", "tie": "="}  # behind what is told from zero, or from more than a point


def gains_heatmap(cells: pd.DataFrame, by_language: pd.DataFrame, *, size: str, language: str) -> alt.LayerChart:
    """Target by intermediate for the chosen size and language: gain in points, in colour and in text.

    `cells`: rows of `gains.gains` (the means that are judged, with their uncertainty), shown where the page's selector stands
    at `language`, as it does first; `by_language`: rows of `gains.gains_by_language`, for the others. One colour means one
    gain for every size and language. Cells without a value are grey and carry their reason.
    """
    cells_rows = [_cell(row) | {"language": language} for row in cells.to_dict("records")]
    known = {(row["size"], row["intermediate"], row["task"]): row["mark"] for row in cells.to_dict("records")}
    rows = cells_rows + [
        _language_cell(row, known.get((row["size"], row["intermediate"], row["task"]), ""))
        for row in by_language[by_language["language"] != language].to_dict("records")
    ]
    gains = cells["gain"].dropna().abs()
    bound = max(1.0, float(gains.max())) if len(gains) else 1.0
    x = alt.X("intermediate:N", title=None, sort=list(dict.fromkeys(cells["intermediate"]))).axis(
        orient="top", labelAngle=0 if cells["intermediate"].nunique() <= 5 else -45, labelLimit=110, domain=False
    )
    y = alt.Y("task:N", title=None, sort=list(dict.fromkeys(cells["task"]))).axis(
        labelLimit=120, labelPadding=6, domain=False, ticks=False
    )
    ground = (
        alt.Chart(data([{name: row[name] for name in ("size", "intermediate", "task")} for row in cells_rows]))
        .transform_filter(f"datum.size == {SIZE}")
        .mark_rect(stroke=GREY, strokeWidth=0.4, color=GREY, opacity=0.15)
        .encode(x=x, y=y)
    )
    base = (
        alt.Chart(data(rows))
        .transform_filter(f"datum.size == {SIZE} && datum.language == {LANGUAGE}")
        .encode(
            x=x,
            y=y,
            tooltip=tooltips(
                {
                    "intermediate": "intermediate",
                    "task": "target",
                    "over": "score over",
                    "gain_text": "gain (points)",
                    "interval": "95 % interval",
                    "covers": "interval covers",
                    "verdict": "verdict",
                    "p_text": "p (Holm)",
                    "sd_text": "sd over seeds",
                    "score_text": "score (%)",
                    "none_text": "score with none (%)",
                    "n": "seeds",
                    "mark": "mark",
                }
            ),
        )
    )
    scale = alt.Scale(scheme="blueorange", reverse=True, domain=[-bound, bound], domainMid=0, clamp=True)
    # layers apart, because Vega-Lite drops a rectangle whose colour value is null
    strong = f"abs(datum.gain) > {0.7 * bound}"
    present = base.transform_filter("isValid(datum.gain)")
    return (
        alt.layer(
            ground,
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


def gain_intervals(cells: pd.DataFrame, *, size: str) -> alt.LayerChart:
    """Gains of the chosen size with their 95 % intervals, a row a target and intermediate; pale where one seed is all.

    `cells`: rows of `gains.gains` that have a gain.
    """
    rows = [_cell(row) | {"row": f"{row['task']} · {row['intermediate']}"} for row in cells.to_dict("records")]
    names = list(dict.fromkeys(cells["intermediate"]))
    return _forest(
        rows,
        y=alt.Y("row:N", title=None, sort=list(dict.fromkeys(row["row"] for row in rows))).axis(
            labelLimit=190, domain=False, ticks=False, grid=True
        ),
        by="intermediate",
        names=names,
        titles={"task": "target", "intermediate": "intermediate", "gain_text": "gain (points)"}
        | {
            "interval": "95 % interval",
            "covers": "interval covers",
            "over": "score over",
            "n": "seeds",
            "p_text": "p (Holm)",
            "mark": "mark",
        },
        size=size,
    )


def average_chart(table: pd.DataFrame, *, sizes: Sequence[str]) -> alt.LayerChart:
    """Average gains with their 95 % intervals, a row an intermediate and size. `table`: rows of `choices.average_gains`."""
    rows = [
        {
            "row": f"{row['intermediate']} · {row['size']}",
            "size": row["size"],
            "gain": row["gain"],
            "low": row["low"],
            "high": row["high"],
            "gain_text": signed(row["gain"]),
            "interval": interval(row["low"], row["high"]) or "none",
            "n": row["seeds"],
            "seeds": row["seeds"],
            "targets": row["targets"],
            "p_text": quantity(row["p_holm"], 3),
        }
        for row in table.to_dict("records")
    ]
    order = sorted(rows, key=lambda row: (row["row"].rsplit(" · ", 1)[0], list(sizes).index(row["size"])))
    return _forest(
        rows,
        y=alt.Y("row:N", title=None, sort=[row["row"] for row in order]).axis(
            labelLimit=190, domain=False, ticks=False, grid=True
        ),
        by="size",
        names=sizes,
        titles={"row": "intermediate · size", "gain_text": "mean gain (points)", "interval": "95 % interval"}
        | {"n": "seeds", "targets": "targets", "p_text": "p (Holm)"},
        size=None,
    )


def _forest(
    rows: list[dict[str, Any]],
    *,
    y: alt.Y,
    by: str,
    names: Sequence[str],
    titles: dict[str, str],
    size: str | None,
) -> alt.LayerChart:
    zero = alt.Chart(data([{"zero": 0}])).mark_rule(color=GREY, strokeDash=[4, 3]).encode(x="zero:Q")
    base = alt.Chart(data(rows))
    if size is not None:
        base = base.transform_filter(f"datum.size == {SIZE}")
    colour = alt.Color(f"{by}:N", title=by, scale=cycled(PALETTE, names), legend=alt.Legend(orient="top", columns=3))
    bars = (
        base.transform_filter("isValid(datum.low)")
        .mark_rule(strokeWidth=2)
        .encode(x=alt.X("low:Q", title="gain over none (points)"), x2="high:Q", y=y, color=colour)
    )
    points = base.mark_point(size=70, filled=True).encode(
        x=alt.X("gain:Q", title="gain over none (points)"),
        y=y,
        color=colour,
        shape=alt.Shape(f"{by}:N", title=by, scale=cycled(SHAPES, names)),
        opacity=alt.condition("datum.n > 1", alt.value(1), alt.value(0.4)),
        tooltip=tooltips(titles),
    )
    # an empty layer would have Vega complain of an infinite extent
    layers = [zero, bars, points] if any(not pd.isna(row["low"]) for row in rows) else [zero, points]
    chart = alt.layer(*layers).properties(width="container", height=alt.Step(18))
    return chart if size is None else chart.add_params(selector(SIZE, size))


def _cell(row: dict[Hashable, Any]) -> dict[str, Any]:
    known = not pd.isna(row["gain"])
    covers = (["seeds"] if row["n"] > 1 else []) + (["test examples"] if row["with_examples"] else [])
    sign = VERDICT_SIGNS.get(row["verdict"], "")
    return {
        "size": row["size"],
        "intermediate": row["intermediate"],
        "task": row["task"],
        "over": SAID.get(row["judged_by"], "unavailable"),
        "gain": float(row["gain"]) if known else None,
        "low": row["low"],
        "high": row["high"],
        "label": f"{signed(row['gain'])}{MARK_SIGNS[row['mark']]}{sign}" if known else row["reason"],
        "gain_text": signed(row["gain"]) or row["reason"],
        "interval": interval(row["low"], row["high"]) or "none: one seed, no examples",
        "covers": " and ".join(covers) + (" (one seed)" if row["n"] == 1 else "") if covers else "nothing",
        "verdict": row["verdict"] or "none",
        "p_text": quantity(row["p_holm"], 3),
        "sd_text": quantity(row["sd"], 2) if row["n"] > 1 else "unavailable: under two seeds",
        "score_text": quantity(row["score"]),
        "none_text": quantity(row["score_none"]),
        "n": int(row["n"]),
        "mark": row["mark"] or "none",
    }


def _language_cell(row: dict[Hashable, Any], mark: str) -> dict[str, Any]:
    return {
        "size": row["size"],
        "intermediate": row["intermediate"],
        "task": row["task"],
        "language": row["language"],
        "over": SAID.get(row["language"], row["language"]),
        "gain": float(row["gain"]),
        "label": f"{signed(row['gain'])}{MARK_SIGNS[mark]}",
        "gain_text": signed(row["gain"]),
        "interval": "see the mean that is judged",
        "covers": "",
        "verdict": "not tested by language",
        "p_text": "",
        "sd_text": quantity(row["sd"], 2) if row["n"] > 1 else "unavailable: under two seeds",
        "score_text": quantity(row["score"]),
        "none_text": quantity(row["score_none"]),
        "n": int(row["n"]),
        "mark": mark or "none",
    }
