"""The gains of intermediate training."""

from __future__ import annotations

from typing import Any

import pandas as pd

from analysis.charts.gains import gain_intervals
from analysis.charts.heatmap import OVER_TASKS, gains_heatmap, labels_fit
from analysis.report.findings import Findings
from analysis.report.leads import gains_lead
from analysis.report.page import Absent, Number, Page, folded, heading, number, p_cell, paragraph, section
from analysis.report.sections.average_gains import average_gains, untested
from analysis.report.sections.zero_shot import SIGN, marked, remark, zero_shot_part
from analysis.store.names import VERDICT_NAMES
from analysis.tables.chance import DEV_POINTS, NEAR_CHANCE_POINTS
from analysis.tables.formatting import counted, interval, signed

TITLE = "What intermediate training buys"
_LABELS_PX, _COLUMN_PX, _LETTER_PX = 210, 52, 7
_FLAGS = {
    "same data": "* the intermediate task shares training data with the target",
    "leak": "! the intermediate task trains on data the target is scored on",
    "seen": "† others trained the checkpoint that stands for the intermediate task on data of the target",
}


def gains_section(findings: Findings, page: Page) -> str:
    """Heat map, intervals, averages, ways to choose, change with size, tuned gains."""
    gained = findings.gained
    if gained.empty:
        return section(
            TITLE, paragraph("No intermediate task or no target is recorded, so there is nothing to compare.")
        )
    over = f"mean over {findings.frames.judged_languages}"
    return section(
        TITLE,
        *_charts(findings, page, over),
        folded(
            "How gains are compared and tested",
            "".join(paragraph(text, kind="note") for text in _explanations(findings)),
        ),
        folded("All gains at the default learning rates as a table", _table("gains", gained, page, over)),
        *average_gains(findings, page),
        *zero_shot_part(findings, page),
        *_choices(findings, page),
        *_interactions(findings, page),
        *_tuned(findings, page, over),
        *_targets(findings, page),
        *_collapsed(findings, page),
        lead=gains_lead(findings),
    )


def _explanations(findings: Findings) -> list[str]:
    flagged = sorted(set(findings.gained["mark"]) - {""})
    flags = f" Contamination flags, for gains that are not transfer: {'; '.join(_FLAGS[name] for name in flagged)}."
    return [
        "Points of test score gained over no intermediate task, at the same size, learning rates and seed. Verdicts use the "
        f"mean over {findings.frames.judged_languages}; single languages and the other mean are shown but not tested. "
        "Blue: gain. Orange: loss. Grey: nothing to compare with. ▲ and ▼: different from zero at 5% after Holm's correction. "
        "=: within one point of zero at 95%. No sign: undecided, or one seed and not tested."
        + (flags if flagged else ""),
        "Intervals and verdicts rest on different things. An interval is for one comparison alone. A verdict rests on the "
        "corrected p: corrected for all comparisons of its table. So an interval can exclude zero where the verdict is "
        "undecided. Without any effect, 5% of studies have a false discovery in a given "
        "table, and more than 5% have one in any table.",
    ]


def _least_px(gained: pd.DataFrame) -> int:
    """The width below which the heat map scrolls: names above its columns must not cover each other."""
    names = [*gained["intermediate"].unique(), OVER_TASKS]
    column_px = _COLUMN_PX
    if labels_fit(names):
        column_px = max(column_px, _LETTER_PX * max(map(len, names)))
    return _LABELS_PX + column_px * len(names)


def _charts(findings: Findings, page: Page, over: str) -> list[str]:
    gained, size = findings.gained, findings.first_size
    label = "; ".join(
        f"{row['size']}, {row['intermediate']} on {row['task']}: {signed(row['gain']) or row['reason']}"
        for row in gained.to_dict("records")
    )
    figures = [
        page.chart(
            "gains",
            gains_heatmap(gained, findings.by_language, findings.averages, size=size, language=findings.first_language),
            caption=_heatmap_caption(over),
            label=label,
            least_px=_least_px(gained),
        )
    ]
    known = gained[gained["gain"].notna()]
    if len(known):
        caption = (
            f"Points gained over no intermediate task with 95% intervals, for the chosen size ({over}); pale: one seed"
        )
        figures.append(page.chart("gain_intervals", gain_intervals(known, size=size), caption=caption, label=label))
    return figures


