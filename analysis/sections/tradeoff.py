"""Accuracy against cost, and what a budget buys."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from analysis.answer import trained_on
from analysis.budget import Choice
from analysis.charts.common import METRIC_DIGITS, METRIC_NAMES, interval, quantity, signed
from analysis.charts.tradeoff import tradeoff_chart
from analysis.findings import Findings
from analysis.frames import BENCH_METRICS
from analysis.page import Absent, Number, Page, folded, grid, number, paragraph, section
from analysis.tradeoff import COSTS, invalid_scenario

HERO = "p50_ms"
NO_REASON = "no reason recorded"
TITLE = "Accuracy against cost"


def hero(findings: Findings, page: Page) -> str:
    """The chart that opens the report: test score against p50 latency."""
    return "".join(_charts(findings, page, HERO, height=340))


def tradeoff_section(findings: Findings, page: Page) -> str:
    """The other costs, and hypervolumes."""
    served = findings.served
    explained = paragraph(
        "A point is one size served in one variant; accuracy is that of the artefact that was timed. The dashed line is the "
        "Pareto front: the best accuracy measured within each budget. Bars are 95 % intervals; where there are none, one seed "
        "or one measurement is all there is.",
        kind="note",
    )
    if served.empty:
        return section(TITLE, paragraph("No benchmark has both a cost and a score: no trade-off to show."))
    figures = [figure for cost in COSTS if cost != HERO for figure in _charts(findings, page, cost, height=260)]
    unmeasured = [METRIC_NAMES[cost] for cost in COSTS if not (served[cost].gt(0) & served["test_score"].notna()).any()]
    parts = [explained, grid(*figures)]
    if unmeasured:
        parts.append(paragraph(f"Not measured, so not drawn: {', '.join(unmeasured)}.", kind="note"))
    volumes = findings.hypervolumes
    if len(volumes):
        rows = [
            [
                METRIC_NAMES[row["cost"]],
                Number(f"{row['hypervolume']:.1f}"),
                Number(f"{row['mean_best_score']:.1f}"),
                " to ".join(quantity(row[end], METRIC_DIGITS[row["cost"]]) for end in ("from_cost", "to_cost")),
                Number(f"{row['on_front']} of {row['configurations']}"),
                row["hardware"],
            ]
            for row in volumes.to_dict("records")
        ]
        columns = ["cost", "hypervolume", "mean best score (%)", "range of budgets", "on the front", "hardware"]
        caption = "Hypervolume (points x doublings of the budget) and the score a budget of the range buys on average"
        parts.append(page.table("hypervolumes", columns, rows, caption=caption, data=volumes))
    return section(TITLE, *parts)


def _charts(findings: Findings, page: Page, cost: str, *, height: int) -> list[str]:
    served = findings.served
    points = served[served[cost].gt(0) & served["test_score"].notna()]
    if points.empty:
        return []
    figures = []
    groups = list(points.groupby("hardware", sort=False))
    for place, (hardware, group) in enumerate(groups):
        label = "; ".join(
            f"{row['size']} {row['variant']}: {row['test_score']:.1f} % at {quantity(row[cost], METRIC_DIGITS[cost])}"
            for row in group.to_dict("records")
        )
        name = f"tradeoff_{cost}" + (f"_{place + 1}" if len(groups) > 1 else "")
        caption = f"Test score against {METRIC_NAMES[cost]}, {str(hardware) or 'hardware not recorded'}"
        figures.append(page.chart(name, tradeoff_chart(group, cost=cost, height=height), caption=caption, label=label))
    left_out = len(served) - len(points)
    if left_out:
        figures.append(
            paragraph(
                f"{left_out} of {len(served)} benchmarks not drawn: {METRIC_NAMES[cost]} or score missing.", kind="note"
            )
        )
    return figures


def budget_section(findings: Findings, page: Page) -> str:
    """What the budget buys; "" if none was given."""
    choice = findings.choice
    if choice is None:
        return ""
    limits = ", ".join(f"{METRIC_NAMES[limit.name]} {limit.sign} {limit.value:g}" for limit in choice.limits)
    return section(f"Within the budget: {limits}", *_budget(choice))


def budget_sentence(choice: Choice) -> str:
    """The budget's answer as one sentence."""
    limits = " and ".join(f"{METRIC_NAMES[limit.name]} {limit.sign} {limit.value:g}" for limit in choice.limits)
    if choice.best is None:
        return f"No configuration with a score meets the budget of {limits}."
    return f"Within {limits} take {_named(choice.best)}: mean zero-shot test score {choice.best['test_score']:.1f} %."


