"""Score and speed against size, with fits, and published figures beside measured ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from analysis.charts.common import GREY, PALETTE, SHAPES, TARGET, cycled, data, padded, quantity, selector, tooltips
from analysis.tables.scaling import SCORE, Fit, Over

_TITLES: dict[Over, str] = {"params_body_m": "body parameters (M)", "gflops_per_sample": "GFLOP a sample"}
BEYOND = 2.0  # how far a curve is drawn past the measured sizes, as a factor


def scaling_chart(
    points: pd.DataFrame, fits: Mapping[str, tuple[str, Fit]], *, what: str, over: Over = "params_body_m"
) -> alt.LayerChart:
    """One quantity against body parameters or operations (both log for speed), a mark a size, curves where there are fits.

    `points`: rows of `scaling.scaling_points` of one `what`; `fits` over the same by series, each with its form.
    Bars: one standard deviation over seeds.
    Full lines run between the smallest and the largest size, dotted ones beyond them are extrapolation; the bands are 95 %.
    """
    log_y = what != SCORE
    rows = [
        dict(row)
        | {"low": row["value"] - row["sd"], "high": row["value"] + row["sd"]}
        | {"value_text": quantity(row["value"], 2), "sd_text": quantity(row["sd"], 2)}
        for row in points.to_dict("records")
    ]
    names = list(dict.fromkeys(points["series"]))
    x = alt.X(f"{over}:Q", title=f"{_TITLES[over]}, log scale").axis(format="~g", labelOverlap="greedy")
    beyond = BEYOND if fits else 1.2
    x = x.scale(type="log", nice=False, domain=[points[over].min() / 1.2, points[over].max() * beyond])
    y = alt.Y("value:Q", title=what)
    y = y.scale(type="log", nice=False) if log_y else y.scale(zero=False, padding=10)
    colour = alt.Color("series:N", title=None, scale=cycled(PALETTE, names), legend=alt.Legend(orient="top", columns=2))
    layers: list[Any] = []
    curves = [
        line
        for series, (form, fit) in fits.items()
        for line in _curve(points, fit, over=over, series=series, form=form)
    ]
    if curves:
        base = alt.Chart(data(curves))
        layers.append(
            base.mark_area(opacity=0.12).encode(x=x, y=alt.Y("low:Q"), y2="high:Q", color=colour, detail="form:N")
        )
        layers.append(
            base.mark_line(strokeWidth=1.5).encode(
                x=x,
                y=y,
                color=colour,
                detail=["form:N", "part:N"],
                strokeDash=alt.StrokeDash(
                    "part:N",
                    scale=alt.Scale(domain=["measured range", "extrapolation"], range=[[1, 0], [3, 4]]),
                    legend=alt.Legend(orient="top", title=None),
                ),
            )
        )
    marks = alt.Chart(data(rows))
    if any(not pd.isna(row["low"]) for row in rows):
        layers.append(
            marks.transform_filter("isValid(datum.low)")
            .mark_rule()
            .encode(x=x, y=alt.Y("low:Q"), y2="high:Q", color=colour)
        )
    layers.append(
        marks.mark_point(size=80, filled=True, opacity=1).encode(
            x=x,
            y=y,
            color=colour,
            shape=alt.Shape("series:N", title=None, scale=cycled(SHAPES, names)),
            tooltip=tooltips(
                {"size": "size", "series": "series", "value_text": what, "sd_text": "sd", "n": "measured"}
            ),
        )
    )
    return alt.layer(*layers).resolve_scale(strokeDash="independent").properties(width="container", height=280)


def _curve(points: pd.DataFrame, fit: Fit, *, over: Over, series: str, form: str) -> list[dict[str, Any]]:
    own = points.loc[points["series"] == series, over]
    first, last = float(own.min()), float(own.max())
    rows = []
    for part, start, end in (("measured range", first, last), ("extrapolation", last, last * BEYOND)):
        at = np.geomspace(start, end, 40)
        rows += [
            {over: a, "value": v, "low": max(low, 0.0), "high": high, "series": series, "form": form, "part": part}
            for a, v, low, high in zip(at, fit.predict(at), *fit.band(at), strict=True)
        ]
    return [row for row in rows if row["value"] > 0]


def published_chart(
    measured: pd.DataFrame, literature: pd.DataFrame, *, target: str, targets: Sequence[str]
) -> alt.LayerChart:
    """Score on the chosen target against all parameters: this study's sizes filled, published figures hollow and grey.

    `measured`: size, params_m, task, value; `literature`: rows of `literature.comparable`.
    """
    rows = [
        {
            "name": row["size"],
            "params_m": row["params_m"],
            "task": row["task"],
            "value": row["value"],
            "source": "this study",
        }
        for row in measured.to_dict("records")
    ]
    told = [
        {
            "name": row["model"],
            "params_m": row["params_m"],
            "task": row["task"],
            "value": row["value"],
            "source": row["source"],
        }
        for row in literature.to_dict("records")
        if not pd.isna(row["params_m"])
    ]
    values = [row["value"] for row in rows + told]
    counts = [row["params_m"] for row in rows + told if not pd.isna(row["params_m"])]
    x = alt.X("params_m:Q", title="parameters with embeddings (M), log scale").axis(format="~g", labelOverlap="greedy")
    x = x.scale(type="log", nice=False, domain=[min(counts) / 1.5, max(counts) * 3])  # room for names on the right
    y = alt.Y("value:Q", title="score (%)").scale(domain=padded(values, floor=0, ceiling=100))
    titles = {"name": "model", "params_m": "parameters (M)", "value": "score (%)", "source": "source"}
    own = alt.Chart(data(rows)).transform_filter(f"datum.task == {TARGET}")
    others = alt.Chart(data(told)).transform_filter(f"datum.task == {TARGET}")
    return (
        alt.layer(
            others.mark_point(size=70, filled=False, color=GREY, shape="diamond").encode(
                x=x, y=y, tooltip=tooltips(titles)
            ),
            others.mark_text(align="left", dx=7, fontSize=10, limit=150).encode(x=x, y=y, text="name:N"),
            own.mark_point(size=90, filled=True, color=PALETTE[0], opacity=1).encode(
                x=x, y=y, tooltip=tooltips(titles)
            ),
            own.mark_text(align="left", dx=7, fontSize=10).encode(x=x, y=y, text="name:N"),
        )
        .add_params(selector(TARGET, target))
        .properties(width="container", height=300)
    )
