"""Scores and costs by language."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from analysis.charts.languages import association_chart, language_chart
from analysis.report.findings import Findings
from analysis.report.leads import languages_lead
from analysis.report.page import Absent, Number, Page, folded, grid, number, p_cell, paragraph, section
from analysis.report.sections.zero_shot import SEEN, SIGN
from analysis.store.frames import AGGREGATES, ENGLISH, UNKNOWN
from analysis.store.names import MAX_ANSWER_TOKENS
from analysis.tables.formatting import interval, signed
from analysis.tables.languages import language_name, timed_hardware
from analysis.tables.tradeoff import kinds_of_hardware

TITLE = "Languages"
EFFECT = "language effect (points)"
REACHABLE = 99.5  # a ceiling of at least this hides no difference worth a remark
_ASSOCIATIONS = {
    "language effect with pieces": "language effect with tokens per query",
    "language effect with pieces per word": "language effect with tokens per word",
    "latency with pieces": "latency with tokens per query",
}
_CHARTS = (
    ("pieces", "pieces_to_english", "effect", "Language effect and tokens per query"),
    ("fertility", "pieces_per_word", "effect", "Language effect and tokens per word"),
    ("cost", "pieces_to_english", "p50_ms", "Latency of a language and its tokens per query"),
    ("share", "share", "effect", "Language effect and share of the pre-training text"),
)
_AXES = {
    "effect": EFFECT,
    "p50_ms": "p50 latency (ms)",
    "pieces_to_english": "tokens per query (English = 1)",
    "pieces_per_word": "tokens per word",
    "share": "share of the pre-training text",
}


def languages_section(findings: Findings, page: Page) -> str:
    """Scores by language and target, their associations, and what a language costs."""
    frames, best = findings.frames, findings.best
    scores = frames.scores[frames.scores["split"] == "test"].merge(best, on=["size", "trial_id"])
    single = scores[~scores["language"].isin(AGGREGATES) & scores["value"].notna()]
    if single.empty:
        return section(TITLE, paragraph("No finished trial has scores by language yet."))
    sizes = [size for size in frames.size_names if size in set(best["size"])]
    label = _range_of_effects(findings.languages)
    scored = [task for task in frames.targets if task in set(single["task"])]
    chart = language_chart(_with_intervals(findings, single), sizes=sizes, target=scored[0])
    caption = (
        "Test score by language for the chosen target, best language first: each size's best trial, chosen on English "
    )
    caption += "dev. Dashed: chance. Bars: 95% intervals over test examples, where recorded"
    return section(
        TITLE,
        page.chart("languages", chart, caption=caption, label=label),
        paragraph(
            "A language effect is the number of points by which a language "
            "exceeds the mean language in its own targets. Compare languages by it: a mean score mostly reflects which targets "
            "a language has.",
            kind="note",
        ),
        grid(*_associations(findings, page, sizes)),
        *_association_notes(findings.languages, sizes),
        *_association_table(findings, page),
        *_scripts(findings, page),
        *_not_comparable(findings.languages),
        *_bounded(findings, sizes),
        folded("All scores by language", _table(findings, scores, page)),
        folded("Languages: script, pre-training share, tokens, cost", _costs(findings, page)),
        lead=languages_lead(findings),
    )


def _with_intervals(findings: Findings, single: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for row in single.to_dict("records"):
        draws = findings.frames.examples.draws((row["size"], row["trial_id"]), row["task"], row["language"])
        low, high = (np.nan, np.nan) if draws is None else np.quantile(draws, [0.025, 0.975])
        name = language_name(row["language"])
        own = {key: row[key] for key in ("size", "trial_id", "task", "language", "value", "chance")}
        rows.append(own | {"low": low, "high": high, "name": name, "label": f"{name} ({row['language']})"})
    return pd.DataFrame(rows)


def _range_of_effects(table: pd.DataFrame) -> str:
    """The range of language effects, as text for screen readers."""
    known = table.dropna(subset=["effect"]).sort_values("effect", kind="stable").to_dict("records")
    if not known:
        return "no two languages share a target"
    ends = (f"{signed(row['effect'])} in {row['name']} (size {row['size']})" for row in (known[0], known[-1]))
    return f"language effects in points from {' to '.join(ends)}"


def _not_comparable(table: pd.DataFrame) -> list[str]:
    apart = list(dict.fromkeys(table.loc[table["effect"].isna() & (table["language"] != ENGLISH), "name"]))
    if not apart:
        return []
    return [
        paragraph(
            f"Without an effect: {', '.join(apart)}. No shared target links them to the other languages, so it is unknown "
            "whether these languages or their targets are harder.",
            kind="note",
        )
    ]


def _bounded(findings: Findings, sizes: list[str]) -> list[str]:
    """Targets and languages in which no model could score 100, by size unless all sizes have the same tokenizer."""
    ceilings = findings.frames.ceilings
    low = ceilings[ceilings["size"].isin(sizes) & ceilings["value"].lt(REACHABLE)]
    by_size: dict[str, str] = {}
    for size, of_size in low.groupby("size", sort=False):
        by_task = (
            f"{task}: {', '.join(f'{language} {value:.1f}' for language, value in values)}"
            for task, values in (
                (task, sorted(zip(rows["language"], rows["value"], strict=True)))
                for task, rows in of_size.groupby("task", sort=False)
            )
        )
        by_size[str(size)] = "; ".join(by_task)
    if not by_size:
        return []
    same = len(by_size) == len(sizes) and len(set(by_size.values())) == 1
    bounds = [next(iter(by_size.values()))] if same else [f"size {size}: {text}" for size, text in by_size.items()]
    return [
        paragraph(
            "No model could score 100 here, because the longest answer that can be predicted has "
            f"{MAX_ANSWER_TOKENS} tokens (XTREME's bound), and some answers are longer or begin or end inside a "
            f"token. Highest reachable score in percent, where it is below {REACHABLE}: {'. '.join(bounds)}.",
            kind="note",
        )
    ]


def _associations(findings: Findings, page: Page, sizes: list[str]) -> list[str]:
    table = findings.languages
    figures = []
    for name, x, y, caption in _CHARTS:
        known = table.dropna(subset=[x, y])
        if len(known) < 3 or known[x].nunique() < 2:
            continue
        size = [name for name in sizes if name in set(known["size"])][-1]
        label = "; ".join(
            f"{r['language']}: {r[x]:.2f}, {r[y]:.1f}" for r in known[known["size"] == size].to_dict("records")
        )
        chart = association_chart(known, x=x, y=y, titles=(_AXES[x], _AXES[y]), size=size)
        caption += ", for the chosen size; each point is a language"
        caption += _where(findings) if name == "cost" else ""
        figures.append(page.chart(f"language_{name}", chart, caption=caption, label=label))
    return figures


def _association_notes(table: pd.DataFrame, sizes: list[str]) -> list[str]:
    """What is missing for the charts of associations."""
    notes = []
    if table["pieces"].isna().all():
        notes.append("Not recorded for any language: tokens per query and latency.")
    if unknown := [size for size in sizes if table.loc[table["size"] == size, "share"].isna().all()]:
        notes.append(
            f"Size {', '.join(unknown)}: no shares of the pre-training text. They are recorded for encoders that a study "
            "pre-trains itself, not for published ones."
        )
    if table["share"].dropna().nunique() == 1:
        notes.append("Every language has the same share of the pre-training text.")
    return [paragraph(note, kind="note") for note in notes]


def _association_table(findings: Findings, page: Page) -> list[str]:
    table = findings.associations
    if table.empty:
        return []
    rows = [
        [
            f"{row['size']} · {_ASSOCIATIONS.get(row['what'], row['what'])}",
            Number(signed(row["spearman"], 2)),
            interval(row["low"], row["high"], 2),
            p_cell(row["p"], absent="not tested"),
            Number(row["languages"]),
        ]
        for row in table.to_dict("records")
    ]
    columns = ["size · association", "Spearman's rho", "95% interval", "p, not corrected", "languages"]
    return [
        page.table(
            "associations",
            columns,
            rows,
            caption="Rank correlations over languages, without English",
            data=table,
            fold="Rank correlations",
        )
    ]


def _scripts(findings: Findings, page: Page) -> list[str]:
    table = findings.scripts
    if table["script"].nunique() < 2:
        return []
    rows = [
        [
            f"{row['size']} · {row['script'] or 'unknown'}",
            Number(signed(row["effect"])),
            f"{signed(row['lowest'])} to {signed(row['highest'])}",
            Number(row["languages"]),
        ]
        for row in table.to_dict("records")
    ]
    caption = "Mean language effect by script (points), without English; languages of one script are often related"
    columns = ["size · script", "mean effect", "lowest to highest", "languages"]
    return [page.table("scripts", columns, rows, caption=caption, data=table, fold="By script")]


def _table(findings: Findings, scores: pd.DataFrame, page: Page) -> str:
    frames, best = findings.frames, findings.best
    languages = sorted(set(scores["language"]) - set(AGGREGATES))
    columns = [*AGGREGATES, *languages]
    values = {(r["size"], r["task"], r["language"]): r["value"] for r in scores.to_dict("records")}
    trial = dict(zip(best["size"], best["trial_id"], strict=True))
    chance = scores.groupby("task")["chance"].max().to_dict()
    scored = {(size, task) for size, task, _ in values}
    choice = dict(zip(scores["size"], scores["intermediate"], strict=True))  # of each size's best trial
    rows = [
        [
            f"{task} · {size}{' (seen)' if frames.seen(size, task, choice[size]) else ''}",
            trial[size],
            number(chance[task]),
        ]
        + [_score(findings, values.get((size, task, column)), choice[size], task, column) for column in columns]
        for task in frames.targets
        for size in frames.size_names
        if (size, task) in scored
    ]
    data = scores[["size", "trial_id", "intermediate", "task", "language", "value", "chance"]]
    seen = [frames.seen(size, task, choice[size]) for size, task in zip(data["size"], data["task"], strict=True)]
    data = data.assign(seen=seen)
    if len(ceilings := frames.ceilings.rename(columns={"value": "ceiling"})):
        data = data.merge(ceilings, on=["size", "task", "language"], how="left")
    titles = ["target · size", "trial", "chance", *columns]
    caption = "Test score in percent; –: not scored"
    caption += "; (seen): the encoder was trained on data of this target before" if any(seen) else ""
    marked = any(frames.not_zero_shot_in_words(choice[size], [task]) for size, task in scored)
    caption += f"; {SIGN}: labelled data in this language, or in unknown ones, so not zero-shot" if marked else ""
    return page.table("scores", titles, rows, caption=caption, data=data)


def _score(findings: Findings, value: float | None, intermediate: str, task: str, column: str) -> str:
    """A score; with a sign where the intermediate task has labelled data in the language, or its languages are unknown."""
    cell, frames = number(value, absent="–"), findings.frames
    unknown = frames.languages_unknown(intermediate) and column not in (*AGGREGATES, ENGLISH)
    marked = pd.notna(value) and (unknown or column in frames.not_zero_shot(intermediate, task))
    return Number(f"{cell} {SIGN}") if marked else cell


def _costs(findings: Findings, page: Page) -> str:
    table = findings.languages
    rows = [
        [
            " ".join([f"{row['name']} ({row['language']}) · {row['size']}", *_signs(row)]),
            row["script"] or "unknown",
            Absent("shares no target") if pd.isna(row["effect"]) else Number(signed(row["effect"])),
            Number(row["tasks"]),
            number(row["score"]),
            number(row["gap_to_english"], absent="no English score"),
            number(row["share"], 3),
            number(row["pieces"], 1, absent="not measured"),
            number(row["pieces_to_english"], 2, absent="not measured"),
            number(row["pieces_per_word"], 2, absent="not measured, or written without spaces"),
            number(row["p50_ms"], 2, absent="not measured"),
            number(row["latency_to_english"], 2, absent="not measured"),
        ]
        for row in table.to_dict("records")
    ]
    columns = ["language · size", "script", EFFECT, "targets", "mean of these (%)", "gap to English"]
    columns += ["pre-training share", "tokens per query", "relative to English", "tokens per word", "p50 latency (ms)"]
    columns += ["latency relative to English"]
    caption = f"By language, best trial of each size{_where(findings)}{_legend(findings, table)}"
    return page.table("languages", columns, rows, caption=caption, data=table)


def _signs(row: dict[Any, Any]) -> list[str]:
    """The signs of what is not zero-shot in a row of `language_table`."""
    return [sign for sign, marked in ((SIGN, row["labelled"]), (SEEN, row["seen"])) if marked]


def _legend(findings: Findings, table: pd.DataFrame) -> str:
    """What the signs stand for, as the end of a caption."""
    parts = []
    if (table["labelled"] == "yes").any():
        parts.append(
            f"{SIGN}: the trial's intermediate task has labelled data in this language, so it is not zero-shot"
        )
    if (table["labelled"] == UNKNOWN).any():
        parts.append(f"{SIGN}: the languages of the labelled data that its checkpoint was trained on are unknown")
    if (table["seen"] != "").any():
        targets = dict.fromkeys(name for names in table["seen"] for name in names.split(", ") if name)
        parts.append(f"{SEEN}: the encoder has seen data of a target scored here ({', '.join(targets)})")
    return "".join(f". {part}" for part in parts)


def _where(findings: Findings) -> str:
    """The hardware of the times by language, where the study has several kinds."""
    several = len(kinds_of_hardware(findings.frames.benchmarks)) > 1
    hardware = timed_hardware(findings.frames)
    return f"; timed on {hardware}" if several and hardware else ""
