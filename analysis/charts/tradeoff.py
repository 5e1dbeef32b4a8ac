"""Accuracy against one cost."""

from __future__ import annotations

import math
from typing import Any

import altair as alt
import pandas as pd

from analysis.charts.common import GREY, PALETTE, SHAPES, cycled, data, legend, padded, tooltips
from analysis.store.frames import BENCH_METRICS
from analysis.store.names import METRIC_DIGITS, METRIC_NAMES, score_name
from analysis.tables.formatting import counted, quantity
from analysis.tables.tradeoff import MORE_IS_BETTER

ARROW_DX_PX = -11  # beside the interval bars, which are at the cost itself
SHORTEST_ARROW_PX = 14  # closer together, the two points touch
_SHOWN = ("test_score", "test_score_without_english", *BENCH_METRICS, "params_m", "params_body_m")


def tradeoff_chart(points: pd.DataFrame, *, cost: str, height: int = 340) -> alt.LayerChart:
    """Score (percent) against a cost (log scale), one point per size and serving variant, the Pareto front as a step line.

    `points`: at least one row of `tradeoff.configurations`, all of one comparable group and with both values known. Bars: 95%
    intervals where known, of the cost and of the score's mean over seeds. The step after each front point shows the best
    accuracy within that budget. A baseline is a hollow point without bars; an arrow beside it leads to the point at its cost.
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
    color = alt.Color("variant:N", title=title, scale=cycled(PALETTE, variants), legend=legend())
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
    labels = alt.Chart(data(chosen)).mark_text(align="left", dx=7, dy=-9, fontSize=11).encode(x=x, y=y, text="size:N")
    layers = [line, *bars, *arrows, *(hollow if baselines else []), marks, labels]
    return alt.layer(*layers).properties(width="container", height=height)


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
