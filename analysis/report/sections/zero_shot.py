"""Part of the section on gains: intermediate tasks that are trained in other languages than English."""

from __future__ import annotations

from typing import Any

import pandas as pd

from analysis.report.findings import Findings
from analysis.report.page import Absent, Number, Page, folded, heading, number, paragraph
from analysis.store.frames import UNKNOWN
from analysis.tables.formatting import signed

SIGN = "‡"  # trained in a language besides English, or in unknown ones
SEEN = "†"  # the encoder that the targets start from has seen data of the target


def zero_shot_part(findings: Findings, page: Page) -> list[str]:
    """Gains apart by whether the intermediate task is trained in the language; nothing where all are in English alone."""
    averages, gained, frames = findings.split_averages, findings.split_gains, findings.frames
    unknown = [name for name in frames.intermediates if frames.languages_unknown(name)]
    if gained.empty and not unknown:
        return []
    columns = [
        "size",
        "intermediate task",
        "trained in",
        "mean gain there",
        "mean gain elsewhere",
        "sd",
        "targets",
        "seeds",
    ]
    rows = [
        [row["size"], row["intermediate"], *_means(row), *map(Number, (row["targets"], row["seeds"]))]
        for row in _rows(averages)
    ]
    caption = (
        "Mean gains in points in languages that the intermediate task is trained in, and in those that it is not, "
    )
    caption += "English in neither; over targets with both. Only the second is zero-shot. Not tested"
    single = "Gains in points on each target, apart in the same way"
    listed = [
        "size",
        "intermediate task",
        "target",
        "trained in",
        "gain there",
        "gain elsewhere",
        "sd",
        "languages",
        "seeds",
    ]
    by_target = [
        [row["size"], row["intermediate"], row["task"], *_means(row), *map(Number, (row["untrained"], row["n"]))]
        for row in _rows(gained)
    ]
    return [
        heading("Trained in other languages than English"),
        paragraph(
            f"{SIGN}: the intermediate task has labelled training data in a language of the target besides English. Its gains "
            "in means over languages are not zero-shot, and are not to be compared with those of English tasks; the mean over "
            "the other languages is."
            + (
                f" Of {', '.join(unknown)} these languages are unknown: no gain of it is known to be zero-shot."
                if unknown
                else ""
            ),
            kind="note",
        ),
        page.table("gains_by_training", columns, rows, caption=caption, data=averages) if rows else "",
        folded("By target", page.table("gains_by_training_and_target", listed, by_target, caption=single, data=gained))
        if by_target
        else "",
    ]


def marked(row: dict[Any, Any]) -> str:
    """The name of a row's intermediate task, with a sign where its gain is not zero-shot, or may not be."""
    return f"{row['intermediate']} {SIGN}" if row["not_zero_shot"] else str(row["intermediate"])


def remark(not_zero_shot: str) -> str:
    """What a gain's `not_zero_shot` says, as a phrase; "" where it is zero-shot."""
    if not_zero_shot == UNKNOWN:
        return "languages of its labelled data unknown"
    return f"not zero-shot in {not_zero_shot}" if not_zero_shot else ""


def _means(row: dict[Any, Any]) -> list[str]:
    return [
        row["trained_languages"],
        Number(signed(row["gain_trained"])),
        Number(signed(row["gain_untrained"])) if pd.notna(row["gain_untrained"]) else Absent("no other language"),
        number(row["sd_untrained"], 2, absent="fewer than two seeds"),
    ]


def _rows(table: pd.DataFrame) -> list[dict[Any, Any]]:
    return table.to_dict("records")
