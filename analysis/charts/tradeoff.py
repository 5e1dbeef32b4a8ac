"""Accuracy against one cost."""

from __future__ import annotations

import math
from typing import Any

import altair as alt
import pandas as pd

from analysis.charts.common import (
    GREY,
    LIMIT,
    ON_HARDWARE,
    PALETTE,
    PICKED,
    SHAPES,
    cycled,
    data,
    legend,
    padded,
    selector,
    tooltips,
)
from analysis.store.frames import BENCH_METRICS, cascade_in
from analysis.store.names import METRIC_DIGITS, METRIC_NAMES, score_name
from analysis.tables.formatting import counted, quantity
from analysis.tables.tradeoff import MORE_IS_BETTER, configuration_key, configuration_name

ARROW_DX_PX = -11  # beside the interval bars, which are at the cost itself
SHORTEST_ARROW_PX = 14  # closer together, the two points touch
LABEL_SHARES = 0.2, 0.12  # of a chart's range of costs and scores that the name of a size covers
LETTER_PX = 8.5  # of the name of a size, which must end inside the chart
PICK_COLOUR = "#e0218a"  # of no variant
_SHOWN = ("test_score", "test_score_without_english", *BENCH_METRICS, "params_m", "params_body_m")


def tradeoff_chart(points: pd.DataFrame, *, cost: str, height: int = 340) -> alt.LayerChart:
    """Score (percent) against a cost (log scale), one point per size and serving variant, the Pareto front as a step line.

    `points`: at least one row of `tradeoff.configurations`, all of one comparable group and with both values known. Bars: 95%
    intervals where known, of the cost and of the score's mean over seeds. The step after each front point shows the best
    accuracy within that budget. A baseline is a hollow point without bars; an arrow beside it leads to the point at its cost. A
    thin line joins the variants of a size, which is named at the most expensive one. The page rings the configuration that its
    budget picks, and draws the limit.
    """
    rows = _rows(points, cost)
    chosen, baselines = ([row for row in rows if row["baseline"] is whether] for whether in (False, True))
    scores = [row["score"] for row in rows]
    scores += [value for row in chosen for value in (row["score_low"], row["score_high"])]
    bounds = [value for row in rows for value in (row["cost"], row["cost_low"], row["cost_high"]) if not pd.isna(value)]
    x = alt.X(
        "cost:Q",
        title=f"{METRIC_NAMES[cost]}, log scale",
        axis=alt.Axis(labelOverlap="greedy", labelSeparation=6, format="~g"),
    ).scale(type="log", domain=[min(bounds) / 1.25, max(bounds) * 1.5], nice=False)
    domain = padded(scores, floor=0.0, ceiling=100.0)
    score_title = f"{score_name(str(points['judged_by'].iloc[0]))} (%)"
    y = alt.Y("score:Q", title=score_title).scale(domain=domain, nice=False)
    variants = list(dict.fromkeys(str(row["variant"]) for row in rows))
    title = "serving variant"
    line = (
        alt.Chart(data(_front_steps(points, cost)))
        .mark_line(
            interpolate="step-after" if cost not in MORE_IS_BETTER else "step-before",
            color=GREY,
            strokeDash=[5, 3],
            strokeWidth=1.5,
        )
        .encode(x=x, y=y)
    )
    color = alt.Color("variant:N", title=title, scale=cycled(PALETTE, variants), legend=legend(variants))
    shape = alt.Shape("variant:N", title=title, scale=cycled(SHAPES, variants))
    base = alt.Chart(data(chosen)).encode(color=color)
    bars = _interval_bars(base, chosen, x=x, y=y)
    arrows = _arrows(
        _steps_from_baselines(chosen, baselines), color, x=x, points_per_px=(domain[1] - domain[0]) / height
    )
    hollow = [
        alt.Chart(data(baselines))
        .mark_point(size=90, filled=False, strokeWidth=2, opacity=1)
        .encode(x=x, y=y, color=color, shape=shape, tooltip=_tooltips(points))
    ]
    marks = base.mark_point(size=110, filled=True, opacity=1).encode(x=x, y=y, shape=shape, tooltip=_tooltips(points))
    layers = [
        line,
        _limit(cost, x, hardware=str(points["hardware"].iloc[0])),
        _joined(chosen, x=x, y=y),
        *bars,
        *arrows,
        *(hollow if baselines else []),
        marks,
        _size_names(chosen, cost, x=x, y=y),
        _ring(rows, x=x, y=y),
    ]
    budget = (selector(PICKED, ""), selector(ON_HARDWARE, ""), selector(LIMIT + cost, 0))
    chart = alt.layer(*layers).add_params(*budget)
    return chart.properties(width="container", height=height)


