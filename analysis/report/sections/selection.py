"""What choosing on English dev costs, beside choices by other signals, and a choice for each target beside one for all."""

from __future__ import annotations

from typing import Any

import pandas as pd

from analysis.report.findings import Findings
from analysis.report.page import Absent, Number, Page, folded, number, paragraph, section
from analysis.report.sections.zero_shot import SIGN
from analysis.tables.formatting import interval, signed
from analysis.tables.selection.candidates import ENGLISH_DEV, EVERY_TRIAL, ZERO_SHOT
from analysis.tables.selection.costs import ALL_TARGETS

TITLE = "What choosing on English dev costs"
_ONE = "one for all"
_VERDICTS = {
    "none": "none",
    "costs": "costs",
    "gains": "better than the best on half",
    "unclear": "undecided",
    "one seed": "one seed: not tested",
}


def selection_section(findings: Findings, page: Page) -> str:
    """Costs over all targets by selector, costs by target of English dev, one choice for each target beside one for all."""
    costs = findings.selection_costs
    if costs.empty:
        return section(TITLE, lead="No size has two complete trials, so there was nothing to choose between.")
    over = f"mean over {findings.frames.judged_languages}"
    return section(
        TITLE,
        _by_selector(costs, page, over),
        folded("How this is measured", "".join(paragraph(text, kind="note") for text in _explanations(costs))),
        *_by_target(costs, page, over),
        *_per_target(findings, page, over),
        lead=_lead(costs),
    )


def _explanations(costs: pd.DataFrame) -> list[str]:
    judged = (
        "Both are judged by repeats with other seeds than the choice was made on."
        if (costs["seeds"] > 1).any()
        else "With one seed a trial stands for itself: the cost is that of these trained models, and nothing is tested."
    )
    return [
        "The search ranks trials on English dev. Labels in the target languages might have chosen another trial. Its distance "
        "on the examples it was chosen by is above zero even among equal trials, because the best of several noisy scores "
        "was picked by looking: that is the apparent distance. For the cost, the best trial on a random half of the test "
        f"examples is compared on the other half, both ways, over several random halves. {judged}",
        "Confidence and agreement between languages need no label. Confidence is the mean probability of the model's answers "
        "on the target languages' test texts; in sentence retrieval, the share of sentences that find each other. Agreement "
        "is the share of parallel examples with one answer in two languages; a model with one answer agrees fully. "
        "They are shown for comparison: no trial was ranked on them.",
    ]


def _lead(costs: pd.DataFrame) -> str:
    """The cost of English dev for each size, in a sentence: among zero-shot trials, and where there are others, among all."""
    rows = costs[(costs["task"] == ALL_TARGETS) & (costs["scope"] == _ONE) & (costs["selector"] == ENGLISH_DEV)]
    rows = rows[rows["cost"].notna()]
    zero_shot, every = (rows[rows["among"] == among] for among in (ZERO_SHOT, EVERY_TRIAL))
    if rows.empty:
        return "What choosing on English dev costs is not known: its trials lack scores by example."
    what = "Cost of choosing on English dev, against the best trial, as a mean over targets"
    sentences = [f"{what}: {_told(zero_shot)}."] if len(zero_shot) else []
    if len(every):
        sentences.append(
            f"With trials that are not zero-shot: {_told(every)}."
            if sentences
            else f"{what}, with trials that are not zero-shot, as no size has two others: {_told(every)}."
        )
    return " ".join(sentences)


def _told(rows: pd.DataFrame) -> str:
    """Costs with their intervals; one seed is not tested, and its interval covers the test examples alone."""

    def cost(row: dict[Any, Any]) -> str:
        return f"{row['size']} {signed(row['cost'])} points {interval(row['low'], row['high'])}".strip()

    untested = rows["seeds"] < 2
    if untested.all():
        return f"{'; '.join(map(cost, rows.to_dict('records')))} (one seed: not tested)"
    return "; ".join(
        f"{cost(row)}{' (one seed: not tested)' if row['seeds'] < 2 else ''}" for row in rows.to_dict("records")
    )


