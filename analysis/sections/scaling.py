"""Score and speed against size, and published figures beside them."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from analysis.charts.scaling import published_chart, scaling_chart
from analysis.findings import Findings
from analysis.frames import MEAN
from analysis.page import Number, Page, folded, grid, heading, number, paragraph, section
from analysis.scaling import FEWEST

TITLE = "Size"


def scaling_section(findings: Findings, page: Page) -> str:
    """Charts by quantity, the fits as a table, published figures."""
    points, fits = findings.points, findings.fits
    if points.empty:
        return section(
            TITLE, paragraph("No size has both body parameters and a result.", kind="note"), *_published(findings, page)
        )
    explained = (
        "Body parameters leave the embeddings out, which are looked up, not multiplied. Curves: a power law, or a saturating "
        "one where it predicts left-out sizes better; dotted where they are extrapolation; bands of 95 %. Bars: one standard "
        "deviation over seeds. Operations a sample are proportional to the body (2 a parameter and token): the same curves."
    )
    few = points.groupby("what")["size"].nunique()
    if (few < FEWEST).any():
        explained += f" No curve is drawn through fewer than {FEWEST} sizes; here there are {int(few.max())} at most."
    figures = []
    for what, group in points.groupby("what", sort=False):
        own = {}
        for (about, series, form), fit in sorted(fits.items(), key=lambda item: -item[1].leave_one_out):
            if about == what:  # the last of a series, with the smallest error, is the one that is drawn
                own[series] = (form, fit)
        label = "; ".join(f"{row['series']}, {row['size']}: {row['value']:.2f}" for row in group.to_dict("records"))
        name = "scaling_" + "".join(letter if letter.isalnum() else "_" for letter in str(what).split(" (")[0])
        chart = scaling_chart(group, own, what=str(what))
        figures.append(page.chart(name, chart, caption=f"{what} against body parameters", label=label))
    return section(
        TITLE,
        paragraph(explained, kind="note"),
        grid(*figures),
        *_fits(findings, page),
        folded("The points as a table", _points(points, page)),
        *_published(findings, page),
    )


def _fits(findings: Findings, page: Page) -> list[str]:
    rows: list[dict[str, Any]] = []
    for (what, series, form), fit in findings.fits.items():
        for name, value in fit.parameters.items():
            low, high = fit.intervals[name]
            rows.append(
                {
                    "what": what,
                    "series": series,
                    "form": _formula(what, form),
                    "parameter": name,
                    "value": value,
                    "low": low,
                    "high": high,
                    "leave_one_out": fit.leave_one_out,
                    "sizes": fit.points,
                }
            )
    if not rows:
        return []
    shown = [
        [
            f"{row['what']} · {row['series']}",
            row["form"],
            row["parameter"],
            Number(f"{row['value']:.3g}"),
            "unknown" if math.isnan(row["low"]) else f"[{row['low']:.3g}, {row['high']:.3g}]",
            Number(f"{row['leave_one_out']:.2g}"),
            Number(row["sizes"]),
        ]
        for row in rows
    ]
    columns = [
        "series",
        "form (N: body parameters in M)",
        "parameter",
        "value",
        "95 % interval",
        "leave-one-out error",
        "sizes",
    ]
    return [
        page.table(
            "fits", columns, shown, caption="Fits; the error is in the unit of the series", data=pd.DataFrame(rows)
        )
    ]


def _formula(what: str, form: str) -> str:
    if what.startswith("test score"):
        return "100 - score = a N^b" if form == "power" else "score = c - a N^-b"
    return "a N^b"


def _points(points: pd.DataFrame, page: Page) -> str:
    rows = [
        [
            f"{row['size']} · {row['series']}",
            row["what"],
            number(row["value"], 2),
            number(row["sd"], 2, absent="measured once"),
            Number(row["n"]),
            number(row["params_body_m"], 2),
            number(row["gflops_per_sample"], 3, absent="query lengths not recorded"),
        ]
        for row in points.to_dict("records")
    ]
    columns = ["size · series", "what", "value", "sd", "measured", "body (M)", "GFLOP a sample (2 N a token)"]
    return page.table("scaling_points", columns, rows, caption="What was measured of each size", data=points)


def _published(findings: Findings, page: Page) -> list[str]:
    literature = findings.literature
    if literature.empty:
        return [
            paragraph("No published figure that was read at its source is about a target of this study.", kind="note")
        ]
    frames = findings.frames
    scores = frames.scores[(frames.scores["split"] == "test") & (frames.scores["language"] == MEAN)]
    measured = scores.merge(findings.best, on=["size", "trial_id"]).merge(frames.sizes[["size", "params_m"]], on="size")
    targets = [task for task in frames.targets if task in set(literature["task"])]
    label = "; ".join(f"{row['model']} on {row['task']}: {row['value']:.1f}" for row in literature.to_dict("records"))
    chart = published_chart(measured, literature, target=targets[0], targets=targets)
    rows = [
        [row["model"], row["task"], Number(f"{row['value']:.1f}"), number(row["params_m"], 0), row["source"]]
        for row in literature.to_dict("records")
    ]
    columns = ["model", "task", "score (%)", "parameters (M)", "source"]
    caption = "Published zero-shot figures, as read at their source; question answering as (F1 + EM) / 2"
    return [
        heading("Beside published figures"),
        paragraph(
            "Grey and hollow: published, zero-shot, from other set-ups. They stand beside this study's and are in no fit.",
            kind="note",
        ),
        page.chart("published", chart, caption="Score against all parameters (chosen target)", label=label),
        folded(
            "The published figures as a table", page.table("published", columns, rows, caption=caption, data=literature)
        ),
    ]