def _budget(choice: Choice) -> list[str]:
    parts = [paragraph(budget_sentence(choice))]
    if choice.runner_up is not None and choice.difference is not None:
        difference = choice.difference
        second = f"The runner-up is {_named(choice.runner_up)} at {choice.runner_up['test_score']:.1f} %"
        if math.isnan(difference.probability):
            second += f"; how sure the lead of {difference.value:.1f} points is cannot be said ({difference.rests_on})."
        else:
            second += (
                f"; the first leads by {signed(difference.value)} points {interval(difference.low, difference.high)} and is "
                f"really better with probability {difference.probability:.2f}, judged over {difference.rests_on}."
            )
        parts.append(paragraph(second))
    elif choice.best is not None:
        parts.append(paragraph("Nothing else fits the budget."))
    if choice.unknown:
        unknown = "; ".join(dict.fromkeys(choice.unknown))
        parts.append(paragraph(f"Left out because the budget's metric is missing or INVALID: {unknown}.", kind="note"))
    return parts


def _named(row: dict[str, Any]) -> str:
    return f"size {row['size']} served as {row['variant']}, {trained_on(row['intermediate'])}"


def benchmarks_section(findings: Findings, page: Page) -> str:
    """Every measurement."""
    served = findings.served
    if served.empty:
        return section("Benchmarks", paragraph("No benchmark is recorded."))
    tasks = list(dict.fromkeys(task for scores in served["task_scores"] for task in scores))
    measured = [name for name in BENCH_METRICS if served[name].notna().any() or name in COSTS]
    metrics = ["test_score", *measured, "params_m", "params_body_m"]
    rows = [
        [
            f"{row['size']} · {row['variant']}",
            row["intermediate"] or "not recorded",
            "yes" if row["on_front"] else "no",
            *(_measured(row, name) for name in metrics),
            *(number(row["task_scores"].get(task), absent="not scored") for task in tasks),
            row["trial_id"],
            row["hardware"] or "not recorded",
            row["interference"] or "not recorded",
            ", ".join(f"{name} {result}" for name, result in row["results"].items()) or "not recorded",
        ]
        for row in served.to_dict("records")
    ]
    columns = ["size · variant", "intermediate", "on the front", *(METRIC_NAMES[name] for name in metrics)]
    columns += [*(f"{task} (%)" for task in tasks), "trial", "hardware", "interference", "scenarios"]
    data = served.drop(columns=["task_scores", "unavailable", "results"]).dropna(axis="columns", how="all")
    data = data.assign(**{f"test_{task}": [scores.get(task) for scores in served["task_scores"]] for task in tasks})
    caption = "What was served, how fast, and how accurate it then was"
    return section(
        "Benchmarks", folded("All measurements", page.table("benchmarks", columns, rows, caption=caption, data=data))
    )


def _measured(row: dict[Any, Any], name: str) -> str:
    text = number(row[name], METRIC_DIGITS[name], absent=row["unavailable"].get(name, NO_REASON))
    if isinstance(text, Absent):
        return text
    low, high = row.get(f"{name}_low"), row.get(f"{name}_high")
    span = (
        "" if pd.isna(low) or pd.isna(high) else f" [{low:,.{METRIC_DIGITS[name]}f}, {high:,.{METRIC_DIGITS[name]}f}]"
    )
    invalid = " INVALID" if invalid_scenario(row, name) else ""
    return Number(f"{text}{span}{invalid}")
