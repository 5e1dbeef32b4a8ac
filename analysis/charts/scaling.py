"""Score and speed against size with fitted curves, and published scores beside measured ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from analysis.charts.common import GREY, PALETTE, SHAPES, TARGET, cycled, data, legend, padded, selector, tooltips
from analysis.tables.formatting import quantity
from analysis.tables.scaling import SCORE, Fit, Over

_TITLES: dict[Over, str] = {"params_body_m": "body parameters (M)", "gflops_per_sample": "GFLOP per sample"}
BEYOND = 2.0  # factor by which a curve extends past the measured sizes
PUBLISHED_PX, LABEL_PX = 300, 300


def scaling_chart(
    points: pd.DataFrame, fits: Mapping[str, tuple[str, Fit]], *, what: str, over: Over = "params_body_m"
) -> alt.LayerChart:
    """One quantity against body parameters or operations, one mark per size, with fitted curves.

    `points`: rows of `scaling.scaling_points` of one `what`; `fits`: form and fit by series. Bars: one standard deviation over
    seeds. Solid lines span the measured sizes, dotted lines extrapolate; bands are 95%. The x axis is logarithmic, and so is
    the y axis of a speed.
    """
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
    y = y.scale(zero=False, padding=10) if what == SCORE else y.scale(type="log", nice=False, padding=10)
    colour = alt.Color("series:N", title=None, scale=cycled(PALETTE, names), legend=legend(names))
    curves = [
        line
        for series, (form, fit) in fits.items()
        for line in _curve(points, fit, over=over, series=series, form=form)
    ]
    layers = _curve_layers(curves, x=x, y=y, colour=colour) if curves else []
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


def _curve_layers(curves: list[dict[str, Any]], *, x: alt.X, y: alt.Y, colour: alt.Color) -> list[Any]:
    """The bands and, solid or dotted, the curves themselves."""
    base = alt.Chart(data(curves))
    dash = alt.StrokeDash(
        "part:N",
        scale=alt.Scale(domain=["measured range", "extrapolation"], range=[[1, 0], [3, 4]]),
        legend=legend(title=None),
    )
    return [
        base.mark_area(opacity=0.12).encode(x=x, y=alt.Y("low:Q"), y2="high:Q", color=colour, detail="form:N"),
        base.mark_line(strokeWidth=1.5).encode(x=x, y=y, color=colour, detail=["form:N", "part:N"], strokeDash=dash),
    ]


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


def published_chart(measured: pd.DataFrame, literature: pd.DataFrame, *, target: str) -> alt.LayerChart:
    """Score on the chosen target against all parameters: this study's sizes filled, published scores hollow and grey.

    `measured`: size, params_m, task, value; `literature`: rows of `literature.comparable`.
    """
    columns = ["name", "params_m", "task", "value", "source"]
    own_rows = measured.rename(columns={"size": "name"}).assign(source="this study")[columns]
    published = literature.rename(columns={"model": "name"}).dropna(subset=["params_m"])[columns]
    everything = pd.concat([own_rows, published], ignore_index=True)
    counts = everything["params_m"].dropna()
    domain = padded(list(everything["value"]), floor=0, ceiling=100)
    x = alt.X("params_m:Q", title="parameters with embeddings (M), log scale").axis(format="~g", labelOverlap="greedy")
    x = x.scale(type="log", nice=False, domain=[counts.min() / 1.5, counts.max() * 1.5])
    y = alt.Y("value:Q", title="score (%)").scale(domain=domain)
    label_y = alt.Y("label_at:Q", title="score (%)").scale(domain=domain)
    titles = {"name": "model", "params_m": "parameters (M)", "value": "score (%)", "source": "source"}
    labelled = _with_labels_apart(
        published,
        per_decade_px=800 / max(0.1, float(np.log10(counts.max() / counts.min()))),  # in a window of about 1000 px
        least=(domain[1] - domain[0]) * 12 / PUBLISHED_PX,  # a line of text
    )
    own = alt.Chart(data(own_rows.to_dict("records"))).transform_filter(f"datum.task == {TARGET}")
    others = alt.Chart(data(labelled.to_dict("records")))
    others = others.transform_filter(f"datum.task == {TARGET}")
    return (
        alt.layer(
            others.mark_point(size=70, filled=False, color=GREY, shape="diamond").encode(
                x=x, y=y, tooltip=tooltips(titles)
            ),
            others.mark_text(align="right", dx=-7, fontSize=10, limit=LABEL_PX).encode(x=x, y=label_y, text="name:N"),
            own.mark_point(size=90, filled=True, color=PALETTE[0], opacity=1).encode(
                x=x, y=y, tooltip=tooltips(titles)
            ),
            own.mark_text(align="left", dx=7, fontSize=10).encode(x=x, y=y, text="name:N"),
        )
        .add_params(selector(TARGET, target))
        .properties(width="container", height=PUBLISHED_PX)
    )


def _with_labels_apart(published: pd.DataFrame, *, per_decade_px: float, least: float) -> pd.DataFrame:
    """Rows with `label_at`, the height of a label on the score axis: `least` above any label it would cover, by target.

    Labels stand to the left of their points. Models of nearly the same size and score would cover each other's names.
    """
    rows: list[dict[str, Any]] = []
    for _, of_task in published.sort_values("value", kind="stable").groupby("task", sort=False):
        placed: list[tuple[float, float, float]] = []  # left and right end (px), height
        for row in of_task.to_dict("records"):
            right = float(np.log10(row["params_m"])) * per_decade_px
            left = right - min(LABEL_PX, 5.5 * len(row["name"]))
            at = float(row["value"])
            for other_left, other_right, height in placed:
                if left < other_right and other_left < right and abs(at - height) < least:
                    at = height + least
            placed.append((left, right, at))
            rows.append({str(name): value for name, value in row.items()} | {"label_at": at})
    return pd.DataFrame(rows, columns=[*published.columns, "label_at"])