def _joined(rows: list[dict[str, Any]], *, x: alt.X, y: alt.Y) -> alt.Chart:
    """A thin line through the variants of each size."""
    return alt.Chart(data(rows)).mark_line(color=GREY, strokeWidth=1, opacity=0.6).encode(x=x, y=y, detail="size:N")


def _size_names(rows: list[dict[str, Any]], cost: str, *, x: alt.X, y: alt.Y) -> alt.Chart:
    """The name of each size, at its most expensive point: above it, or below where it would cover another name."""
    dearest: dict[str, dict[str, Any]] = {}
    for row in sorted(rows, key=lambda row: float(row["cost"]), reverse=cost in MORE_IS_BETTER):
        dearest[str(row["size"])] = {name: row[name] for name in ("size", "cost", "score")}
    labels = _below_where_close(list(dearest.values()), rows)
    names = alt.Chart(data(labels))
    near_the_edge = f"scale('x', datum.cost) + 9 + {LETTER_PX} * length(datum.size) > width"
    align, dx = ({"expr": f"{near_the_edge} ? {right} : {left}"} for right, left in (("'right'", "'left'"), (-9, 9)))
    dy = {"expr": "datum.below ? 18 : -10"}
    return names.mark_text(align=align, dx=dx, dy=dy, fontSize=13, fontWeight="bold").encode(x=x, y=y, text="size:N")


