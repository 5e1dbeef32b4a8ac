"""The best configuration within a budget."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from analysis.report.answer import trained_on
from analysis.report.findings import Findings
from analysis.report.page import paragraph, section
from analysis.store.frames import AGGREGATE_NAMES
from analysis.store.names import METRIC_NAMES, score_name
from analysis.tables.budget import Limit, Pick
from analysis.tables.formatting import interval, signed

NO_HARDWARE = "hardware that is not recorded"
_SIGNS = {"<=": "at most", "<": "below", ">=": "at least", ">": "above"}


def budget_section(findings: Findings) -> str:
    """What the budget buys, apart by hardware; "" without a budget."""
    picks = findings.picks
    if not picks:
        return ""
    parts = [part for pick in picks for part in _paragraphs(pick, say_hardware=len(picks) > 1)]
    return section(f"Within the budget: {_limits(picks[0], ', ')}", *parts)


def budget_sentence(pick: Pick, *, say_hardware: bool = False) -> str:
    """The budget's answer in one sentence."""
    where = f" on {pick.hardware or NO_HARDWARE}" if say_hardware else ""
    if pick.best is None and pick.undecided:
        lacking = "; ".join(f"{what} is not measured for {', '.join(of)}" for what, of in pick.undecided.items())
        return (
            f"It is unknown whether a configuration meets the budget of {_limits(pick)}{where}: {lacking}. "
            "No other one meets it."
        )
    if pick.best is None:
        return f"No configuration with a score meets the budget of {_limits(pick)}{where}."
    best = pick.best
    return (
        f"With {_limits(pick)}{where}, the best is {named(best)}: {score_name(best['judged_by'])} {best['seed_mean']:.1f}% "
        f"({AGGREGATE_NAMES[best['judged_by']]}{_of_seeds(best)}){_at_load(pick, best)}."
    )


def _limits(pick: Pick, joint: str = " and ") -> str:
    return joint.join(map(_in_words, pick.limits))


def _in_words(limit: Limit) -> str:
    """ "p50 latency at most 15 ms"."""
    name, _, unit = METRIC_NAMES[limit.name].removesuffix(")").partition(" (")
    return f"{name} {_SIGNS[limit.sign]} {limit.value:g} {unit}".strip()


def _paragraphs(pick: Pick, *, say_hardware: bool) -> list[str]:
    parts = [paragraph(budget_sentence(pick, say_hardware=say_hardware))]
    if pick.runner_up is not None and pick.difference is not None:
        difference, runner_up = pick.difference, pick.runner_up
        second = f"The runner-up is {named(runner_up)}, at {runner_up['seed_mean']:.1f}%{_at_load(pick, runner_up)}. "
        if math.isnan(difference.probability):
            second += f"The lead of {difference.value:.1f} points has no error estimate: {difference.rests_on}."
        else:
            second += (
                f"The first leads by {signed(difference.value)} points {interval(difference.low, difference.high)} and is "
                f"better with probability {difference.probability:.2f}; both rest on {difference.rests_on}."
            )
        parts.append(paragraph(second))
    elif pick.best is not None:
        parts.append(paragraph("No other configuration fits the budget."))
    if pick.unknown:
        unknown = "; ".join(dict.fromkeys(pick.unknown))
        parts.append(paragraph(f"Not considered, because a limit could not be checked: {unknown}.", kind="note"))
    return parts


def _of_seeds(row: dict[str, Any]) -> str:
    if row["seeds"] > 1:
        return f"; mean of {row['seeds']} seeds, of which the one served has {row['score']:.1f}%"
    return "; one seed"


def _at_load(pick: Pick, row: dict[str, Any]) -> str:
    """The load at which a limit on the latency under load holds; "" without such a limit."""
    limits = [limit.value for limit in pick.limits if limit.name == "server_p99_ms"]
    if not limits:
        return ""
    at_load = f", {row['server_p99_ms']:.1f} ms p99 at {row['server_qps']:,.1f} queries/s"
    bound = row["server_bound_ms"]
    if bound < min(limits):
        return f"{at_load}, the highest load within {bound:g} ms (no higher load within the budget was tried)"
    return f"{at_load}, the highest load{f' within {bound:g} ms' if pd.notna(bound) else ' measured'}"


def named(row: dict[str, Any]) -> str:
    """ "size 2x128 served as fp32, without intermediate training"."""
    return f"size {row['size']} served as {row['variant']}, {trained_on(row['intermediate'])}"
