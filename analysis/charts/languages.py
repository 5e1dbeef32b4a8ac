"""Scores and costs by language."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import pandas as pd

from analysis.charts.common import (
    GREY,
    LANGUAGE_ROW_PX,
    PALETTE,
    SHAPES,
    SIZE,
    TARGET,
    cycled,
    data,
    legend,
    selector,
    size_legend,
    tooltips,
)
from analysis.tables.formatting import quantity


def language_chart(scores: pd.DataFrame, *, sizes: Sequence[str], target: str) -> alt.LayerChart:
    """Score (percent) in each language of the chosen target, best first; one mark per size, chance as a dashed rule.

    `scores`: size, trial_id, task, language, name, label, value, chance, low, high (95% over test examples, NaN if unknown).
    """
    rows = [dict(row) | {"value_text": quantity(row["value"])} for row in scores.to_dict("records")]
    base = alt.Chart(data(rows)).transform_filter(f"datum.task == {TARGET}")
    x = alt.X("value:Q", title="score (%)").scale(domain=[0, 100])
    order = alt.EncodingSortField(field="value", op="max", order="descending")
    y = alt.Y("label:N", title=None, sort=order).axis(grid=True, domain=False, ticks=False, labelOverlap=False)
    colour = alt.Color("size:N", title="size", scale=cycled(PALETTE, sizes), legend=size_legend(sizes))
    titles = {"name": "language", "size": "size", "trial_id": "trial", "value_text": "score (%)"}
    chance = (
        base.transform_filter("isValid(datum.chance)")
        .mark_rule(strokeDash=[4, 3], color=GREY)
        .encode(x=alt.X("mean(chance):Q", title="score (%)").scale(domain=[0, 100]))
    )
    bars = (
        base.transform_filter("isValid(datum.low)")
        .mark_rule(strokeWidth=1.5)
        .encode(x=alt.X("low:Q"), x2="high:Q", y=y, color=colour)
    )
    layers = [
        *([chance] if scores["chance"].notna().any() else []),
        *([bars] if scores["low"].notna().any() else []),
        base.mark_point(size=45, filled=True, opacity=1).encode(
            x=x,
            y=y,
            color=colour,
            shape=alt.Shape("size:N", title="size", scale=cycled(SHAPES, sizes), legend=size_legend(sizes)),
            tooltip=tooltips(titles),
        ),
    ]
    return (
        alt.layer(*layers)
        .add_params(selector(TARGET, target))
        .properties(width="container", height=alt.Step(LANGUAGE_ROW_PX))
    )


def association_chart(table: pd.DataFrame, *, x: str, y: str, titles: tuple[str, str], size: str) -> alt.LayerChart:
    """Languages of the chosen size as points labelled by code; colour and shape show the script.

    `table`: rows of `languages.language_table` where both columns are known.
    """
    scripts = list(table["script"].value_counts().index)
    rows = [
        {name: row[name] for name in ("size", "language", "name", "script")}
        | {"x": row[x], "y": row[y], "x_text": quantity(row[x], 2), "y_text": quantity(row[y], 2)}
        for row in table.to_dict("records")
    ]
    base = alt.Chart(data(rows)).transform_filter(f"datum.size == {SIZE}")
    across = alt.X("x:Q", title=titles[0]).scale(zero=False, padding=20)
    up = alt.Y("y:Q", title=titles[1]).scale(zero=False, padding=12)
    points = base.mark_point(size=60, filled=True, opacity=1).encode(
        x=across,
        y=up,
        color=alt.Color("script:N", scale=cycled(PALETTE, scripts), legend=legend(scripts)),
        shape=alt.Shape("script:N", scale=cycled(SHAPES, scripts)),
        tooltip=tooltips({"name": "language", "script": "script", "x_text": titles[0], "y_text": titles[1]}),
    )
    labels = base.mark_text(dx=6, dy=-6, align="left", fontSize=10).encode(x=across, y=up, text="language:N")
    return alt.layer(points, labels).add_params(selector(SIZE, size)).properties(width="container", height=280)
