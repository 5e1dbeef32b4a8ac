"""The budget of the first screen: a slider over limits, and what the best configuration within each is."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from analysis.report.findings import Findings
from analysis.report.page import escape, inline_json
from analysis.report.sections.budget import NO_HARDWARE, budget_sentence, named
from analysis.store.frames import unique
from analysis.store.names import METRIC_DIGITS, METRIC_NAMES
from analysis.tables.budget import Limit, Pick, compare_configurations
from analysis.tables.tradeoff import configuration_key

METRICS = ("p50_ms", "peak_memory_mb", "energy_j_per_sample")
Picks = dict[str, dict[str, list[Pick]]]  # by hardware and metric, the tightest limit first


def budget_panel(findings: Findings) -> str:
    """The controls, with the answer for the budget of the report or the loosest one; "" where no limit can be set.

    Every answer is computed here, by what `report --budget` uses (`Budgets.steps`); the page only looks one up. A budget is for
    one kind of hardware, chosen where there are several. Browsers must not restore the controls of an earlier visit: the
    sentence that the page comes with is that of its own.
    """
    picks = _picks(findings)
    if not picks:
        return ""
    hardware = next(iter(picks))
    metric, place = _initial(findings, picks[hardware])
    answers = {
        name: {metric: _steps(findings, steps) for metric, steps in by_metric.items()}
        for name, by_metric in picks.items()
    }
    shown = answers[hardware][metric][place]
    several = _select("hardware", "On", ((name, name or NO_HARDWARE) for name in picks), chosen=hardware)
    metrics = unique(name for by_metric in picks.values() for name in by_metric)
    return (
        '<div class="budget" role="group" aria-labelledby="budget_title"><h2 id="budget_title">Your budget</h2>'
        f"{several if len(picks) > 1 else ''}"
        f"{_select('metric', 'Limit on', ((name, METRIC_NAMES[name]) for name in metrics), chosen=metric)}"
        f'<label for="budget_limit">at most <output id="budget_shown" for="budget_limit">{escape(shown["shown"])}</output>'
        f'</label><input type="range" id="budget_limit" autocomplete="off" min="0" max="{len(answers[hardware][metric]) - 1}" '
        f'step="1" value="{place}"{" hidden" if len(answers[hardware][metric]) == 1 else ""}>'
        f'<p id="budget_pick" class="pick" aria-live="polite">{escape(shown["sentence"])}</p>'
        f'<p id="budget_cheaper" class="pick" aria-live="polite">{escape(shown["cheaper"])}</p></div>'
        f'<script type="application/json" id="budgets">{inline_json(answers)}</script>'
    )


def _picks(findings: Findings) -> Picks:
    """The limits that can be set on each hardware, and what they buy; the report's own budget is one of them."""
    by_hardware = {
        hardware: {
            metric: steps
            for metric in METRICS
            if (steps := findings.budgets.steps(metric, hardware=hardware, also=_own_limit(findings, metric)))
        }
        for hardware in findings.budgets.hardware
    }
    return {hardware: by_metric for hardware, by_metric in by_hardware.items() if by_metric}


def _own_limit(findings: Findings, metric: str) -> Limit | None:
    """The report's own budget, if it is one limit, on this metric."""
    limits = findings.picks[0].limits if findings.picks else ()
    return limits[0] if len(limits) == 1 and limits[0].name == metric else None


def _initial(findings: Findings, by_metric: dict[str, list[Pick]]) -> tuple[str, int]:
    """The metric and step of the report's own budget where it is one limit on one of these, else the loosest."""
    for metric, steps in by_metric.items():
        if (own := _own_limit(findings, metric)) is not None:
            return metric, [pick.limits for pick in steps].index((own,))
    metric = next(iter(by_metric))
    return metric, len(by_metric[metric]) - 1


def _select(name: str, label: str, options: Iterable[tuple[str, str]], *, chosen: str) -> str:
    """A selector with a label; options are value and text."""
    html_of = "".join(
        f'<option value="{escape(value)}"{" selected" if value == chosen else ""}>{escape(text)}</option>'
        for value, text in options
    )
    return f'<label for="budget_{name}">{label}</label><select id="budget_{name}" autocomplete="off">{html_of}</select>'


def _steps(findings: Findings, picks: list[Pick]) -> list[dict[str, Any]]:
    """What the page shows at each limit; the tightest comes first."""
    return [_step(pick, _cheaper(findings, pick, picks[:place])) for place, pick in enumerate(picks)]


def _cheaper(findings: Findings, pick: Pick, tighter: list[Pick]) -> str:
    """What the nearest tighter limit with another answer buys: it shows what the last points cost; "" if nothing."""
    for other in reversed(tighter):
        if pick.best and other.best and configuration_key(other.best) != configuration_key(pick.best):
            (limit,) = other.limits
            value, less = other.best[limit.name], compare_configurations(findings.frames, pick.best, other.best).value
            if not less > 0:  # NaN: they share no target
                return ""
            cost = _shown(Limit(limit.name, limit.sign, round(value, METRIC_DIGITS[limit.name])))
            return f"{less:.1f} points less at {cost}: {named(other.best)}."
    return ""


def _step(pick: Pick, cheaper: str) -> dict[str, Any]:
    (limit,) = pick.limits
    return {
        "limit": limit.value,
        "shown": _shown(limit),
        "picked": configuration_key(pick.best) if pick.best else "",
        "sentence": budget_sentence(pick),
        "cheaper": cheaper,
    }


def _shown(limit: Limit) -> str:
    """ "6.51 ms", from "p50 latency (ms)"."""
    unit = METRIC_NAMES[limit.name].rpartition("(")[2].rstrip(")")
    text = f"{limit.value:,.{METRIC_DIGITS[limit.name]}f}"
    exact = float(text.replace(",", "")) == limit.value
    return f"{text if exact else f'{limit.value:g}'} {unit}"
