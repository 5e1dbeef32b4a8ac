"""Score and speed against size, and published scores beside them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pandas as pd

from analysis.charts.scaling import published_chart, scaling_chart
from analysis.report.findings import Findings
from analysis.report.leads import size_lead
from analysis.report.page import Absent, Number, Page, folded, grid, heading, number, paragraph, section
from analysis.store.frames import AGGREGATE_NAMES, MEAN, zero_shot
from analysis.tables.scaling import FEWEST, SCORE, Fit, Over

TITLE = "What size buys"


def scaling_section(findings: Findings, page: Page) -> str:
    """Charts by quantity, the fits as a table, published scores."""
    points = findings.points
    if points.empty:
        return section(
            TITLE, paragraph("No size has both body parameters and a result.", kind="note"), *_published(findings, page)
        )
    figures = _figures(findings, page)
    return section(
        TITLE,
        grid(*figures),
        paragraph(_explained(findings), kind="note") if figures else "",
        *_fits(findings, page),
        folded("The points as a table", _points(findings, page)),
        *_published(findings, page),
        lead=size_lead(findings),
    )


def _explained(findings: Findings) -> str:
    """How to read the charts."""
    points = findings.points
    languages = AGGREGATE_NAMES[zero_shot(findings.frames.trials)[0]]
    explained = (
        "Body parameters exclude the embeddings, which are looked up, not multiplied. Curves: a power law, or a saturating "
        "curve where that predicts left-out sizes better; dotted where extrapolated; bands are 95%. Bars: one standard "
        f"deviation over seeds. Test scores are over {languages}. {_operations(points)}"
    )
    sizes = points.groupby("what")["size"].nunique()
    if (sizes < FEWEST).any():
        explained += f" A curve needs at least {FEWEST} sizes; there are {int(sizes.max())} here."
    return explained


def _figures(findings: Findings, page: Page) -> list[str]:
    """Against body parameters, and against operations where that shows something else; nothing for one size."""
    points = findings.points
    if points["size"].nunique() < 2:
        return []
    figures = _charts(points, findings.fits, page, over="params_body_m")
    if _proportional(points):
        return figures
    return [*figures, *_charts(points, findings.fits_over_flops, page, over="gflops_per_sample")]


def _proportional(points: pd.DataFrame) -> bool:
    """Whether operations say no more than body parameters: all sizes use equally many tokens."""
    known = points.dropna(subset=["gflops_per_sample"])
    tokens = known["gflops_per_sample"] / known["params_body_m"]
    return bool(tokens.max() < 1.001 * tokens.min())


def _operations(points: pd.DataFrame) -> str:
    if points["gflops_per_sample"].isna().all():
        return "Operations per sample cannot be counted: no benchmark recorded the length of its queries."
    counted = (
        "Operations per sample are 2 per body parameter and token of a mean query of the timed task; attention, quadratic "
        "in the length, is left out."
    )
    if _proportional(points):
        return f"{counted} All sizes use equally many tokens here, so charts against operations would show the same."
    return f"{counted} Sizes with different tokenizers need different numbers of tokens, which the body does not show."


def _charts(points: pd.DataFrame, fits: dict[tuple[str, str, str], Fit], page: Page, *, over: Over) -> list[str]:
    figures = []
    for what, group in points.dropna(subset=[over]).groupby("what", sort=False):
        own = {}
        for (about, series, form), fit in sorted(fits.items(), key=lambda item: -item[1].leave_one_out):
            if about == what:  # the last fit of a series has the smallest error and is drawn
                own[series] = (form, fit)
        label = "; ".join(f"{row['series']}, {row['size']}: {row['value']:.2f}" for row in group.to_dict("records"))
        name = "scaling_" + "".join(letter if letter.isalnum() else "_" for letter in str(what).split(" (")[0])
        chart = scaling_chart(group, own, what=str(what), over=over)
        name, against = (
            (name, "body parameters") if over == "params_body_m" else (f"{name}_flops", "operations per sample")
        )
        caption = f"{_heading(str(what))} against {against}; bars: one standard deviation over seeds"
        figures.append(page.chart(name, chart, caption=caption, label=label))
    return figures


def _heading(what: str) -> str:
    return what if what.startswith("p50") else what[0].upper() + what[1:]


def _fits(findings: Findings, page: Page) -> list[str]:
    rows = [*_fit_rows(findings.fits, "N"), *_fit_rows(findings.fits_over_flops, "F")]
    if not rows:
        return []
    cells = [
        [
            f"{row['what']} · {row['series']}",
            row["form"],
            row["parameter"],
            Number(f"{row['value']:.3g}"),
            Absent("undetermined") if math.isnan(row["low"]) else f"[{row['low']:.3g}, {row['high']:.3g}]",
            Number(f"{row['leave_one_out']:.2g}"),
            Number(row["sizes"]),
        ]
        for row in rows
    ]
    columns = ["series", "form", "parameter", "value", "95% interval", "leave-one-out error", "sizes"]
    caption = "Fits. N: body parameters (M); F: GFLOP per sample; the error is in the unit of the series"
    return [page.table("fits", columns, cells, caption=caption, data=pd.DataFrame(rows), fold="Fitted curves")]


def _fit_rows(fits: dict[tuple[str, str, str], Fit], variable: str) -> Iterator[dict[str, Any]]:
    """One row per parameter of each fit."""
    for (what, series, form), fit in fits.items():
        for name, value in fit.parameters.items():
            low, high = fit.intervals[name]
            row: dict[str, Any] = {
                "what": what,
                "series": series,
                "form": _formula(what, form, variable),
                "parameter": name,
            }
            row |= {"value": value, "low": low, "high": high}
            yield row | {"leave_one_out": fit.leave_one_out, "sizes": fit.points}


def _formula(what: str, form: str, variable: str) -> str:
    if what == SCORE:
        return f"100 - score = a {variable}^b" if form == "power" else f"score = c - a {variable}^-b"
    return f"a {variable}^b"


def _points(findings: Findings, page: Page) -> str:
    """With the name of each published encoder, where there is one."""
    points, encoders = findings.points, findings.frames.encoders
    rows = [
        [
            f"{row['size']} · {row['series']}",
            *([encoders.get(row["size"], "")] if encoders else []),
            row["what"],
            number(row["value"], 2),
            number(row["sd"], 2, absent="measured once"),
            Number(row["n"]),
            number(row["params_body_m"], 2),
            number(row["gflops_per_sample"], 3, absent="query lengths not recorded"),
        ]
        for row in points.to_dict("records")
    ]
    columns = [
        "size · series",
        *(["encoder"] if encoders else []),
        "quantity",
        "value",
        "sd",
        "measured",
        "body parameters (M)",
        "GFLOP per sample",
    ]
    return page.table("scaling_points", columns, rows, caption="Measured scores and speeds by size", data=points)


def _published(findings: Findings, page: Page) -> list[str]:
    literature = findings.literature
    if literature.empty:
        return [paragraph("There are no published scores on the targets of this study.", kind="note")]
    frames = findings.frames
    scores = frames.scores[(frames.scores["split"] == "test") & (frames.scores["language"] == MEAN)]
    measured = scores.merge(findings.best, on=["size", "trial_id"]).merge(frames.sizes[["size", "params_m"]], on="size")
    targets = [task for task in frames.targets if task in set(literature["task"])]
    label = "; ".join(f"{row['model']} on {row['task']}: {row['value']:.1f}" for row in literature.to_dict("records"))
    score = f"Score ({AGGREGATE_NAMES[MEAN]})"
    chart = published_chart(measured, literature, target=targets[0])
    rows = [
        [row["model"], row["task"], Number(f"{row['value']:.1f}"), number(row["params_m"], 0), row["source"]]
        for row in literature.to_dict("records")
    ]
    columns = ["model", "task", "score (%)", "parameters (M)", "source"]
    caption = "Published zero-shot scores, checked at their source; question answering as (F1 + EM) / 2"
    return [
        heading("Published scores"),
        paragraph(
            "Grey and hollow: published zero-shot scores from other set-ups, for comparison only. They enter no fit.",
            kind="note",
        ),
        page.chart(
            "published",
            chart,
            caption=f"{score} against all parameters, for the chosen target; grey and hollow: published, other set-ups",
            label=label,
            least_px=480,
        ),
        folded("Published scores as a table", page.table("published", columns, rows, caption=caption, data=literature)),
    ]
