"""Altair charts of a study, sized by their container and legible without colour vision.

Colours: Okabe and Ito's palette for categories (https://jfly.uni-koeln.de/color/), always doubled by shape; blue to
orange for signed values. Text and axis colours are left to the page, which follows the reader's light or dark setting.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import Any

import altair as alt
import pandas as pd

from analysis.frames import BENCH_METRICS

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8c8c8c")
SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "stroke")
GREY = "#8c8c8c"
ROW_PX = 30
LANGUAGE_ROW_PX = 15

METRIC_NAMES = {
    "p50_ms": "p50 latency (ms)",
    "p90_ms": "p90 latency (ms)",
    "p99_ms": "p99 latency (ms)",
    "throughput_sps": "throughput (samples/s)",
    "peak_memory_mb": "peak memory (MB)",
    "energy_j_per_sample": "energy (J/sample)",
    "test_score": "test score (%)",
    "params_m": "parameters (M)",
    "params_body_m": "body parameters (M)",
}
MARK_SIGNS = {"": "", "same data": "*", "leak": "!"}  # behind a gain that is not transfer
METRIC_DIGITS = dict.fromkeys(METRIC_NAMES, 2) | {"energy_j_per_sample": 4, "peak_memory_mb": 0, "throughput_sps": 1}


def quantity(value: float, digits: int = 1) -> str:
    """A number as text, or "unavailable" for NaN."""
    return "unavailable" if pd.isna(value) else f"{value:,.{digits}f}"


def tradeoff_chart(points: pd.DataFrame) -> alt.LayerChart:
    """Test score (percent) against p50 latency (ms, log), a point a size and variant, the Pareto front as a step line.

    `points`: rows of `tradeoff.configurations` of one hardware with both values known, at least one. The step after
    each front point shows the best accuracy that its latency budget buys.
    """
    rows, tooltips = _points_with_tooltips(points)
    front = points.loc[points["on_front"], ["p50_ms", "test_score"]].sort_values("p50_ms").to_dict("records")
    latencies, scores = [float(row["p50_ms"]) for row in rows], [float(row["test_score"]) for row in rows]
    front.append({"p50_ms": max(latencies), "test_score": front[-1]["test_score"]})
    margin = max(1.0, 0.15 * (max(scores) - min(scores)))

    x = alt.X(
        "p50_ms:Q", title="p50 latency (ms, log scale)", axis=alt.Axis(labelOverlap="greedy", labelSeparation=6)
    ).scale(type="log", domain=[min(latencies) / 1.25, max(latencies) * 1.5], nice=False)
    y = alt.Y("test_score:Q", title="mean test score (%)").scale(
        domain=[max(0.0, min(scores) - margin), min(100.0, max(scores) + margin)], nice=False
    )
    variants = list(dict.fromkeys(str(row["variant"]) for row in rows))
    line = (
        alt.Chart(alt.InlineData(front))
        .mark_line(interpolate="step-after", color=GREY, strokeDash=[5, 3], strokeWidth=1.5)
        .encode(x=x, y=y)
    )
    marks = (
        alt.Chart(alt.InlineData(rows))
        .mark_point(size=110, filled=True, opacity=1)
        .encode(
            x=x,
            y=y,
            color=alt.Color(
                "variant:N", title="variant", scale=_cycled(PALETTE, variants), legend=alt.Legend(orient="top")
            ),
            shape=alt.Shape("variant:N", title="variant", scale=_cycled(SHAPES, variants)),
            tooltip=tooltips,
        )
    )
    labels = (
        alt.Chart(alt.InlineData(rows))
        .mark_text(align="left", dx=7, dy=-9, fontSize=11)
        .encode(x=x, y=y, text="size:N")
    )
    return alt.layer(line, marks, labels).properties(width="container", height=340)


def gains_heatmap(cells: pd.DataFrame, *, bound: float) -> alt.LayerChart:
    """Target by intermediate for the cells of one size (rows of `gains.gains`): gain in points, in colour and in text.

    `bound` is the largest absolute gain to show, shared by the sizes so that one colour means one gain. Cells without a
    value are grey and carry their reason.
    """
    rows = [_gain_cell(row, bound=bound) for row in cells.to_dict("records")]
    base = alt.Chart(alt.InlineData(rows)).encode(
        x=alt.X("intermediate:N", title=None, sort=list(dict.fromkeys(cells["intermediate"]))).axis(
            orient="top", labelAngle=0, labelLimit=110, domain=False
        ),
        y=alt.Y("task:N", title=None, sort=list(dict.fromkeys(cells["task"]))).axis(
            labelLimit=120, labelPadding=6, domain=False, ticks=False
        ),
        tooltip=_tooltips(
            {
                "intermediate": "intermediate",
                "task": "target",
                "label": "gain (points)",
                "sd_text": "sd over seeds",
                "score_text": "score (%)",
                "none_text": "score with none (%)",
                "chance_text": "chance (%)",
                "n": "seeds",
                "mark": "mark",
            }
        ),
    )
    scale = alt.Scale(scheme="blueorange", reverse=True, domain=[-bound, bound], domainMid=0)
    # layers apart, because Vega-Lite drops a rectangle whose colour value is null
    dark, light, absent = (base.transform_filter(f"datum.ground == '{name}'") for name in ("dark", "light", "absent"))
    fill = base.transform_filter("datum.ground != 'absent'").mark_rect(stroke=GREY, strokeWidth=0.4)
    return alt.layer(
        fill.encode(color=alt.Color("gain:Q", scale=scale, legend=None)),
        absent.mark_rect(stroke=GREY, strokeWidth=0.4, color=GREY, opacity=0.2),
        dark.mark_text(fontSize=12, color="white").encode(text="label:N"),
        light.mark_text(fontSize=12, color="#1a1a1a").encode(text="label:N"),
        absent.mark_text(fontSize=10, fontStyle="italic").encode(text="label:N"),
    ).properties(width="container", height=ROW_PX * max(1, cells["task"].nunique()))


def language_chart(scores: pd.DataFrame, *, sizes: Sequence[str]) -> alt.LayerChart:
    """Score (percent) in each language for one task, a mark a size, guessing as a dashed rule.

    `scores`: rows of `StudyFrames.scores` (one trial a size, one task, languages only). Languages are ordered by their
    mean score, the best first.
    """
    order = list(scores.groupby("language")["value"].mean().sort_values(ascending=False, kind="stable").index)
    rows = scores[["size", "trial_id", "language", "value"]].to_dict("records")
    marks = (
        alt.Chart(alt.InlineData(rows))
        .mark_point(size=45, filled=True, opacity=0.9)
        .encode(
            x=alt.X("value:Q", title="score (%)").scale(domain=[0, 100]),
            y=alt.Y("language:N", title=None, sort=order).axis(
                grid=True, domain=False, ticks=False, labelOverlap=False
            ),
            color=alt.Color("size:N", title="size", scale=_cycled(PALETTE, sizes), legend=alt.Legend(orient="top")),
            shape=alt.Shape("size:N", title="size", scale=_cycled(SHAPES, sizes)),
            tooltip=[
                alt.Tooltip("language:N"),
                alt.Tooltip("size:N"),
                alt.Tooltip("trial_id:N", title="trial"),
                alt.Tooltip("value:Q", title="score (%)", format=".1f"),
            ],
        )
    )
    height = LANGUAGE_ROW_PX * max(2, len(order))
    chance = scores["chance"].max()
    if pd.isna(chance):
        return alt.layer(marks).properties(width="container", height=height)
    rule = (
        alt.Chart(alt.InlineData([{"chance": float(chance)}]))
        .mark_rule(strokeDash=[4, 3], color=GREY)
        .encode(x="chance:Q", tooltip=[alt.Tooltip("chance:Q", title="chance (%)", format=".1f")])
    )
    return alt.layer(rule, marks).properties(width="container", height=height)


def _points_with_tooltips(points: pd.DataFrame) -> tuple[list[dict[str, Any]], list[alt.Tooltip]]:
    tasks = list(dict.fromkeys(task for scores in points["task_scores"] for task in scores))
    titles = {"size": "size", "variant": "variant", "intermediate": "intermediate", "trial_id": "trial"}
    titles |= {
        f"{name}_text": METRIC_NAMES[name] for name in ("test_score", *BENCH_METRICS, "params_m", "params_body_m")
    }
    # numbered fields, because a task name may hold characters that Vega reads as a path
    titles |= {f"task_{number}": f"{task} (%)" for number, task in enumerate(tasks)}
    titles |= {"front": "Pareto front", "interference": "interference"}
    rows: list[dict[str, Any]] = []
    for record in points.to_dict("records"):
        row: dict[str, Any] = {
            name: record[name]
            for name in ("size", "variant", "intermediate", "trial_id", "p50_ms", "test_score", "interference")
        }
        row |= {
            f"{name}_text": quantity(record[name], METRIC_DIGITS[name])
            for name in ("test_score", *BENCH_METRICS, "params_m", "params_body_m")
        }
        row |= {f"task_{n}": quantity(record["task_scores"].get(task, math.nan)) for n, task in enumerate(tasks)}
        rows.append(row | {"front": "yes" if record["on_front"] else "no"})
    return rows, _tooltips(titles)


def _gain_cell(row: dict[Hashable, Any], *, bound: float) -> dict[str, Any]:
    known = not pd.isna(row["gain"])
    ground = "absent" if not known else "dark" if abs(row["gain"]) > 0.7 * bound else "light"
    return {
        "intermediate": row["intermediate"],
        "task": row["task"],
        "gain": float(row["gain"]) if known else None,
        "label": f"{row['gain']:+.1f}{MARK_SIGNS[row['mark']]}" if known else row["reason"],
        "ground": ground,
        "sd_text": quantity(row["sd"], 2) if row["n"] > 1 else "unavailable: under two seeds",
        "score_text": quantity(row["score"]),
        "none_text": quantity(row["score_none"]),
        "chance_text": quantity(row["chance"]),
        "n": int(row["n"]),
        "mark": row["mark"] or "none",
    }


def _tooltips(titles: dict[str, str]) -> list[alt.Tooltip]:
    return [alt.Tooltip(field=name, type="nominal", title=title) for name, title in titles.items()]


def _cycled(values: Sequence[str], names: Sequence[str]) -> alt.Scale:
    return alt.Scale(domain=list(names), range=[values[number % len(values)] for number in range(len(names))])
