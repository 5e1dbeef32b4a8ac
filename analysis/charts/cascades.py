"""What a cascade of two sizes scores and costs, by how much of it the smaller model answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import altair as alt
import pandas as pd

from analysis.charts.common import PALETTE, SHAPES, cycled, data, legend, padded, tooltips
from analysis.tables.formatting import quantity


def cascade_chart(curves: pd.DataFrame, served: pd.DataFrame, *, score_title: str) -> alt.LayerChart:
    """Predicted score (percent) against predicted mean latency (log scale), a line for each pair of sizes.

    `curves`: rows of `cascades.served.cascade_curves`, at least one. A large point is a cascade that was served (`served`: rows
    of `served_cascades`), at the score and the latency that were measured.
    """
    lines = [
        _point(row) | {"step": f"{100 * row['dev_share']:.0f}% of English dev"} for row in curves.to_dict("records")
    ]
    points = [_point(row) for row in served.to_dict("records")]
    names = list(dict.fromkeys(row["pair"] for row in lines))
    known = [row for row in points if not pd.isna(row["latency_ms"])]
    times, scores = ([row[name] for row in (*lines, *known)] for name in ("latency_ms", "score"))
    x = alt.X("latency_ms:Q", title="mean latency (ms), log scale").axis(format="~g", labelOverlap="greedy")
    x = x.scale(type="log", domain=[min(times) / 1.1, max(times) * 1.1], nice=False)
    y = alt.Y("score:Q", title=f"{score_title} (%)").scale(domain=padded(scores, floor=0.0, ceiling=100.0), nice=False)
    color = alt.Color("pair:N", title="pair", scale=cycled(PALETTE, names), legend=legend(names))
    shape = alt.Shape("pair:N", title="pair", scale=cycled(SHAPES, names))
    shown = {"pair": "pair", "step": "the smaller model answers", "share_text": "of the timed tests"}
    shown |= {"score_text": "score (%)", "latency_text": "mean latency (ms)"}
    line = alt.Chart(data(lines)).mark_line(strokeWidth=1.5).encode(x=x, y=y, color=color, order="dev_share:Q")
    dots = alt.Chart(data(lines)).mark_point(size=18, filled=True, opacity=1)
    layers = [line, dots.encode(x=x, y=y, color=color, shape=shape, tooltip=tooltips(shown))]
    if known:  # Vega warns about an empty layer
        mark = alt.Chart(data(known)).mark_point(size=160, filled=True, opacity=1)
        measured = {name: title for name, title in shown.items() if name != "step"}
        layers.append(mark.encode(x=x, y=y, color=color, shape=shape, tooltip=tooltips(measured)))
    return alt.layer(*layers).properties(width="container", height=300)


def _point(row: Mapping[Any, Any]) -> dict[str, Any]:
    return {
        "pair": f"{row['small']}→{row['large']}",
        **{name: row[name] for name in ("score", "latency_ms", "dev_share") if name in row},
        "share_text": f"{quantity(100 * row['share'], 0)}%",
        "score_text": quantity(row["score"]),
        "latency_text": quantity(row["latency_ms"], 2),
    }