def _below_where_close(labels: list[dict[str, Any]], rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The labels with `below`: whether one above its point would cover an earlier one that is above its own."""
    costs, scores = [math.log(row["cost"]) for row in rows], [row["score"] for row in rows]
    across, up = (LABEL_SHARES[axis] * (max(ends) - min(ends)) for axis, ends in enumerate((costs, scores)))
    above: list[dict[str, Any]] = []
    placed = []
    for label in labels:
        below = any(
            abs(math.log(label["cost"] / other["cost"])) < across and abs(label["score"] - other["score"]) < up
            for other in above
        )
        placed.append(label | {"below": below})
        above += [] if below else [label]
    return placed


def _ring(rows: list[dict[str, Any]], *, x: alt.X, y: alt.Y) -> alt.Chart:
    """A ring around the configuration that the page's budget picks."""
    places = [{name: row[name] for name in ("key", "cost", "score")} for row in rows]
    picked = alt.Chart(data(places)).transform_filter(f"datum.key == {PICKED}")
    return picked.mark_point(size=420, filled=False, strokeWidth=2.5, opacity=1, color=PICK_COLOUR).encode(x=x, y=y)


def _limit(cost: str, x: alt.X, *, hardware: str) -> alt.Chart:
    """A line at the limit of the page's budget, where that is for the chart's hardware."""
    line = alt.Chart(data([{"hardware": hardware}])).transform_calculate(cost=LIMIT + cost)
    line = line.transform_filter(f"datum.cost > 0 && datum.hardware == {ON_HARDWARE}")
    return line.mark_rule(color=PICK_COLOUR, strokeWidth=1.5, opacity=0.7).encode(x=x)


def _steps_from_baselines(chosen: list[dict[str, Any]], baselines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """From each baseline's score to that of the configuration at the same cost."""
    scores = {(row["size"], row["variant"], row["trial_id"]): row["score"] for row in chosen}
    keys = [(row["size"], row["variant"], row["timed_trial"]) for row in baselines]
    return [
        {"variant": row["variant"], "cost": row["cost"], "from": row["score"], "to": scores[key]}
        for row, key in zip(baselines, keys, strict=True)
        if key in scores
    ]


def _arrows(steps: list[dict[str, Any]], color: alt.Color, *, x: alt.X, points_per_px: float) -> list[alt.Chart]:
    """An arrow per step, left out where the two points are too close to each other for one."""
    least = SHORTEST_ARROW_PX * points_per_px
    rising, falling = ([step for step in steps if sign * (step["to"] - step["from"]) > least] for sign in (1, -1))
    arrows = []
    for shown, head, inwards_px in ((rising, "triangle-up", 4), (falling, "triangle-down", -4)):
        if shown:
            line = alt.Chart(data(shown)).mark_rule(strokeWidth=1.5, xOffset=ARROW_DX_PX, x2Offset=ARROW_DX_PX)
            arrows.append(line.encode(x=x, y=alt.Y("from:Q"), y2="to:Q", color=color))
            mark = {
                "shape": head,
                "size": 45,
                "filled": True,
                "opacity": 1,
                "xOffset": ARROW_DX_PX,
                "yOffset": inwards_px,
            }
            arrows.append(alt.Chart(data(shown)).mark_point(**mark).encode(x=x, y=alt.Y("to:Q"), color=color))
    return arrows


def _interval_bars(base: alt.Chart, rows: list[dict[str, Any]], *, x: alt.X, y: alt.Y) -> list[alt.Chart]:
    """Bars of the score's and the cost's intervals; Vega warns about an empty layer, so one without intervals is left out."""
    bars = []
    if any(not pd.isna(row["score_low"]) for row in rows):
        rule = base.transform_filter("isValid(datum.score_low)").mark_rule(strokeWidth=1.5)
        bars.append(rule.encode(x=x, y=alt.Y("score_low:Q"), y2="score_high:Q"))
    if any(not pd.isna(row["cost_low"]) for row in rows):
        rule = base.transform_filter("isValid(datum.cost_low)").mark_rule(strokeWidth=1.5)
        bars.append(rule.encode(x=alt.X("cost_low:Q"), x2="cost_high:Q", y=y))
    return bars


def _front_steps(points: pd.DataFrame, cost: str) -> list[dict[str, float]]:
    """The front's points by cost, continued to the most expensive configuration: a larger budget buys no more."""
    front = points.loc[points[f"on_front_{cost}"], [cost, "score"]].sort_values(cost)
    steps = [{"cost": float(row[cost]), "score": float(row["score"])} for row in front.to_dict("records")]
    if not steps:
        return []
    if cost in MORE_IS_BETTER:
        return [{"cost": float(points[cost].min()), "score": steps[0]["score"]}, *steps]
    return [*steps, {"cost": float(points[cost].max()), "score": steps[-1]["score"]}]


def _rows(points: pd.DataFrame, cost: str) -> list[dict[str, Any]]:
    tasks = _tasks(points)
    rows: list[dict[str, Any]] = []
    for record in points.to_dict("records"):
        row: dict[str, Any] = {
            name: record[name]
            for name in (
                *("size", "variant", "intermediate", "trial_id", "baseline", "timed_trial"),
                *("score", "interference", "interval_covers"),
            )
        }
        row["key"] = configuration_key(record)
        if cascade_in(record):  # a point of its own: no variant of a size, whose points a line joins
            row["size"] = configuration_name(record)
        row |= {"cost": record[cost], "cost_low": record[f"{cost}_low"], "cost_high": record[f"{cost}_high"]}
        row |= {name: record[name] for name in ("score_low", "score_high")}
        row |= {f"{name}_text": quantity(record[name], METRIC_DIGITS[name]) for name in _SHOWN}
        row["seed_mean_text"] = f"{quantity(record['seed_mean'])} over {counted(record['seeds'], 'seed')}"
        row |= {f"task_{n}": quantity(record["task_scores"].get(task, math.nan)) for n, task in enumerate(tasks)}
        rows.append(row | {"front": "yes" if record[f"on_front_{cost}"] else "no"})
    return rows


def _tooltips(points: pd.DataFrame) -> list[alt.Tooltip]:
    titles = {"size": "size", "variant": "serving variant", "intermediate": "intermediate task", "trial_id": "trial"}
    titles |= {"timed_trial": "costs measured with trial"} if points["baseline"].any() else {}
    titles |= {f"{name}_text": METRIC_NAMES[name] for name in _SHOWN if points[name].notna().any()}
    # Numbered fields, because a task name may contain characters that Vega reads as a path.
    titles |= {f"task_{number}": f"{task} (%)" for number, task in enumerate(_tasks(points))}
    titles |= {"seed_mean_text": "mean over seeds (%)"} if points["seeds"].gt(0).any() else {}
    titles |= {"front": "Pareto front", "interval_covers": "bars cover", "interference": "interference"}
    return tooltips(titles)


def _tasks(points: pd.DataFrame) -> list[str]:
    return list(dict.fromkeys(task for scores in points["task_scores"] for task in scores))
