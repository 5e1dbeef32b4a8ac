"""Mean gains over targets: their chart, their table, and what they cost in training."""

from __future__ import annotations

from typing import Any

import pandas as pd

from analysis.charts.gains import average_chart
from analysis.report.findings import Findings
from analysis.report.page import Absent, Number, Page, folded, heading, number, p_cell
from analysis.report.sections.zero_shot import marked
from analysis.tables.formatting import counted, interval, signed

_NAMES = ("gain", "low", "high", "p_holm", "rank", "seeds", "targets", "collapsed", "replaced")


def average_gains(findings: Findings, page: Page) -> list[str]:
    """Chart and table of the mean gains, and what they cost in training; nothing where there are none."""
    averages = findings.averages
    if averages.empty:
        return []
    label = "; ".join(
        f"{row['intermediate']}, {row['size']}: {signed(row['gain'])} {interval(row['low'], row['high'])}"
        for row in averages.to_dict("records")
    )
    chart = average_chart(averages, sizes=findings.frames.size_names)
    caption = f"Mean gain over targets without a contamination flag ({findings.frames.judged_languages})"
    if averages["low"].notna().any():
        caption += ", 95% intervals"
    if (averages["seeds"] == 1).any():
        caption += "; pale: one seed"
    return [
        heading("Average over targets"),
        page.chart("average_gains", chart, caption=caption, label=label),
        folded("Average gains as a table", _average_table(findings, page)),
        *_break_even(findings, page),
    ]


def _break_even(findings: Findings, page: Page) -> list[str]:
    """What mean gains cost in training time, where the study recorded it."""
    table = findings.break_even
    if table.empty:
        return []
    rows = [
        [
            row["size"],
            row["intermediate"],
            Number(signed(row["gain"])),
            interval(row["low"], row["high"]) or Absent("one seed, no examples"),
            number(row["train_s"], 0),
            number(row["extra_s"], 0, absent="none was not trained"),
            number(row["gain_per_hour"], absent="no longer than none"),
        ]
        for row in table.to_dict("records")
    ]
    columns = [
        "size",
        "intermediate task",
        "mean gain",
        "95% interval",
        "training (s)",
        "beyond none (s)",
        "gain per hour",
    ]
    caption = "Mean gains (as above) and the training that a choice takes alone, from the encoder to its last target: a merge "
    caption += "counts all its parts. Seconds are those of the machine that trained each stage"
    return [folded("What gains cost in training", page.table("break_even", columns, rows, caption=caption, data=table))]


def _average_table(findings: Findings, page: Page) -> str:
    """Where a target is at chance also the mean without it, with the interval and p that the headline rests on."""
    data = findings.averages
    names = list(_NAMES)
    both = bool(findings.at_chance)
    if both:
        above = findings.averages_above_chance[["size", "intermediate", *names]]
        renamed = above.rename(columns={name: f"{name}_above_chance" for name in names})
        data = data.merge(renamed, on=["size", "intermediate"], how="left")
    rows = [
        [
            row["size"],
            marked(row),
            *_average_cells(row, ""),
            *(_average_cells(row, "_above_chance") if both else []),
        ]
        for row in data.to_dict("records")
    ]
    shown = ["mean gain", "95% interval", "corrected p (Holm)", "rank", "seeds", "targets", "collapsed targets"]
    columns = ["size", "intermediate task", *shown, *([f"{name}, above chance" for name in shown] if both else [])]
    caption = "Mean gains over targets without a contamination flag, in points"
    caption += "; then over those above chance, as in the headline" if both else ""
    caption += ". Tasks of a size that are not told from the best of their group share its rank"
    return page.table("average_gains", columns, rows, caption=caption, data=data)


def _average_cells(row: dict[Any, Any], suffix: str) -> list[str]:
    """Mean gain, interval, corrected p, rank, seeds, targets, and targets left out as collapsed, with seeds replaced for it."""
    gain, low, high, p, rank, seeds, targets, collapsed, replaced = (row[f"{name}{suffix}"] for name in _NAMES)
    if pd.isna(gain):
        return [Absent("no such target")] * 7
    return [
        Number(signed(gain)),
        interval(low, high) or Absent("one seed, no examples"),
        p_cell(p, absent=untested(seeds)),
        Absent(untested(1)) if pd.isna(rank) else Number(int(rank)),
        Number(int(seeds)),
        Number(int(targets)),
        f"{int(collapsed)}; {counted(int(replaced), 'seed')} replaced" if replaced else Number(int(collapsed)),
    ]


def untested(seeds: int) -> str:
    """Why a gain of so many seeds has no verdict."""
    return "one seed: not tested" if seeds == 1 else "seeds do not differ: not tested"
