"""What intermediate training gained."""

from __future__ import annotations

from typing import Any

import pandas as pd

from analysis.charts.common import interval, signed
from analysis.charts.gains import average_chart, gain_intervals, gains_heatmap
from analysis.report.findings import Findings
from analysis.report.page import Absent, Number, Page, folded, grid, heading, number, paragraph, section

TITLE = "What intermediate training gained"
_COLUMN_PX = 52
_MARKS = {
    "same data": "* trained on data the target is trained on",
    "leak": "! read data the target is scored on",
}


def gains_section(findings: Findings, page: Page) -> str:
    """Heat map, intervals, averages, ways to choose, and interaction with size."""
    gained = findings.gained
    if gained.empty:
        return section(
            TITLE, paragraph("No intermediate task or no target is recorded, so there is nothing to compare.")
        )
    explained = (
        "Points gained in test score over no intermediate task, at the same size, learning rates and seed. All verdicts are "
        f"about the mean over {findings.frames.said_judged}; the heat map also shows single languages and the other mean, "
        "untested. Blue gained, orange lost, grey has no pair to compare. ▲ and ▼: told from zero at 95 % after Holm's "
        "correction over all cells that count as transfer; = : within a point of zero at 95 %; no sign: cannot be told, or one "
        "seed. Holm's correction is made within each table (gains, averages, interactions, tuned gains): where nothing has an "
        "effect, 5 % of studies have a false discovery in one given table, and more in any of them."
    )
    if marked := sorted(set(gained["mark"]) - {""}):
        explained += f" Not transfer, and not judged: {'; '.join(_MARKS[name] for name in marked)}."
    first, over = findings.first_size, f"mean over {findings.frames.said_judged}"
    least = 130 + _COLUMN_PX * gained["intermediate"].nunique()
    label = "; ".join(
        f"{row['size']}, {row['intermediate']} on {row['task']}: {signed(row['gain']) or row['reason']}"
        for row in gained.to_dict("records")
    )
    figures = [
        page.chart(
            "gains",
            gains_heatmap(gained, findings.by_language, size=first, language=findings.first_language),
            caption=f"Gain over none in points, target by intermediate (chosen size and language; first {over})",
            label=label,
            least_px=least,
        )
    ]
    known = gained[gained["gain"].notna()]
    if len(known):
        figures.append(
            page.chart(
                "gain_intervals",
                gain_intervals(known, size=first),
                caption=f"The same with 95 % intervals (chosen size, {over})",
                label=label,
            )
        )
    return section(
        TITLE,
        paragraph(explained, kind="note"),
        grid(*figures),
        *_averages(findings, page),
        *_choices(findings, page),
        *_interactions(findings, page),
        *_tuned(findings, page),
        folded("All gains at the default learning rates as a table", _table("gains", gained, page, over)),
    )


def _averages(findings: Findings, page: Page) -> list[str]:
    averages = findings.averages
    if averages.empty:
        return []
    label = "; ".join(
        f"{row['intermediate']}, {row['size']}: {signed(row['gain'])} {interval(row['low'], row['high'])}"
        for row in averages.to_dict("records")
    )
    chart = average_chart(averages, sizes=findings.frames.size_names)
    caption = (
        f"Mean gain over targets that count as transfer ({findings.frames.said_judged}), 95 % intervals; pale: one seed"
    )
    return [heading("On average over targets"), page.chart("average_gains", chart, caption=caption, label=label)]


