"""The search: importance of hyperparameters, and agreement of rungs with the final ranking."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import pandas as pd

from analysis.charts.common import PALETTE, SHAPES, cycled, data, size_legend, tooltips
from analysis.tables.formatting import interval, quantity

PARAMETER_NAMES = {
    "intermediate": "intermediate task",
    "lr_intermediate": "intermediate learning rate",
    "lr_target": "target learning rate",
}


def importance_chart(table: pd.DataFrame, *, sizes: Sequence[str]) -> alt.Chart:
    """Importance of each hyperparameter for the dev score, by size. `table`: rows of `searches.importances`."""
    rows = [
        dict(row)
        | {"parameter": PARAMETER_NAMES.get(row["parameter"], row["parameter"])}
        | {"text": quantity(row["importance"], 2)}
        for row in table.to_dict("records")
    ]
    return (
        alt.Chart(data(rows))
        .mark_bar()
        .encode(
            x=alt.X("importance:Q", title="importance (share)").scale(domain=[0, 1]),
            y=alt.Y("parameter:N", title=None, sort="-x"),
            yOffset=alt.YOffset("size:N", sort=list(sizes)),
            color=alt.Color("size:N", scale=cycled(PALETTE, sizes), legend=size_legend(sizes)),
            tooltip=tooltips({"size": "size", "parameter": "hyperparameter", "text": "importance", "trials": "trials"}),
        )
        .properties(width="container", height=alt.Step(14))
    )


def agreement_chart(table: pd.DataFrame, *, sizes: Sequence[str]) -> alt.LayerChart:
    """Kendall's tau of each rung's ranking with the final one, with 95% intervals. `table`: `searches.rung_agreement`."""
    rows = [
        dict(row)
        | {
            "tau_text": quantity(row["kendall_tau"], 2),
            "interval": interval(row["low"], row["high"], 2) or "none: fewer than five trials",
        }
        for row in table.to_dict("records")
    ]
    base = alt.Chart(data(rows)).encode(
        x=alt.X("rung:O", title="targets finished").axis(labelAngle=0),
        xOffset=alt.XOffset("size:N", sort=list(sizes)),
        color=alt.Color("size:N", scale=cycled(PALETTE, sizes), legend=size_legend(sizes)),
    )
    y = alt.Y("kendall_tau:Q", title="Kendall's tau with the final ranking").scale(domain=[-1, 1])
    bars = base.transform_filter("isValid(datum.low)").mark_rule(strokeWidth=2).encode(y=alt.Y("low:Q"), y2="high:Q")
    points = base.mark_point(size=70, filled=True, opacity=1).encode(
        y=y,
        shape=alt.Shape("size:N", scale=cycled(SHAPES, sizes), legend=size_legend(sizes)),
        tooltip=tooltips(
            {"size": "size", "rung": "targets", "tau_text": "tau", "interval": "95% interval", "trials": "trials"}
        ),
    )
    layers = [bars, points] if any(not pd.isna(row["low"]) for row in rows) else [points]
    return alt.layer(*layers).properties(width="container", height=220)
