"""Score and speed against size, and published figures beside them."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from analysis.charts.scaling import published_chart, scaling_chart
from analysis.report.findings import Findings
from analysis.report.page import Number, Page, folded, grid, heading, number, paragraph, section
from analysis.store.frames import MEAN, SAID, zero_shot
from analysis.tables.scaling import FEWEST, SCORE, Fit, Over

TITLE = "Size"


def scaling_section(findings: Findings, page: Page) -> str:
    """Charts by quantity, the fits as a table, published figures."""
    points = findings.points
    if points.empty:
        return section(
            TITLE, paragraph("No size has both body parameters and a result.", kind="note"), *_published(findings, page)
        )
    explained = (
        "Body parameters leave the embeddings out, which are looked up, not multiplied. Curves: a power law, or a saturating "
        "one where it predicts left-out sizes better; dotted where they are extrapolation; bands of 95 %. Bars: one standard "
        f"deviation over seeds. Test scores are over {SAID[zero_shot(findings.frames.trials)[0]]}. {_operations(points)}"
    )
    few = points.groupby("what")["size"].nunique()
    if (few < FEWEST).any():
        explained += f" No curve is drawn through fewer than {FEWEST} sizes; here there are {int(few.max())} at most."
    return section(
        TITLE,
        paragraph(explained, kind="note"),
        grid(
            *_charts(points, findings.fits, page, over="params_body_m"),
            *_charts(points, findings.fits_over_flops, page, over="gflops_per_sample"),
        ),
        *_fits(findings, page),
        folded("The points as a table", _points(points, page)),
        *_published(findings, page),
    )


def _operations(points: pd.DataFrame) -> str:
    if points["gflops_per_sample"].isna().all():
        return "Operations a sample cannot be counted: no benchmark recorded the length of its queries."
    said = (
        "Operations a sample are counted as 2 a body parameter and token of a mean query of the task timed; attention's share, "
        "quadratic in the length, is left out."
    )
    by_size = points.dropna(subset=["gflops_per_sample"]).drop_duplicates("size")
    tokens = by_size["gflops_per_sample"] / by_size["params_body_m"]
    if tokens.max() < 1.001 * tokens.min():
        return f"{said} All sizes cut text into as many tokens here, so that both axes tell the same."
    return f"{said} Sizes with other tokenizers need other numbers of tokens, which the body does not show."


def _charts(points: pd.DataFrame, fits: dict[tuple[str, str, str], Fit], page: Page, *, over: Over) -> list[str]:
    figures = []
    for what, group in points.dropna(subset=[over]).groupby("what", sort=False):
        own = {}
        for (about, series, form), fit in sorted(fits.items(), key=lambda item: -item[1].leave_one_out):
            if about == what:  # the last of a series, with the smallest error, is the one that is drawn
                own[series] = (form, fit)
        label = "; ".join(f"{row['series']}, {row['size']}: {row['value']:.2f}" for row in group.to_dict("records"))
        name = "scaling_" + "".join(letter if letter.isalnum() else "_" for letter in str(what).split(" (")[0])
        chart = scaling_chart(group, own, what=str(what), over=over)
        name, against = (
            (name, "body parameters") if over == "params_body_m" else (f"{name}_flops", "operations a sample")
        )
        figures.append(page.chart(name, chart, caption=f"{what} against {against}", label=label))
    return figures


def _fits(findings: Findings, page: Page) -> list[str]:
    rows: list[dict[str, Any]] = []
    fits = [("N", *item) for item in findings.fits.items()] + [
        ("F", *item) for item in findings.fits_over_flops.items()
    ]
    for variable, (what, series, form), fit in fits:
        for name, value in fit.parameters.items():
            low, high = fit.intervals[name]
            rows.append(
                {
                    "what": what,
                    "series": series,
                    "form": _formula(what, form, variable),
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
        "form (N: body parameters in M, F: GFLOP a sample)",
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


def _formula(what: str, form: str, variable: str) -> str:
    if what == SCORE:
        return f"100 - score = a {variable}^b" if form == "power" else f"score = c - a {variable}^-b"
    return f"a {variable}^b"


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
        page.chart(
            "published",
            chart,
            caption=f"Score over {SAID[MEAN]}, against all parameters (chosen target)",
            label=label,
        ),
        folded(
            "The published figures as a table", page.table("published", columns, rows, caption=caption, data=literature)
        ),
    ]