def _heatmap_caption(over: str) -> str:
    return (
        "Points gained over no intermediate task, for the chosen size and language "
        f"(initially the {over}). Rows are targets, columns intermediate tasks, best on average first, with the "
        "means of those without a flag. ▲ gain and ▼ loss, told from zero after Holm's correction; = within one point of zero; "
        "no sign: undecided, or one seed and not tested; * and !: flagged, not transfer"
    )


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
            _named(findings, row["intermediate"]),
        ]
        for row in table.to_dict("records")
    ]
    columns = ["size · choice", "test score (%)", "gain over none", "95% interval", "paired seeds", "targets"]
    caption = "One intermediate task for all targets, or the best for each: chosen on English dev, judged on test, "
    caption += f"mean over {findings.frames.judged_languages}"
    gains = "; ".join(
        f"{row['choice']} {signed(row['gain'])} {interval(row['low'], row['high']) or '(no interval)'}"
        for row in table[(table["size"] == findings.first_size) & table["gain"].notna()].to_dict("records")
        if row["choice"] != "none"
    )
    explained = (
        "Gains are paired by seed, each choice at its own best learning rates. The seed a choice was made on is left out if "
        "at least two others were run. If it is the only one, picking the best of several inflates the gain by an amount that "
        "the interval does not show. A test score is that of the chosen trial, so it can differ from none's by another amount "
        "than the gain. Nothing is tested here."
    )
    return [
        heading("One intermediate task for all targets, or one for each"),
        paragraph(f"{explained} Gains on size {findings.first_size}: {gains}." if gains else explained, kind="note"),
        page.table(
            "choices", [*columns, "intermediate task"], rows, caption=caption, data=table, fold="Choices as a table"
        ),
    ]


def _interactions(findings: Findings, page: Page) -> list[str]:
    table = findings.interactions
    if table.empty:
        return []
    verdicts = {
        "shrinks": "shrinks as models grow",
        "grows": "grows with the model",
        "unclear": "undecided",
    }
    rows = [
        [
            _named(findings, row["intermediate"]),
            Number(signed(row["slope"], 2)),
            interval(row["low"], row["high"], 2) or Absent("fewer than three sizes"),
            p_cell(row["p_holm"], absent="two sizes: not tested"),
            verdicts[row["verdict"]] if pd.notna(row["p_holm"]) else Absent("not tested"),
            Number(row["sizes"]),
            Number(row["points"]),
        ]
        for row in table.to_dict("records")
    ]
    columns = ["intermediate task", "points per doubling of the body", "95% interval", "corrected p (Holm)", "verdict"]
    caption = (
        f"Change of the mean gain with size ({findings.frames.judged_languages}). Intervals are for one row alone; "
    )
    caption += f"verdicts rest on p, corrected for {counted(len(table), 'row')}"
    return [
        heading("Does the gain change with size?"),
        page.table("interactions", [*columns, "sizes", "runs"], rows, caption=caption, data=table),
    ]


def _tuned(findings: Findings, page: Page, over: str) -> list[str]:
    tuned = findings.tuned[findings.tuned["gain"].notna()]
    if tuned.empty:
        return []
    explained = (
        "Each intermediate task and none at the learning rates best for it on English dev, paired by seed. This is the fairer "
        "comparison, and the one whose winners were repeated with further seeds. The seed a winner was chosen on is the "
        "luckiest of several; it is left out where two further seeds are paired."
    )
    most = tuned.groupby(["size", "intermediate"])["n"].transform("max")
    repeated = tuned[most > 1]
    shown = repeated if len(repeated) else tuned
    if 0 < len(repeated) < len(tuned):
        explained += " Choices that were not repeated are in the exported table only."
    content = _table("gains_tuned", shown, page, over, data=tuned, fold=bool(len(repeated)))
    title, note = "At the best learning rates of each", paragraph(explained, kind="note")
    if not len(repeated):
        return [folded(f"{title}: one seed, not tested", note + content)]
    return [heading(title), note, content]


def _targets(findings: Findings, page: Page) -> list[str]:
    """The best size's score on each target against chance; shown where some target is at chance."""
    table = findings.targets
    if not table["at_chance"].any():
        return []
    rows = [
        [row["task"], number(row["chance"]), row["size"], number(row["score"]), "yes" if row["at_chance"] else "no"]
        for row in table.to_dict("records")
    ]
    explained = (
        "A target is at chance if no size scores above chance on it. The mean score of a size, over its trials best on English "
        f"dev and their repeats, must be more than {NEAR_CHANCE_POINTS:g} point and more than its 95% interval above chance. "
        "The headline's means leave such targets out."
    )
    columns = ["target", "chance (%)", "best size", "its mean score (%)", "at chance"]
    return [
        heading("Targets at chance"),
        paragraph(explained, kind="note"),
        page.table("targets", columns, rows, caption="Best size on each target against chance", data=table),
    ]


