"""The sentence that opens each section: what was found, from the tables."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from analysis.report.findings import Findings
from analysis.report.size_steps import SizeStep, why_untested
from analysis.store.frames import ENGLISH, cascade_in, rows_where
from analysis.tables.formatting import counted, interval, signed
from analysis.tables.tradeoff import kinds_of_hardware


def size_lead(findings: Findings) -> str:
    """The steps between sizes with their intervals and latencies."""
    if not findings.size_steps:
        return "One size has scores: nothing to compare it with."
    return "From " + "; from ".join(map(_step, findings.size_steps)) + "."


def _step(step: SizeStep) -> str:
    change = f"{signed(step.difference.value)} points"
    if not math.isnan(step.difference.low):
        change += f" {interval(step.difference.low, step.difference.high)}"
    seeds = counted(step.seeds, "seed") if step.tested else f"{why_untested(step)}: not tested"
    latency = "" if math.isnan(step.cost_ratio) else f", p50 from {step.start_ms:.2f} to {step.end_ms:.2f} ms"
    return f"{step.start} to {step.end}: {change} ({seeds}){latency}"


def gains_lead(findings: Findings) -> str:
    """How many gains are told from zero, and the largest of them; the range where nothing was tested."""
    tuned = findings.tuned_has_more_seeds
    table = findings.tuned if tuned else findings.gained
    known = table[table["gain"].notna() & (table["mark"] == "")]
    if known.empty:
        return "No trial has a counterpart without an intermediate task, so there is no gain to show."
    rates = "at the best learning rates of each" if tuned else "at the default learning rates"
    flagged = int((table["gain"].notna() & (table["mark"] != "")).sum())
    rates += f" ({flagged} with a contamination flag left out)" if flagged else ""
    tested = known[known["p_holm"].notna()]
    if tested.empty:
        ends = _ends(known, "gain")
        shown = " to ".join(f"{signed(row['gain'])} points ({row['intermediate']} on {row['task']})" for row in ends)
        return f"{counted(len(known), 'gain')} {rates}, one seed each and so not tested: {shown}."
    counts = tested["verdict"].value_counts()
    told = tested[tested["verdict"].isin(["gain", "loss"])]
    gains, losses, ties, unclear = (int(counts.get(name, 0)) for name in ("gain", "loss", "tie", "unclear"))
    text = (
        f"Of {counted(len(tested), 'comparison')} {rates}: {counted(gains, 'gain')}, {losses} "
        f"{'loss' if losses == 1 else 'losses'}, {counted(ties, 'tie')}, {unclear} undecided"
    )
    if told.empty:
        return f"{text}."
    row = max(told.to_dict("records"), key=lambda row: abs(row["gain"]))
    return f"{text}. The largest: {row['intermediate']} on {row['task']}, size {row['size']}, {_gain(row)}."


def _ends(table: pd.DataFrame, column: str) -> tuple[dict[Any, Any], dict[Any, Any]]:
    """The rows with the lowest and the highest value."""
    rows = table.sort_values(column, kind="stable").to_dict("records")
    return rows[0], rows[-1]


def _gain(row: dict[Any, Any]) -> str:
    return f"{signed(row['gain'])} points {interval(row['low'], row['high'])}".strip()


def languages_lead(findings: Findings) -> str:
    """The best and the worst language of the largest size, and the slowest one."""
    table = findings.languages
    if table.empty:
        return ""
    size = str(table["size"].iloc[-1])
    own = table[(table["size"] == size) & (table["language"] != ENGLISH)]
    sentences = []
    effects = own[own["effect"].notna()]
    if len(effects) > 1:
        worst, best = _ends(effects, "effect")
        sentences.append(
            f"On {size}, {best['name']} scores {_beside_mean(best['effect'])} the mean language and {worst['name']} "
            f"{_beside_mean(worst['effect'])} it, on the targets they have"
        )
    slow = own[own["latency_to_english"].notna()]
    if len(slow):
        _, row = _ends(slow, "latency_to_english")
        sentences.append(f"a query in {row['name']} takes {row['latency_to_english']:.1f} times as long as in English")
    if not sentences:
        return f"On {size}, {counted(len(own), 'language')} besides English were scored; no two of them share a target."
    text = "; ".join(sentences)
    return f"{text[0].upper()}{text[1:]}."


def _beside_mean(effect: float) -> str:
    return f"{abs(effect):.1f} points {'above' if effect > 0 else 'below'}"


def serving_lead(findings: Findings) -> str:
    """The fastest serving variant of the largest size beside its first one."""
    served = findings.served
    rows = served[~served["baseline"] & served["p50_ms"].notna() & served["score"].notna()]
    rows = rows_where(rows, (not cascade_in(row) for row in rows.to_dict("records")))  # its p50 is of the smaller model
    if rows.empty:
        return ""
    size = next(name for name in reversed(findings.frames.size_names) if name in set(rows["size"]))
    hardware = str(rows.loc[rows["size"] == size, "hardware"].iloc[0])
    own = rows[(rows["size"] == size) & (rows["hardware"] == hardware)]
    where = f"on {hardware}, " if len(kinds_of_hardware(served)) > 1 else ""
    plain, (fast, _) = own.iloc[0], _ends(own, "p50_ms")
    if len(own) == 1:
        return f"One variant of {size} was served: {plain['variant']}, {where}at {plain['p50_ms']:.2f} ms p50 latency."
    if fast["variant"] == plain["variant"]:
        return f"No variant of {size} is faster than {plain['variant']} ({where}{plain['p50_ms']:.2f} ms p50 latency)."
    scores = _more_or_less(fast["score"] - plain["score"])
    text = (
        f"{where}{fast['variant']} serves {size} {plain['p50_ms'] / fast['p50_ms']:.1f} times as fast as {plain['variant']} "
        f"({fast['p50_ms']:.2f} against {plain['p50_ms']:.2f} ms p50) and scores {scores}."
    )
    return f"O{text[1:]}" if where else text


def _more_or_less(points: float) -> str:
    if abs(points) < 0.05:
        return "the same to 0.1 points"
    return f"{abs(points):.1f} points {'more' if points > 0 else 'less'}"


def benchmarks_lead(findings: Findings) -> str:
    """How many configurations were measured and scored, and how many are on the front."""
    served = findings.served
    measured = served[~served["baseline"] & (served["reason"] == "")]
    more, on_front = int(served["baseline"].sum()), int(served["on_front"].sum())
    text = f"{counted(len(measured), 'configuration')} measured"
    text += f" and {more} more scored without an intermediate task at the same cost" if more else ""
    text += f"; {on_front} on the Pareto front of p50 latency"
    failed = int((served["reason"] != "").sum())
    return f"{text}; {failed} could not be measured." if failed else f"{text}."


def search_lead(findings: Findings) -> str:
    """Trials run and stopped early, and what sharing stages saved."""
    searched = findings.frames.searched
    stopped = int((searched["outcome"] == "stopped_early").sum())
    text = f"{counted(len(searched), 'trial')} searched, {stopped or 'none'} of them stopped early"
    made, asked = (findings.savings[name].sum() for name in ("stages_made", "stages_asked"))
    if asked:
        text += f"; sharing stages saved {100 * (1 - made / asked):.0f}% of the training stages"
    return f"{text}."


def missing_lead(lines_by_title: dict[str, list[str]]) -> str:
    """How much is listed under which title."""
    if not lines_by_title:
        return ""
    parts = (f"{title[0].lower()}{title[1:]} ({len(lines)})" for title, lines in lines_by_title.items())
    return f"What to know before relying on a number: {', '.join(parts)}."


def context_lead(findings: Findings) -> str:
    """Where and when, in one sentence."""
    frames = findings.frames
    hardware = frames.context["hardware"]
    where = f"on {hardware}" if hardware else "on hardware that is not recorded"
    trials = counted(len(frames.searched), "trial")
    repeats = len(frames.trials) - len(frames.searched)
    more = f" and {counted(repeats, 'repeat')} with other seeds" if repeats else ""
    judged = frames.context["selection"] or "a split that is not recorded"
    return f"{trials}{more} ran {where}; trials were chosen on {judged} and judged on test sets."
