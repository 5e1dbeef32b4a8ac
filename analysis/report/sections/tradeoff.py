"""Accuracy against cost: charts and hypervolumes."""

from __future__ import annotations

import pandas as pd

from analysis.charts.tradeoff import tradeoff_chart
from analysis.report.findings import Findings
from analysis.report.leads import serving_lead
from analysis.report.page import Number, Page, grid, paragraph, section
from analysis.report.sections.cascades import cascade_figures
from analysis.store.frames import AGGREGATE_NAMES, NONE
from analysis.store.names import METRIC_DIGITS, METRIC_NAMES
from analysis.tables.formatting import quantity
from analysis.tables.tradeoff import COSTS, comparable_groups, configuration_name

HERO = "p50_ms"
TITLE = "Serving variants"
HOLLOW = (
    "filled: with the intermediate task that English dev chose; hollow: without one, at the same speed (measured once: same "
    "model shape); arrow: from without to with"
)


def hero(findings: Findings, page: Page) -> str:
    """The opening chart of the report: test score against p50 latency."""
    figures = _charts(findings, page, HERO, height=380, opening=True)
    return "".join([*figures, *_not_drawn(findings, HERO)])


def tradeoff_section(findings: Findings, page: Page) -> str:
    """The other costs, and hypervolumes."""
    served = findings.served
    if served["score"].isna().all():
        return section(TITLE, paragraph("No benchmark has both a cost and a score, so there is no trade-off to show."))
    costs = [cost for cost in COSTS if cost != HERO]
    figures = [figure for cost in costs for figure in _charts(findings, page, cost, height=260)]
    notes = [note for cost in costs for note in _not_drawn(findings, cost)]
    unmeasured = [METRIC_NAMES[cost] for cost in COSTS if _points(served, cost).empty]
    if unmeasured:
        notes.append(paragraph(f"Not measured, so not drawn: {', '.join(unmeasured)}.", kind="note"))
    return section(
        TITLE,
        grid(*figures),
        *notes,
        paragraph(_explained(served), kind="note"),
        *_hypervolumes(findings, page),
        *cascade_figures(findings, page),
        lead=serving_lead(findings),
    )


def _explained(served: pd.DataFrame) -> str:
    timed = [str(task) for task in dict.fromkeys(served["timed_task"]) if task]
    if timed:
        queries = f"Costs are for queries of {' or '.join(timed)} only, while the score is the mean over all targets."
    else:
        queries = "It is not recorded which target's queries were timed; the score is the mean over all targets."
    return (
        "Each point is one size in one serving variant, scored as served. The dashed line is the Pareto front: the best "
        "accuracy measured within each budget. Bars are 95% intervals; that of the score is for its mean over seeds and "
        f"centred on that mean. Without a bar there was one seed or one measurement. {queries}{_compared(served)}"
    )


def _compared(served: pd.DataFrame) -> str:
    """What the hollow points are, and which sizes have none; "" where there is no hollow point at all."""
    sizes = [str(size) for size in dict.fromkeys(served.loc[served["baseline"], "size"])]
    if not sizes:
        return ""
    trained = served.loc[
        ~served["baseline"] & served["score"].notna() & ~served["intermediate"].isin(["", NONE]), "size"
    ]
    without = [str(size) for size in dict.fromkeys(trained) if size not in sizes]
    missing = f" None was scored as served for {', '.join(without)}." if without else ""
    return (
        " A hollow point is the size's best trial without an intermediate task, also chosen on dev and served as the same "
        "variant; the arrow is what the intermediate task changed. It has no bars. Both models have the same shape, so "
        f"only one was timed.{missing}"
    )


def _points(served: pd.DataFrame, cost: str) -> pd.DataFrame:
    """The rows with both the cost and a score."""
    return served[served[cost].gt(0) & served["score"].notna()]


def _charts(findings: Findings, page: Page, cost: str, *, height: int, opening: bool = False) -> list[str]:
    """One chart per group of comparable configurations."""
    figures = []
    groups = comparable_groups(_points(findings.served, cost), cost)
    for number, group in enumerate(groups, 1):
        label = "; ".join(
            f"{configuration_name(row)}: {row['score']:.1f}% at {quantity(row[cost], METRIC_DIGITS[cost])}"
            for row in group.to_dict("records")
        )
        name = f"tradeoff_{cost}" + (f"_{number}" if len(groups) > 1 else "")
        chart = tradeoff_chart(group, cost=cost, height=height)
        caption = _caption(group, cost) + ("; ring and upright line: the budget" if opening else "")
        figures.append(page.chart(name, chart, caption=caption, label=label, caption_below=opening))
    return figures


def _caption(group: pd.DataFrame, cost: str) -> str:
    hardware = str(group["hardware"].iloc[0]) or "hardware not recorded"
    timed = " or ".join(str(task) for task in dict.fromkeys(group["timed_task"]) if task)
    bound = _bound(group["server_bound_ms"].iloc[0]) if cost == "server_qps" else ""
    languages = AGGREGATE_NAMES[str(group["judged_by"].iloc[0])]
    against = f"{METRIC_NAMES[cost]}{bound}" + (f", queries of {timed}" if timed else "")
    hollow = f"; {HOLLOW}" if group["baseline"].any() else ""
    marks = f"{hollow}{_bars(group)}; dashed: Pareto front"
    return f"Mean test score over targets ({languages}) against {against}; {hardware}{marks}"


def _bars(group: pd.DataFrame) -> str:
    """What the intervals cover; "" where no point has one."""
    known = group[group["score_low"].notna()]
    covers = [str(name) for name in dict.fromkeys(known["interval_covers"]) if name]
    return f"; bars: 95% intervals over {' or '.join(covers)}" if covers else ""


def _not_drawn(findings: Findings, cost: str) -> list[str]:
    served = findings.served[~findings.served["baseline"]]
    drawn = len(_points(served, cost))
    if not drawn or drawn == len(served):
        return []
    text = (
        f"{len(served) - drawn} of {len(served)} benchmarks are not drawn: no score, or no valid {METRIC_NAMES[cost]}."
    )
    return [paragraph(text, kind="note")]


def _bound(bound_ms: float) -> str:
    return "" if pd.isna(bound_ms) else f", bound {bound_ms:g} ms"


def _hypervolumes(findings: Findings, page: Page) -> list[str]:
    volumes = findings.hypervolumes
    if volumes.empty:
        return []
    several = volumes["hardware"].nunique() > 1
    rows = [
        [
            METRIC_NAMES[row["cost"]] + _bound(row["server_bound_ms"]),
            Number(f"{row['hypervolume']:.1f}"),
            Number(f"{row['mean_best_score']:.1f}"),
            " to ".join(quantity(row[end], METRIC_DIGITS[row["cost"]]) for end in ("from_cost", "to_cost")),
            Number(f"{row['on_front']} of {row['configurations']}"),
            *([row["hardware"]] if several else []),
        ]
        for row in volumes.to_dict("records")
    ]
    columns = ["cost", "hypervolume", "mean best score (%)", "range of budgets", "on the front"]
    caption = "Hypervolume (points × doublings of the budget), and the mean score that a budget in the range buys. Ranges end "
    caption += "one doubling beyond the most expensive configuration, so that it counts too"
    columns += ["hardware"] if several else []
    return [page.table("hypervolumes", columns, rows, caption=caption, data=volumes)]
