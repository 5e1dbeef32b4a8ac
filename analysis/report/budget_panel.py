"""The budget of the first screen: a slider over limits, and what the best configuration within each is."""

from __future__ import annotations

from typing import Any

from analysis.report.findings import Findings
from analysis.report.page import escape, inline_json
from analysis.report.sections.budget import budget_sentence
from analysis.store.names import METRIC_DIGITS, METRIC_NAMES
from analysis.tables.budget import Limit, Pick
from analysis.tables.tradeoff import configuration_key

METRICS = ("p50_ms", "peak_memory_mb", "energy_j_per_sample")


def budget_panel(findings: Findings) -> str:
    """The controls, with the answer for the budget of the report or the loosest one; "" where no limit can be set.

    Every answer is computed here, by what `report --budget` uses (`Budgets.steps`); the page only looks one up.
    """
    picks = {metric: steps for metric in METRICS if (steps := findings.budgets.steps(metric))}
    if not picks:
        return ""
    metric, place = _initial(findings, picks)
    names = "".join(
        f'<option value="{name}"{" selected" if name == metric else ""}>{escape(METRIC_NAMES[name])}</option>'
        for name in picks
    )
    answers = {name: [_step(pick) for pick in steps] for name, steps in picks.items()}
    shown = answers[metric][place]
    return (
        '<div class="budget" role="group" aria-labelledby="budget_title"><h2 id="budget_title">Your budget</h2>'
        f'<label for="budget_metric">Limit on</label><select id="budget_metric">{names}</select>'
        f'<label for="budget_limit">at most <output id="budget_shown" for="budget_limit">{escape(shown["shown"])}</output>'
        f'</label><input type="range" id="budget_limit" min="0" max="{len(answers[metric]) - 1}" step="1" value="{place}">'
        f'<p id="budget_pick" class="pick" aria-live="polite">{escape(shown["sentence"])}</p></div>'
        f'<script type="application/json" id="budgets">{inline_json(answers)}</script>'
    )


def _initial(findings: Findings, picks: dict[str, list[Pick]]) -> tuple[str, int]:
    """The metric and step of the report's own budget where it is one limit on one of these, else the loosest."""
    limits = findings.pick.limits if findings.pick else ()
    if len(limits) == 1 and limits[0].name in picks:
        steps = picks[limits[0].name]
        within = [place for place, pick in enumerate(steps) if pick.limits[0].value <= limits[0].value]
        return limits[0].name, within[-1] if within else 0
    metric = next(iter(picks))
    return metric, len(picks[metric]) - 1


def _step(pick: Pick) -> dict[str, Any]:
    (limit,) = pick.limits
    return {
        "limit": limit.value,
        "shown": _shown(limit),
        "picked": configuration_key(pick.best) if pick.best else "",
        "sentence": budget_sentence(pick),
    }


def _shown(limit: Limit) -> str:
    """ "6.51 ms", from "p50 latency (ms)"."""
    unit = METRIC_NAMES[limit.name].rpartition("(")[2].rstrip(")")
    return f"{limit.value:,.{METRIC_DIGITS[limit.name]}f} {unit}"