def _collapsed(findings: Findings, page: Page) -> list[str]:
    """Runs at chance after training, by size, intermediate task and target; nothing where there is none."""
    runs = findings.collapsed
    if runs.empty:
        return []
    rows = []
    for (size, intermediate, task), group in runs.groupby(["size", "intermediate", "task"], sort=False):
        scores = (number(group[name].mean()) for name in ("dev_score", "score", "chance"))
        never = group["reason"].str.contains("never fell").sum()
        unknown = group["reason"].str.contains("not recorded").all()
        loss = Absent("not recorded") if unknown else Number(f"{never} of {len(group)}")
        by = ", ".join(filter(None, group["replaced_by"]))
        rows.append([size, intermediate, task, Number(len(group)), *scores, loss, by or Absent("none")])
    explained = (
        "After training these runs are at chance on a target that other runs learned: within "
        f"{DEV_POINTS:g} points of chance on English dev, and on test within {NEAR_CHANCE_POINTS:g} point or the 95% interval. "
        "That says that training failed, not what was transferred. Such a run is in no gain and in no mean gain. It counts in "
        "its trial's own score, in the choice of the best trial and in what that choice gains. `run --retry-collapsed` "
        "runs it, and what it is compared with, with another seed, which takes the whole seed's place in mean gains."
    )
    columns = ["size", "intermediate task", "target", "runs", "dev score (%)", "test score (%)", "chance (%)"]
    columns += ["loss never fell", "in its place"]
    caption = "Runs at chance after training; mean scores"
    return [
        heading("Collapsed runs"),
        paragraph(explained, kind="note"),
        page.table("collapsed", columns, rows, caption=caption, data=runs, fold="Collapsed runs as a table"),
    ]


def _table(
    name: str, gained: pd.DataFrame, page: Page, over: str, *, data: pd.DataFrame | None = None, fold: bool = False
) -> str:
    rows = [_row(row) for row in gained.to_dict("records")]
    columns = ["size", "intermediate task", "target", "gain", "95% interval", "corrected p (Holm)", "verdict"]
    columns += ["could have seen", "sd"]
    columns += ["score (%)", "with none (%)", "chance (%)", "seeds", "collapsed", "examples", "contamination flag"]
    caption = f"Gains in points, {over}. Could have seen: the smallest true gain that the corrected test "
    caption += "tells from zero with 80% power, given this spread"
    return page.table(
        name,
        columns,
        rows,
        caption=caption,
        data=gained if data is None else data,
        fold="Gains as a table" if fold else "",
    )


def _row(row: dict[Any, Any]) -> list[object]:
    no_value = untested(row["n"]) if row["n"] else "no pair"
    return [
        row["size"],
        marked(row),
        row["task"],
        Number(signed(row["gain"])) if pd.notna(row["gain"]) else Absent(row["reason"]),
        interval(row["low"], row["high"]) or Absent("one seed, no examples" if row["n"] else "no pair"),
        p_cell(row["p_holm"], absent="not tested" if row["mark"] else no_value),
        _verdict(row),
        number(row["detectable_corrected"], absent="not tested" if row["mark"] else f"n/a, {no_value}"),
        number(row["sd"], 2, absent="fewer than two seeds"),
        number(row["score"]),
        number(row["score_none"]),
        number(row["chance"]),
        Number(row["n"]),
        Number(row["collapsed"]),
        "in the interval" if row["with_examples"] else "not recorded",
        ", ".join(filter(None, _remarks(row))),
    ]


def _remarks(row: dict[Any, Any]) -> tuple[str, ...]:
    """What is to be known of a gain, "" where there is nothing."""
    return (
        row["mark"],
        f"seen by the encoder: {row['seen']}" if row["seen"] else "",
        remark(row["not_zero_shot"]),
    )


def _named(findings: Findings, intermediate: str) -> str:
    """An intermediate task, or one for each target, with a sign where it is trained in other languages than English."""

    def signed_name(part: str) -> str:
        name, frames = part.rpartition(": ")[2], findings.frames
        return f"{part} {SIGN}" if frames.trained_languages(name) or frames.languages_unknown(name) else part

    return "; ".join(map(signed_name, intermediate.split("; ")))


def _verdict(row: dict[Any, Any]) -> str:
    if row["mark"]:
        return Absent("not transfer")
    if row["n"] == 1:
        return Absent(VERDICT_NAMES["one seed"])
    return VERDICT_NAMES[row["verdict"]] if row["verdict"] else Absent("no pair")
