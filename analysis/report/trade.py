"""The answer in two sentences: what a bigger size buys, and what an intermediate task before it; and what is uncertain."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from analysis.report.findings import Findings
from analysis.report.leads import serving_lead
from analysis.report.size_steps import SizeStep
from analysis.store.frames import AGGREGATE_NAMES, NONE, unique, zero_shot
from analysis.store.names import score_name
from analysis.tables.budget import Difference
from analysis.tables.formatting import counted, interval, signed
from analysis.tables.gains import TIE_POINTS
from analysis.tables.inference import ALPHA

NAMED = 2  # of several tasks with the same verdict; the others are counted


def trade(findings: Findings) -> list[str]:
    """What size buys (of one size: what serving buys), and what intermediate training buys; empty without results."""
    if findings.frames.trials.empty and findings.frames.benchmarks.empty:
        return []
    first = size_sentence(findings)
    if not findings.size_steps and (serving := serving_lead(findings)):
        first = f"{first} {serving}"
    return [first, intermediate_sentence(findings)]


def size_sentence(findings: Findings) -> str:
    """ "Going from 3l to 12l buys 8.1 points for 3.4 times the latency." """
    steps = findings.size_steps
    if not steps:
        scored = unique(findings.frames.scores["size"])
        named = f" ({scored[0]})" if len(scored) == 1 else ""
        return f"Only one size has scores{named}, so what size buys is open."
    first, *further = steps
    text = f"Going from {first.start} to {first.end} {_bought(first)}{_for_latency(first)}"
    for step in further:
        text += f"; going on to {step.end} {_bought(step)}{_for_latency(step)}"
    alike = "without an intermediate task" if first.plain else "each with the intermediate task chosen for it"
    served = f"served as {first.variant}, {alike}" if first.variant else f"{alike}; speed was not measured"
    return f"{text} ({served})."


def _bought(step: SizeStep) -> str:
    """What a step changes; the verdict where it was tested."""
    difference = step.difference
    if step.told:
        return f"{'buys' if difference.value > 0 else 'costs'} {abs(difference.value):.1f} points"
    if not step.tested:
        why = "one seed" if step.seeds <= 1 else "no interval"
        return f"changes the mean by {signed(difference.value)} points ({why}: not tested)"
    if max(abs(difference.low), abs(difference.high)) <= TIE_POINTS:
        return f"is a tie ({signed(difference.value)} points)"
    return f"buys nothing that {step.seeds} seeds tell from zero ({_with_interval(difference)})"


def _for_latency(step: SizeStep) -> str:
    return "" if pd.isna(step.cost_ratio) else f" for {step.cost_ratio:.1f} times the latency"


def intermediate_sentence(findings: Findings) -> str:
    """ "Training on an English task first, on 12l: snli buys 1.2 points; ewt_xpos costs 2.0 points." """
    averages = findings.headline_averages
    size = _size_of_gains(findings)
    rows = averages[averages["size"] == size].sort_values("gain", ascending=False, kind="stable")
    if rows.empty:
        return "What an intermediate task buys is open: no trial has a counterpart without one."
    tested = rows[rows["p_holm"].notna()]
    if tested.empty:
        return f"On {size}, {_untested(rows)}."
    told = tested["p_holm"] < ALPHA
    tied = ~told & (tested[["low", "high"]].abs().max(axis="columns") <= TIE_POINTS)
    parts = [
        _amounts(tested[told & (tested["gain"] > 0)], "buys"),
        _ties(tested[tied]),
        _undecided(tested[~told & ~tied]),
        _amounts(tested[told & (tested["gain"] < 0)].iloc[::-1], "costs"),
    ]
    plain = not tested["not_zero_shot"].any() and all(
        findings.frames.members(name) in ((), (name,)) for name in tested["intermediate"]
    )
    what = "Training on an English task first" if plain else "Intermediate training"
    return f"{what}, on {size}: {'; '.join(filter(None, parts))}."


def _amounts(rows: pd.DataFrame, verb: str) -> str:
    """ "a buys 1.2 points, b 0.9 and 2 others less"; "" without rows. The largest comes first."""
    amounts = [f"{row['intermediate']} {abs(row['gain']):.1f}" for row in rows.head(NAMED).to_dict("records")]
    if not amounts:
        return ""
    name, points = amounts[0].rsplit(" ", 1)
    more = [f"{counted(len(rows) - NAMED, 'other')} less"] if len(rows) > NAMED else []
    return _listed([f"{name} {verb} {points} points", *amounts[1:], *more])


def _ties(rows: pd.DataFrame) -> str:
    names = list(rows["intermediate"])
    return f"{_named(names)} {'ties' if len(names) == 1 else 'tie'} with none" if names else ""


def _undecided(rows: pd.DataFrame) -> str:
    """Intermediate tasks whose mean gain is neither told from zero nor a tie."""
    if rows.empty:
        return ""
    names, gains = list(rows["intermediate"]), rows["gain"]
    ends = signed(gains.max()) if len(names) == 1 else f"{signed(gains.min())} to {signed(gains.max())}"
    seeds = counted(int(rows["seeds"].max()), "seed")
    return f"{_named(names)} {'buys' if len(names) == 1 else 'buy'} nothing that {seeds} tell from zero ({ends})"


def _untested(rows: pd.DataFrame) -> str:
    """The range of mean gains that rest on one seed."""
    best, worst = rows.iloc[0], rows.iloc[-1]
    if len(rows) == 1:
        return f"{best['intermediate']} first changes the mean by {signed(best['gain'])} points (one seed: not tested)"
    return (
        f"training on an English task first changes the mean by {signed(best['gain'])} ({best['intermediate']}) to "
        f"{signed(worst['gain'])} points ({worst['intermediate']}; one seed: not tested)"
    )


def _named(names: Sequence[str]) -> str:
    """ "a", "a and b", "a, b and 3 others"; one more is named too."""
    if len(names) <= NAMED + 1:
        return _listed(names)
    return _listed([*names[:NAMED], counted(len(names) - NAMED, "other")])


def _listed(parts: Sequence[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return " and ".join(filter(None, [", ".join(parts[:-1]), parts[-1]]))


def _size_of_gains(findings: Findings) -> str:
    """The best of the sizes that have mean gains, else the largest of them."""
    known = set(findings.headline_averages["size"])
    steps = findings.size_steps
    if steps and steps[0].end in known and steps[0].difference.value > 0:
        return steps[0].end
    return next((name for name in reversed(findings.frames.size_names) if name in known), "")


def _with_interval(difference: Difference) -> str:
    return f"{signed(difference.value)} {interval(difference.low, difference.high)}".strip()


def uncertain(findings: Findings) -> str:
    """What weakens the answer, in one line; "" where nothing does."""
    if not trade(findings):
        return ""
    seeds = findings.headline_averages["seeds"]
    told = []
    if len(seeds) and seeds.max() <= 1:
        told.append("one seed, so no difference is tested")
    elif len(seeds):
        told.append(f"{counted(int(seeds.max()), 'seed')}, so only large differences can be told from zero")
    if findings.at_chance:
        count = len(findings.at_chance)
        told.append(f"{counted(count, 'target')} at chance {'is' if count == 1 else 'are'} left out of mean gains")
    if runs := len(findings.collapsed[["size", "trial_id"]].drop_duplicates()):
        told.append(f"{counted(runs, 'run')} collapsed")
    if marked := [row["intermediate"] for row in findings.headline_averages.to_dict("records") if row["not_zero_shot"]]:
        told.append(f"not zero-shot in every language: {', '.join(unique(marked))}")
    if findings.frames.benchmarks.empty:
        told.append("no speed was measured")
    return "; ".join(told)


def question(findings: Findings) -> str:
    """What the page answers."""
    judged_by, _ = zero_shot(findings.frames.trials)
    return (
        "For a budget, which encoder size, which English intermediate task and which serving variant give the best "
        f"{score_name(judged_by).removeprefix('mean ')}?"
    )


def study_line(findings: Findings) -> str:
    """What was studied, in one line: name, sample sizes, and what a score is the mean of."""
    frames = findings.frames
    judged_by, _ = zero_shot(frames.trials)
    languages = len(frames.languages)
    parts = [
        str(frames.context["experiment"]),
        counted(len(frames.size_names), "size"),
        counted(len([name for name in frames.intermediates if name != NONE]), "intermediate task"),
        f"{counted(len(findings.scored_targets), 'target')} in {counted(languages, 'language')}",
        counted(int(frames.trials["seed"].dropna().nunique()), "seed"),
    ]
    return f"{' · '.join(parts)} · scores: mean over targets, {AGGREGATE_NAMES[judged_by]}"