def _by_selector(costs: pd.DataFrame, page: Page, over: str) -> str:
    shown = costs[costs["task"] == ALL_TARGETS]
    rows = [
        [_named(row, row["selector"], row["scope"]), *_cells(row), _chosen(row) or Absent("")]
        for row in shown.to_dict("records")
    ]
    caption = f"Cost of each way to choose, mean over targets, in points; {over}{_legend(shown)}"
    columns = ["size · chosen by · scope", *_COLUMNS, "chosen"]
    return page.table("selection_costs", columns, rows, caption=caption, data=costs)


def _by_target(costs: pd.DataFrame, page: Page, over: str) -> list[str]:
    """Of English dev alone; the exported table has the others."""
    shown = costs[(costs["task"] != ALL_TARGETS) & (costs["selector"] == ENGLISH_DEV)]
    if shown.empty:
        return []
    rows = [
        [_named(row, row["task"], row["scope"]), _chosen(row) or Absent("none"), *_cells(row)]
        for row in shown.to_dict("records")
    ]
    caption = f"Cost of choosing on English dev by target, in points; {over}{_legend(shown)}"
    columns = ["size · target · scope", "chosen", *_COLUMNS]
    table = page.table("selection_costs_by_target", columns, rows, caption=caption, data=shown)
    return [folded("By target", table)]


def _named(row: dict[Any, Any], *what: str) -> str:
    return " · ".join([row["size"], *what, *([EVERY_TRIAL] if row["among"] == EVERY_TRIAL else [])])


def _chosen(row: dict[Any, Any]) -> str:
    """The choices, each with a sign where it is not zero-shot."""
    marked = {text.partition(": ")[0] for text in row["marked"].split("; ")}
    return "; ".join(f"{name} {SIGN}" if name in marked else name for name in row["chosen"].split("; ") if name)


def _legend(shown: pd.DataFrame) -> str:
    if (shown["among"] == ZERO_SHOT).all():
        return ""
    reasons = dict.fromkeys(reason for text in shown["marked"] for reason in text.split("; ") if reason)
    named = f". {SIGN} {'; '.join(reasons)}" if reasons else ""
    return f'. Rows without "{EVERY_TRIAL}" are among zero-shot trials alone{named}'


# p and seeds are in the exported table: with them the table is wider than the page.
_COLUMNS = ("test (%)", "best (%)", "apparent", "cost", "95% interval", "verdict")


def _cells(row: dict[Any, Any]) -> list[str]:
    if pd.isna(row["score"]):
        return [Absent(row["reason"]), *[Absent("")] * (len(_COLUMNS) - 1)]
    known = pd.notna(row["cost"])
    return [
        number(row["score"]),
        number(row["best"]),
        Number(signed(row["apparent"])),
        Number(signed(row["cost"])) if known else Absent(row["reason"]),
        interval(row["low"], row["high"]) or Absent("unknown"),
        _VERDICTS[row["verdict"]] if known else Absent(""),
    ]


def _per_target(findings: Findings, page: Page, over: str) -> list[str]:
    table = findings.per_target_choices
    rows = [
        [
            f"{row['size']} · {row['selector']}",
            number(row["score_one"], absent=row["reason"]),
            number(row["score_each"], absent=""),
            Number(signed(row["difference"])) if pd.notna(row["difference"]) else Absent(""),
            interval(row["low"], row["high"]) or Absent("unknown"),
            row["one"] or Absent("none"),
            row["each"] or Absent("none"),
        ]
        for row in table.to_dict("records")
    ]
    explained = (
        "The search chooses one trial for all targets. Phang et al. (2020) choose the intermediate task for each target, which "
        "can only be done if each may have a model of its own. Both choices are made without test scores. A target without "
        "an English dev set gets the one choice."
    )
    columns = ["size · chosen by", "for all (%)", "for each (%)", "difference", "95% interval", "for all", "for each"]
    caption = f"One trial for all targets beside one for each, among zero-shot trials; mean over targets, {over}"
    shown = page.table("per_target_choices", columns, rows, caption=caption, data=table)
    return [folded("One choice for all targets, or one for each", paragraph(explained, kind="note") + shown)]