def _choices(findings: Findings, page: Page) -> list[str]:
    table = findings.choices
    if table.empty:
        return []
    rows = [
        [
            f"{row['size']} · {row['choice']}",
            number(row["test_score"]),
            Number(signed(row["gain"])) if pd.notna(row["gain"]) else Absent("no baseline"),
            interval(row["low"], row["high"])
            or Absent("" if row["choice"] == "none" else "one seed, no examples" if row["seeds"] else "no pair"),
            Number(row["seeds"]) if row["choice"] != "none" else Absent(""),
            Number(row["targets"]),
            row["intermediate"],
        ]
        for row in table.to_dict("records")
    ]
    columns = [
        "size · choice",
        "test score (%)",
        "over none",
        "95 % interval",
        "seeds paired",
        "targets",
        "intermediate task",
    ]
    caption = "One intermediate for all targets, or the best for each: chosen on English dev, judged on test, "
    caption += f"mean over {findings.frames.said_judged}"
    said = "; ".join(
        f"{row['choice']} {signed(row['gain'])} {interval(row['low'], row['high']) or '(no interval)'}"
        for row in table[(table["size"] == findings.first_size) & table["gain"].notna()].to_dict("records")
        if row["choice"] != "none"
    )
    explained = (
        "Gains are paired by seed, each choice at the rates that suit it, without the seed it was made on where two others "
        "were run. Where that seed is all there is, picking the best of several inflates the gain, and the interval does not "
        "show by how much."
    )
    return [
        heading("One for all, or one for each"),
        paragraph(
            f"{explained} Points over none on size {findings.first_size}: {said}." if said else explained, kind="note"
        ),
        page.table("choices", columns, rows, caption=caption, data=table),
    ]


def _interactions(findings: Findings, page: Page) -> list[str]:
    table = findings.interactions
    if table.empty:
        return []
    said = {
        "shrinks": "the gain shrinks as models grow",
        "grows": "the gain grows with the model",
        "unclear": "no change with size can be told",
    }
    rows = [
        [
            row["intermediate"],
            Number(signed(row["slope"], 2)),
            interval(row["low"], row["high"], 2) or Absent("under three sizes"),
            Number(row["sizes"]),
            Number(row["points"]),
            said[row["verdict"]],
        ]
        for row in table.to_dict("records")
    ]
    columns = ["intermediate", "points a doubling of the body", "95 % interval", "sizes", "runs", "verdict"]
    caption = f"Change of the mean gain with size ({findings.frames.said_judged})"
    return [
        heading("Does the gain shrink as models grow?"),
        page.table("interactions", columns, rows, caption=caption, data=table),
    ]


def _tuned(findings: Findings, page: Page) -> list[str]:
    tuned = findings.tuned[findings.tuned["gain"].notna()]
    if tuned.empty:
        return []
    explained = (
        "Each intermediate and none at the learning rates that were best for it on English dev, paired by seed: the fairer "
        "comparison, and the one whose winners were repeated with further seeds. Where two further seeds are paired, the one "
        "that a winner was chosen on is left out: it is the luckiest of several."
    )
    most = tuned.groupby(["size", "intermediate"])["n"].transform("max")
    repeated = tuned[most > 1]
    shown = repeated if len(repeated) else tuned
    note = (
        ""
        if len(repeated) == len(tuned) or repeated.empty
        else " Choices that were not repeated are in the exported table."
    )
    content = _table("gains_tuned", shown, page, f"mean over {findings.frames.said_judged}", data=tuned)
    return [
        heading("At the rates that suit each"),
        paragraph(explained + note, kind="note"),
        content if len(repeated) else folded("As a table: one seed each", content),
    ]


def _table(name: str, gained: pd.DataFrame, page: Page, over: str, *, data: pd.DataFrame | None = None) -> str:
    rows = [_row(row) for row in gained.to_dict("records")]
    columns = ["size", "intermediate", "target", "gain", "95 % interval", "p (Holm)", "verdict", "sd", "score (%)"]
    columns += ["with none (%)", "chance (%)", "seeds", "examples", "mark"]
    return page.table(name, columns, rows, caption=f"Gains in points, {over}", data=gained if data is None else data)


def _row(row: dict[Any, Any]) -> list[object]:
    absent = "one seed" if row["n"] == 1 else "no pair"
    return [
        row["size"],
        row["intermediate"],
        row["task"],
        Number(signed(row["gain"])) if pd.notna(row["gain"]) else Absent(row["reason"]),
        interval(row["low"], row["high"]) or Absent(absent),
        number(row["p_holm"], 3, absent="not counted" if row["mark"] else absent),
        row["verdict"] or Absent("no transfer" if row["mark"] else "no pair"),
        number(row["sd"], 2, absent="under two seeds"),
        number(row["score"]),
        number(row["score_none"]),
        number(row["chance"]),
        Number(row["n"]),
        "in the interval" if row["with_examples"] else "not recorded",
        row["mark"],
    ]
