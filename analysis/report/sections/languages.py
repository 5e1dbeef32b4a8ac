"""Scores and costs by language."""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis.charts.common import interval, signed
from analysis.charts.languages import association_chart, language_chart
from analysis.report.findings import Findings
from analysis.report.page import Absent, Number, Page, folded, grid, number, paragraph, section
from analysis.store.frames import AGGREGATES, ENGLISH
from analysis.tables.languages import language_name

TITLE = "Languages"
EFFECT = "language effect (points)"


def languages_section(findings: Findings, page: Page) -> str:
    """Scores by language and target, what goes with them, and what a language costs."""
    frames, best = findings.frames, findings.best
    scores = frames.scores[frames.scores["split"] == "test"].merge(best, on=["size", "trial_id"])
    single = scores[~scores["language"].isin(AGGREGATES) & scores["value"].notna()]
    if single.empty:
        return section(TITLE, paragraph("No finished trial has scores by language yet."))
    sizes = [size for size in frames.size_names if size in set(best["size"])]
    label = _range_of_effects(findings.languages)
    scored = [task for task in frames.targets if task in set(single["task"])]
    chart = language_chart(_with_intervals(findings, single), sizes=sizes, target=scored[0])
    figures = [page.chart("languages", chart, caption="Test score by language (chosen target)", label=label)]
    return section(
        TITLE,
        paragraph(
            "Test score of the best trial of each size, chosen on dev. Dashed: guessing. Best language first. Bars: 95 % over "
            "test examples, where those are recorded. A language effect is how many points a language is better than the mean "
            "one in the targets that it has: not all have the same, and means over easy or hard ones compare the targets.",
            kind="note",
        ),
        grid(*figures, *_associations(findings, page, sizes)),
        *_association_table(findings, page),
        *_scripts(findings, page),
        *_not_comparable(findings.languages),
        folded("All scores by language", _table(findings, scores, page)),
        folded("Languages: script, pre-training share, pieces, cost", _costs(findings, page)),
    )


def _with_intervals(findings: Findings, single: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for row in single.to_dict("records"):
        draws = findings.frames.examples.draws((row["size"], row["trial_id"]), row["task"], row["language"])
        low, high = (np.nan, np.nan) if draws is None else np.quantile(draws, [0.025, 0.975])
        name = language_name(row["language"])
        kept = {key: row[key] for key in ("size", "trial_id", "task", "language", "value", "chance")}
        rows.append(kept | {"low": low, "high": high, "name": name, "label": f"{name} ({row['language']})"})
    return pd.DataFrame(rows)


def _range_of_effects(table: pd.DataFrame) -> str:
    """How far apart languages are, as text for who cannot see the chart."""
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
            f"Without an effect: {', '.join(apart)}. No target that they are scored on links them to the other languages, so "
            "nothing says whether they or their targets are harder.",
            kind="note",
        )
    ]


def _associations(findings: Findings, page: Page, sizes: list[str]) -> list[str]:
    table = findings.languages
    figures = []
    for name, x, y, titles, caption in (
        (
            "pieces",
            "pieces_to_english",
            "effect",
            ("pieces of a query (English = 1)", EFFECT),
            "Language effect and pieces",
        ),
        (
            "fertility",
            "pieces_per_word",
            "effect",
            ("pieces of a word", EFFECT),
            "Language effect and pieces of a word",
        ),
        (
            "cost",
            "pieces_to_english",
            "p50_ms",
            ("pieces of a query (English = 1)", "p50 (ms)"),
            "What a language costs",
        ),
        (
            "share",
            "share",
            "effect",
            ("share of the pre-training text", EFFECT),
            "Language effect and pre-training share",
        ),
    ):
        known = table.dropna(subset=[x, y])
        if len(known) < 3 or known[x].nunique() < 2:
            continue
        size = [one for one in sizes if one in set(known["size"])][-1]
        label = "; ".join(
            f"{r['language']}: {r[x]:.2f}, {r[y]:.1f}" for r in known[known["size"] == size].to_dict("records")
        )
        chart = association_chart(known, x=x, y=y, titles=titles, size=size)
        figures.append(page.chart(f"language_{name}", chart, caption=f"{caption} (chosen size)", label=label))
    if table["pieces"].isna().all():
        figures.append(
            paragraph("Not recorded for any language: pieces of a query and latency by language.", kind="note")
        )
    if unknown := [size for size in sizes if table.loc[table["size"] == size, "share"].isna().all()]:
        figures.append(
            paragraph(
                f"Size {', '.join(unknown)}: shares of the pre-training text are recorded of encoders that a study pre-trains "
                "itself, not of published ones.",
                kind="note",
            )
        )
    if table["share"].dropna().nunique() == 1:
        figures.append(paragraph("Every language has the same share of the pre-training text.", kind="note"))
    return figures


def _association_table(findings: Findings, page: Page) -> list[str]:
    table = findings.associations
    if table.empty:
        return []
    rows = [
        [
            f"{row['size']} · {row['what']}",
            Number(f"{row['spearman']:+.2f}"),
            interval(row["low"], row["high"], 2),
            Number(f"{row['p']:.3f}"),
            Number(row["languages"]),
        ]
        for row in table.to_dict("records")
    ]
    columns = ["size · what", "Spearman's rho", "95 % interval", "p", "languages"]
    return [
        page.table(
            "associations", columns, rows, caption="Rank correlations over languages, English left out", data=table
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
    caption = "Mean language effect by script (points), English left out; languages of one script are often related"
    columns = ["size · script", "mean effect", "languages from, to", "languages"]
    return [page.table("scripts", columns, rows, caption=caption, data=table)]


def _table(findings: Findings, scores: pd.DataFrame, page: Page) -> str:
    frames, best = findings.frames, findings.best
    languages = sorted(set(scores["language"]) - set(AGGREGATES))
    columns = [*AGGREGATES, *languages]
    values = {(r["size"], r["task"], r["language"]): r["value"] for r in scores.to_dict("records")}
    trial = dict(zip(best["size"], best["trial_id"], strict=True))
    chance = scores.groupby("task")["chance"].max().to_dict()
    scored = {(size, task) for size, task, _ in values}
    rows = [
        [f"{task} · {size}", trial[size], number(chance[task])]
        + [number(values.get((size, task, column)), absent="–") for column in columns]
        for task in frames.targets
        for size in frames.size_names
        if (size, task) in scored
    ]
    data = scores[["size", "trial_id", "intermediate", "task", "language", "value", "chance"]]
    titles = ["target · size", "trial", "chance", *columns]
    return page.table("scores", titles, rows, caption="Test score in percent; – is not scored", data=data)


def _costs(findings: Findings, page: Page) -> str:
    table = findings.languages
    rows = [
        [
            f"{row['name']} ({row['language']}) · {row['size']}",
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
    columns += ["pre-training share", "pieces of a query", "to English", "pieces of a word", "p50 (ms)", "to English "]
    return page.table("languages", columns, rows, caption="By language, best trial of each size", data=table)
