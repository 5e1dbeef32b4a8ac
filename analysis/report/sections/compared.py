"""Comparison with another study."""

from __future__ import annotations

from typing import Any

import pandas as pd

from analysis.report.findings import Findings
from analysis.report.page import Absent, Number, Page, number, p_cell, paragraph, section
from analysis.store.frames import languages_in_words
from analysis.store.names import METRIC_DIGITS, METRIC_NAMES, VERDICT_NAMES
from analysis.tables.comparison.scores import PAIRED
from analysis.tables.formatting import interval, quantity, signed


def compared_section(findings: Findings, page: Page) -> str:
    """Scores, speeds and settings beside those of the other study; "" without one."""
    comparison = findings.comparison
    if comparison is None:
        return ""
    return section(
        f"Compared with {comparison.other}",
        _scores(comparison.scores, page),
        *_speeds(comparison.speeds, page),
        *_settings(comparison.settings, page),
    )


def _scores(scores: pd.DataFrame, page: Page) -> str:
    if scores.empty:
        return paragraph(
            "The two studies share no default cell of one size, intermediate task and target with the same test data."
        )
    rows = [
        [
            f"{row['size']} · {row['intermediate']} · {row['task']}",
            number(row["score"]),
            number(row["score_other"]),
            Number(signed(row["difference"])),
            interval(row["low"], row["high"]) or Absent("one seed, no examples"),
            _p_cell(row),
            Number(row["n"]) if row["n"] == row["n_other"] else f"{row['n']} and {row['n_other']}",
            "paired" if row["pairing"] == PAIRED else row["pairing"],
            VERDICT_NAMES[row["verdict"]] if _seeds(row) > 1 else Absent("not tested"),
        ]
        for row in scores.to_dict("records")
    ]
    columns = ["size · intermediate task · target", "this (%)", "other (%)", "other − this", "95% interval"]
    columns += ["corrected p (Holm)", "seeds", "pairing", "verdict"]
    judged_by = dict(zip(scores["task"], scores["judged_by"], strict=True))
    caption = f"Test scores of default cells in both, paired by seed, mean over {languages_in_words(judged_by)}. Intervals are "
    caption += "for one row alone; verdicts rest on p, corrected for the table"
    return page.table("compared_scores", columns, rows, caption=caption, data=scores, fold="Scores in both studies")


def _seeds(row: dict[Any, Any]) -> int:
    return int(min(row["n"], row["n_other"]))


def _p_cell(row: dict[Any, Any]) -> str:
    """One seed tells nothing about training, though the examples may tell two models apart."""
    if _seeds(row) == 1:
        return Absent("one seed: not tested")
    return p_cell(row["p_holm"], absent="seeds do not differ: not tested")


def _speeds(speeds: pd.DataFrame, page: Page) -> list[str]:
    if speeds.empty:
        return []
    rows = [
        [
            f"{row['size']} · {row['variant']}",
            METRIC_NAMES[row["metric"]],
            Number(quantity(row["value"], METRIC_DIGITS[row["metric"]])),
            Number(quantity(row["value_other"], METRIC_DIGITS[row["metric"]])),
            Number(f"{row['ratio']:.2f}"),
            "yes" if row["same_hardware"] else "NO",
        ]
        for row in speeds.to_dict("records")
    ]
    columns = ["size · serving variant", "metric", "this", "other", "other / this", "same hardware"]
    return [
        page.table(
            "compared_speeds",
            columns,
            rows,
            caption="Benchmarks in both",
            data=speeds,
            fold="Benchmarks in both studies",
        )
    ]


def _settings(settings: pd.DataFrame, page: Page) -> list[str]:
    if settings.empty:
        return []
    rows = [[row["setting"], row["this"], row["other"]] for row in settings.to_dict("records")]
    columns = ["setting", "this", "other"]
    return [page.table("compared_settings", columns, rows, caption="Recorded settings that differ", data=settings)]
