"""Accuracy against cost, and what a budget buys."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from analysis.charts.common import METRIC_DIGITS, METRIC_NAMES, interval, quantity, score_name, signed
from analysis.charts.tradeoff import tradeoff_chart
from analysis.report.answer import trained_on
from analysis.report.findings import Findings
from analysis.report.page import Absent, Number, Page, folded, grid, number, paragraph, section
from analysis.store.frames import BENCH_METRICS, SAID
from analysis.tables.budget import Choice
from analysis.tables.tradeoff import COSTS, alike, invalid_scenario

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
        "Pareto front: the best accuracy measured within each budget. Bars are 95 % intervals, of the score those of its mean "
        "over seeds, around that mean; where there are none, one seed or one measurement is all there is. "
        f"{_what_was_timed(served)}",
        kind="note",
    )
    if served["score"].isna().all():
        return section(TITLE, paragraph("No benchmark has both a cost and a score: no trade-off to show."))
    figures = [figure for cost in COSTS if cost != HERO for figure in _charts(findings, page, cost, height=260)]
    unmeasured = [METRIC_NAMES[cost] for cost in COSTS if not (served[cost].gt(0) & served["score"].notna()).any()]
    parts = [explained, grid(*figures)]
    if unmeasured:
        parts.append(paragraph(f"Not measured, so not drawn: {', '.join(unmeasured)}.", kind="note"))
    volumes = findings.hypervolumes
    if len(volumes):
        rows = [
            [
                METRIC_NAMES[row["cost"]] + _within(row["server_bound_ms"]),
                Number(f"{row['hypervolume']:.1f}"),
                Number(f"{row['mean_best_score']:.1f}"),
                " to ".join(quantity(row[end], METRIC_DIGITS[row["cost"]]) for end in ("from_cost", "to_cost")),
                Number(f"{row['on_front']} of {row['configurations']}"),
                row["hardware"],
            ]
            for row in volumes.to_dict("records")
        ]
        columns = ["cost", "hypervolume", "mean best score (%)", "range of budgets", "on the front", "hardware"]
        caption = "Hypervolume (points x doublings of the budget) and the score a budget of the range buys on average; "
        caption += "ranges end one doubling beyond the dearest configuration, so that it counts too"
        parts.append(page.table("hypervolumes", columns, rows, caption=caption, data=volumes))
    return section(TITLE, *parts)


def _what_was_timed(served: pd.DataFrame) -> str:
    named = [str(task) for task in dict.fromkeys(served["timed_task"]) if task]
    if not named:
        return "Which target's queries were timed is not recorded; the score is the mean over all targets."
    return f"Costs are of {' or '.join(named)}'s queries alone, while the score is the mean over all targets."


def _within(bound_ms: float) -> str:
    return "" if pd.isna(bound_ms) else f", bound {bound_ms:g} ms"


def _charts(findings: Findings, page: Page, cost: str, *, height: int) -> list[str]:
    served = findings.served
    points = served[served[cost].gt(0) & served["score"].notna()]
    if points.empty:
        return []
    figures = []
    groups = alike(points, cost)
    for place, group in enumerate(groups):
        label = "; ".join(
            f"{row['size']} {row['variant']}: {row['score']:.1f} % at {quantity(row[cost], METRIC_DIGITS[cost])}"
            for row in group.to_dict("records")
        )
        name = f"tradeoff_{cost}" + (f"_{place + 1}" if len(groups) > 1 else "")
        hardware = str(group["hardware"].iloc[0]) or "hardware not recorded"
        timed = " or ".join(str(task) for task in dict.fromkeys(group["timed_task"]) if task)
        bound = _within(group["server_bound_ms"].iloc[0]) if cost == "server_qps" else ""
        judged = SAID[str(group["judged_by"].iloc[0])]
        caption = f"Test score, mean over targets ({judged}), against {METRIC_NAMES[cost]}{bound}"
        caption += f" of {timed}'s queries, {hardware}" if timed else f", {hardware}"
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
    if choice.best is None and choice.undecided:
        lacking = "; ".join(f"{what} is not measured for {', '.join(of)}" for what, of in choice.undecided.items())
        return f"Whether a configuration meets the budget of {limits} cannot be said: {lacking}. No other does."
    if choice.best is None:
        return f"No configuration with a score meets the budget of {limits}."
    best = choice.best
    return (
        f"Within {limits} take {_named(best)}: {score_name(best['judged_by'])} {best['seed_mean']:.1f} % "
        f"({SAID[best['judged_by']]}{_of_seeds(best)}){_load(choice, best)}."
    )


def _of_seeds(row: dict[str, Any]) -> str:
    if row["seeds"] > 1:
        return f"; mean of {row['seeds']} seeds, the one served has {row['score']:.1f} %"
    return "; one seed"


def _load(choice: Choice, row: dict[str, Any]) -> str:
    """At which load a limit on the latency under load was kept."""
    limits = [limit.value for limit in choice.limits if limit.name == "server_p99_ms"]
    if not limits:
        return ""
    kept, bound = f", {row['server_p99_ms']:.1f} ms p99 at {row['server_qps']:,.1f} queries/s", row["server_bound_ms"]
    if bound < min(limits):
        return f"{kept}, the highest load within {bound:g} ms (a higher one within the budget was not sought)"
    return f"{kept}, the highest load{f' within {bound:g} ms' if pd.notna(bound) else ' measured'}"


def _budget(choice: Choice) -> list[str]:
    parts = [paragraph(budget_sentence(choice))]
    if choice.runner_up is not None and choice.difference is not None:
        difference = choice.difference
        runner_up = choice.runner_up
        second = f"The runner-up is {_named(runner_up)} at {runner_up['seed_mean']:.1f} %{_load(choice, runner_up)}"
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
        parts.append(
            paragraph(
                f"Left out because it cannot be said whether they fit, what it takes being missing or INVALID: {unknown}.",
                kind="note",
            )
        )
    return parts


def _named(row: dict[str, Any]) -> str:
    return f"size {row['size']} served as {row['variant']}, {trained_on(row['intermediate'])}"


def benchmarks_section(findings: Findings, page: Page) -> str:
    """Every measurement."""
    served = findings.served
    if served.empty:
        return section("Benchmarks", paragraph("No benchmark is recorded."))
    found = findings.frames.benchmarks  # row by row; here with what is INVALID, said so
    tasks = list(dict.fromkeys(task for scores in served["task_scores"] for task in scores))
    measured = [name for name in BENCH_METRICS if found[name].notna().any() or name in COSTS]
    on_gpu = served["driver"].ne("").any()
    metrics = ["test_score", "test_score_without_english", *measured, "params_m", "params_body_m"]
    rows = [
        [
            f"{row['size']} · {row['variant']}",
            row["intermediate"] or "not recorded",
            "yes" if row["on_front"] else "no",
            *(_measured(as_found, name) for name in metrics),
            *(number(row["task_scores"].get(task), absent="not scored") for task in tasks),
            row["trial_id"],
            row["hardware"] or "not recorded",
            row["timed_task"] or "not recorded",
            row["interference"] or "not recorded",
            *([_gpu(row)] if on_gpu else []),
            ", ".join(f"{name} {result}" for name, result in row["results"].items()) or "not recorded",
        ]
        for row, as_found in zip(served.to_dict("records"), found.to_dict("records"), strict=True)
    ]
    columns = ["size · variant", "intermediate", "on the front", *(METRIC_NAMES[name] for name in metrics)]
    columns += [*(f"{task} (%)" for task in tasks), "trial", "hardware", "queries of", "interference"]
    columns += [*(["GPU"] if on_gpu else []), "scenarios"]
    objects = [name for name in served if served[name].dtype == "object"]
    data = served.drop(columns=objects).dropna(axis="columns", how="all")
    data = data.assign(**{f"test_{task}": [scores.get(task) for scores in served["task_scores"]] for task in tasks})
    caption = "What was served, how fast, and how accurate it then was"
    return section(
        "Benchmarks", folded("All measurements", page.table("benchmarks", columns, rows, caption=caption, data=data))
    )


def _gpu(row: dict[Any, Any]) -> str:
    """The state of the GPU that was measured on; "" for a CPU."""
    state = f"driver {row['driver']}; slowed by {row['slowed_by']}; MIG {row['mig']}"
    return state if row["driver"] else "none"


def _measured(row: dict[Any, Any], name: str) -> str:
    if row["reason"]:
        return Absent(row["reason"])
    text = number(row[name], METRIC_DIGITS[name], absent=row["unavailable"].get(name, NO_REASON))
    if isinstance(text, Absent):
        return text
    low, high = row.get(f"{name}_low"), row.get(f"{name}_high")
    span = (
        "" if pd.isna(low) or pd.isna(high) else f" [{low:,.{METRIC_DIGITS[name]}f}, {high:,.{METRIC_DIGITS[name]}f}]"
    )
    invalid = " INVALID" if invalid_scenario(row, name) else ""
    return Number(f"{text}{span}{invalid}")
