"""The search: trials, importance of hyperparameters, rungs, savings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from analysis.charts.search import agreement_chart, importance_chart
from analysis.report.findings import Findings
from analysis.report.leads import search_lead
from analysis.report.page import Absent, Number, Page, count, folded, grid, number, paragraph, section
from analysis.tables.formatting import counted, interval
from analysis.tables.searches import FEWEST_TRIALS

TITLE = "Search"


def search_section(findings: Findings, page: Page) -> str:
    """Importances, agreement of rungs with the final ranking, savings, all trials, sizes."""
    frames = findings.frames
    if frames.trials.empty:
        return section(TITLE, paragraph("No trial is recorded."))
    figures, notes = _charts(findings, page)
    selection = frames.context["selection"]
    selected = f"Trials were selected on {selection}." if selection else "How trials were selected is not recorded."
    means = "Dev and test scores are means over the targets a trial finished: compare only rows with equally many."
    return section(
        TITLE,
        grid(*figures),
        paragraph(f"{selected} {means}", kind="note"),
        *notes,
        *_agreement(findings.agreement, page),
        *_ended(frames.sizes),
        folded("What stopping early and sharing stages saved", _savings(findings, page)),
        folded("All trials", _trials(findings, page)),
        _sizes(frames.sizes, page),
        lead=search_lead(findings),
    )


def _charts(findings: Findings, page: Page) -> tuple[list[str], list[str]]:
    """Figures, and notes on what cannot be drawn."""
    figures, notes = [], []
    sizes = findings.frames.size_names
    importances = findings.importances
    if importances["parameter"].nunique() > 1:  # one alone has all the importance
        label = "; ".join(
            f"{r['size']} {r['parameter']}: {r['importance']:.2f}" for r in importances.to_dict("records")
        )
        caption = "Importance of each hyperparameter for the dev score, by size (PED-ANOVA, as a share)"
        figures.append(
            page.chart("importances", importance_chart(importances, sizes=sizes), caption=caption, label=label)
        )
        page.tables["importances"] = importances
    elif importances.empty:
        text = f"Importance of hyperparameters needs {FEWEST_TRIALS} complete trials of a size, and scores that differ."
        notes.append(paragraph(text, kind="note"))
    if len(agreement := findings.agreement):
        label = "; ".join(
            f"{r['size']} after {r['rung']} targets: {r['kendall_tau']:.2f}" for r in agreement.to_dict("records")
        )
        caption = "Agreement of the ranking of trials after n targets with the final one, by size; bars: 95% intervals"
        figures.append(page.chart("rungs", agreement_chart(agreement, sizes=sizes), caption=caption, label=label))
        page.tables["rungs"] = agreement
    return figures, notes


def _agreement(agreement: pd.DataFrame, page: Page) -> list[str]:
    if agreement.empty:
        return []
    rows = [
        [
            f"{row['size']} · {row['rung']}",
            number(row["kendall_tau"], 2, absent="all equal"),
            interval(row["low"], row["high"], 2) or Absent("fewer than five trials"),
            "yes" if row["best_kept"] else "no",
            Number(row["trials"]),
        ]
        for row in agreement.to_dict("records")
    ]
    columns = [
        "size · targets finished",
        "Kendall's tau",
        "95% interval",
        "best trial in the better half",
        "complete trials",
    ]
    return [
        folded(
            "Agreement as a table",
            page.table(
                "rungs", columns, rows, caption="Agreement after n targets with the final ranking", data=agreement
            ),
        )
    ]


def _savings(findings: Findings, page: Page) -> str:
    table = findings.savings
    rows = [
        [
            row["size"],
            Number(row["trials"]),
            Number(f"{row['targets_not_trained']} of {row['targets_in_all']}"),
            Number(row["stages_made"]),
            Number(row["stages_asked"]),
            number(100 * (1 - row["stages_made"] / row["stages_asked"]) if row["stages_asked"] else None, 0),
        ]
        for row in table.to_dict("records")
    ]
    columns = [
        "size",
        "trials",
        "targets spared by stopping early",
        "stages run",
        "stages without sharing",
        "saved by sharing (%)",
    ]
    return page.table("savings", columns, rows, caption="Savings from stopping early and sharing stages", data=table)


def _trials(findings: Findings, page: Page) -> str:
    frames = findings.frames
    chosen = set(findings.best.itertuples(index=False, name=None))
    rows = [
        [
            row["trial_id"],
            row["size"],
            row["intermediate"] or "not recorded",
            _rate(row, "lr_intermediate", absent="none"),
            _rate(row, "lr_target"),
            count(row["seed"]),
            row["outcome"].replace("_", " "),
            number(row["dev_score"]),
            number(row["test_score"]),
            count(row["targets_finished"]),
            "yes" if row["default_cell"] else "no",
            "best of its size"
            if (row["size"], row["trial_id"]) in chosen
            else row["reason"] or (f"repeats {row['repeats']}" if row["repeats"] else ""),
        ]
        for row in frames.trials.to_dict("records")
    ]
    outcomes = frames.searched["outcome"].value_counts()
    caption = f"{counted(len(frames.searched), 'trial')}: "
    caption += ", ".join(f"{n} {str(name).replace('_', ' ')}" for name, n in outcomes.items())
    if repeats := len(frames.trials) - len(frames.searched):
        caption += f"; and {counted(repeats, 'repeat')} with other seeds"
    columns = [
        "trial",
        "size",
        "intermediate task",
        "intermediate learning rate",
        "target learning rate",
        "seed",
        "outcome",
        "dev (%)",
        "test (%)",
    ]
    return page.table(
        "trials", [*columns, "targets finished", "default rates", "note"], rows, caption=caption, data=frames.trials
    )


def _ended(sizes: pd.DataFrame) -> list[str]:
    """Why searches ended before their budget was used, where trials went to the front."""
    reasons = zip(sizes["size"], sizes["search_ended"].fillna(""), strict=True)  # earlier versions saved none
    return [
        paragraph(
            f"The search of {size} ended before its budget was used. {reason[:1].upper()}{reason[1:]}.", kind="note"
        )
        for size, reason in reasons
        if reason
    ]


def _sizes(sizes: pd.DataFrame, page: Page) -> str:
    if sizes.empty:
        return paragraph("No size is recorded.")
    rows = [
        [
            row["size"],
            number(row["params_m"], 2),
            number(row["params_body_m"], 2),
            *(count(row[name]) for name in ("trials", "pruned", "failed")),
            number(row["wall_s"], 0),
            row["best_trial"] or "not recorded",
        ]
        for row in sizes.to_dict("records")
    ]
    columns = [
        "size",
        "parameters (M)",
        "body parameters (M)",
        "trials",
        "stopped early",
        "failed",
        "wall time (s)",
        "best trial",
    ]
    return page.table("sizes", columns, rows, caption="Sizes searched", data=sizes)


def _rate(trial: Mapping[Any, Any], name: str, *, absent: str = "not recorded") -> str:
    """The learning rate that a trial trained at: the recipe's times its size's factor (not recorded before)."""
    factor = 1.0 if pd.isna(trial["rate_factor"]) else trial["rate_factor"]
    return Absent(absent) if pd.isna(trial[name]) else Number(f"{trial[name] * factor:g}")
