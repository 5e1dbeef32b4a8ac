"""The answer in two sentences: what a bigger size buys, and what an intermediate task before it; and what is uncertain."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from analysis.report.findings import Findings
from analysis.report.leads import serving_lead
from analysis.report.size_steps import SizeStep, why_untested
from analysis.store.frames import AGGREGATE_NAMES, NONE, StudyFrames, unique, zero_shot
from analysis.store.names import score_name
from analysis.tables.budget import Difference
from analysis.tables.formatting import counted, interval, signed
from analysis.tables.gains import TIE_POINTS
from analysis.tables.inference import ALPHA
from analysis.tables.tradeoff import kinds_of_hardware

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
        if len(scored) == 1:
            return f"Only one size has scores ({scored[0]}), so what a bigger one buys is unknown."
        why = "no two sizes have trials that can be compared yet" if scored else "no size has scores yet"
        return f"What a bigger size buys is unknown: {why}."
    first, *further = steps
    text = f"Going from {first.start} to {first.end} {_bought(first)}{_for_latency(first)}"
    for step in further:
        text += f"; going on to {step.end} {_bought(step)}{_for_latency(step)}"
    alike = "without an intermediate task" if first.plain else "each with the intermediate task chosen for it"
    several = len(kinds_of_hardware(findings.frames.benchmarks)) > 1
    where = f" on {first.hardware}" if several and first.hardware else ""
    served = f"served as {first.variant}{where}, {alike}" if first.variant else f"{alike}; speed was not measured"
    return f"{text} ({served}{_by_chance(steps)})."


def _by_chance(steps: Sequence[SizeStep]) -> str:
    """What is said of steps that were not tested."""
    untested = [step for step in steps if not step.tested]
    if not untested:
        return ""
    which = "these differences" if len(untested) > 1 else "the difference"
    if len(untested) < len(steps):
        which = f"what is said of {' and '.join(step.end for step in untested)}"
    return f"; {' or '.join(unique(map(why_untested, untested)))}, so {which} could be chance"


def _bought(step: SizeStep) -> str:
    """What a step changes; the verdict where it was tested."""
    difference = step.difference
    if step.told:
        return f"{'buys' if difference.value > 0 else 'costs'} {abs(difference.value):.1f} points"
    if not step.tested:
        return f"changes the mean by {signed(difference.value)} points"
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
        return "What an intermediate task buys is unknown: no trial has a counterpart without one."
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
        _one_seed(rows[rows["p_holm"].isna()]),
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
    ends = signed(gains.max()) if len(names) == 1 else f"means from {signed(gains.min())} to {signed(gains.max())}"
    seeds = counted(int(rows["seeds"].max()), "seed")
    return f"{_named(names)} {'buys' if len(names) == 1 else 'buy'} nothing that {seeds} tell from zero ({ends})"


def _one_seed(rows: pd.DataFrame) -> str:
    """Intermediate tasks that were not tested beside others that were; "" without rows."""
    names = [f"{row['intermediate']} ({signed(row['gain'])})" for row in rows.to_dict("records")]
    return f"not tested with one seed: {_named(names)}" if names else ""


def _untested(rows: pd.DataFrame) -> str:
    """The range of mean gains that rest on one seed."""
    best, worst = rows.iloc[0], rows.iloc[-1]
    if len(rows) == 1:
        return (
            f"training on {best['intermediate']} first changes the mean by {signed(best['gain'])} points "
            "(one seed, so it could be chance)"
        )
    return (
        f"training on an English task first changes the mean by {signed(best['gain'])} ({best['intermediate']}) to "
        f"{signed(worst['gain'])} points ({worst['intermediate']}; one seed, so it could be chance)"
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
    """The size with the best mean score where it has mean gains, else the largest size that has them; "" if none has."""
    known = set(findings.headline_averages["size"])
    best = [step.start for step in findings.size_steps[:1]]
    best += [step.end for step in findings.size_steps if step.difference.value > 0]
    return next((name for name in [*best[-1:], *reversed(findings.frames.size_names)] if name in known), "")


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
        f"{counted(len(frames.size_names), 'size')}{_parameters(frames)}",
        counted(len([name for name in frames.intermediates if name != NONE]), "intermediate task"),
        f"{counted(len(findings.scored_targets), 'target')} in {counted(languages, 'language')}",
        counted(int(frames.trials["seed"].dropna().nunique()), "seed"),
    ]
    return f"{' · '.join(parts)} · scores: mean over targets, {AGGREGATE_NAMES[judged_by]}"


def _parameters(frames: StudyFrames) -> str:
    """ " (0.4M to 1.8M body parameters)"; "" where they are not known."""
    millions = (
        frames.benchmarks["params_body_m"].dropna() if "params_body_m" in frames.benchmarks else pd.Series(dtype=float)
    )
    if millions.empty:
        return ""
    ends = unique(f"{value:.2g}M" if value < 10 else f"{value:,.0f}M" for value in (millions.min(), millions.max()))
    return f" ({' to '.join(ends)} body parameters)"
