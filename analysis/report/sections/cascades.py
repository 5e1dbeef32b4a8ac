"""Cascades: what stored confidences predict of two sizes served together, and what a served cascade came to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from analysis.charts.cascades import cascade_chart
from analysis.report.findings import Findings
from analysis.report.page import Number, Page, number, paragraph
from analysis.store.names import score_name
from analysis.tables.cascades.served import losing_languages
from analysis.tables.formatting import interval, quantity, signed
from analysis.tables.languages import language_name

NO_EXAMPLES = "Which languages lose is not known: the cascade's scores by example were not recorded."
METHOD = (
    "In a cascade a smaller model answers where its confidence reaches a threshold, and a larger one is asked elsewhere. "
    "Thresholds are chosen by target on English dev. In other languages confidence is less reliable (Ahuja et al. 2022, "
    "arXiv:2210.12265): shares and losses are given by language. Retrieval does not cascade and is served by the smaller "
    "model. p50 hides what a cascade costs: where more than half of the queries stay with the smaller model, it is that "
    "model's. Mean and p99 show it."
)


def cascade_figures(findings: Findings, page: Page) -> list[str]:
    """The curve of each pair, the cascade that was served beside its prediction, and its change by language.

    Empty where no evaluation has confidences and no cascade was served.
    """
    curves, served = findings.cascade_curves, findings.cascades
    if curves.empty and served.empty:
        return []
    parts = [_chart(findings, page)] if len(curves) else []
    parts += [paragraph(_sentence(row)) for row in served.to_dict("records")]
    parts += [_served_table(findings, page), *_languages(findings, page)] if len(served) else []
    return [*parts, paragraph(METHOD, kind="note")]


def _chart(findings: Findings, page: Page) -> str:
    curves, served = findings.cascade_curves, findings.cascades
    judged_by = str(findings.served["judged_by"].iloc[0])
    pairs = list(dict.fromkeys(f"{row['small']}→{row['large']}" for row in curves.to_dict("records")))
    variants = " or ".join(dict.fromkeys(map(str, curves["variant"])))
    measured = "; large points: measured" if len(served) else ""
    label = "; ".join(
        f"{pair}: {rows['score'].iloc[0]:.1f}% to {rows['score'].iloc[-1]:.1f}%"
        for pair, (_, rows) in zip(pairs, curves.groupby(["small", "large"], sort=False), strict=True)
    )
    caption = (
        f"Cascades predicted from the confidences of evaluations and the speeds of single models ({variants}): each point lets "
        f"the smaller model answer 5% more of English dev{measured}"
    )
    chart = cascade_chart(curves, served, score_title=score_name(judged_by))
    columns = ["cascade", "of English dev (%)", "of the timed tests (%)", "score (%)", "mean latency (ms)"]
    rows = [
        [
            f"{row['small']}→{row['large']}",
            *(number(100 * row[name], 0) for name in ("dev_share", "share")),
            *(number(row["score"]), number(row["latency_ms"], 2)),
        ]
        for row in curves.to_dict("records")
    ]
    table = page.table(
        *("cascade_curves", columns, rows), caption="Every predicted point", data=curves, fold="Every predicted point"
    )
    return page.chart("cascades", chart, caption=caption, label=label) + table


def _sentence(row: Mapping[Any, Any]) -> str:
    """ "3l→12l cascade, served as fp32: 61.2% at a mean of 4.1 ms; 12l alone 61.9% at a mean of 9.8 ms, 3l alone ..." """
    text = f"{row['small']}→{row['large']} cascade, served as {row['variant']}: "
    text += _point(row["score"], row["latency_ms"])
    if not pd.isna(row["score_large"]):
        alone = [
            f"{row[name]} alone {_point(row[f'score_{name}'], row[f'latency_{name}_ms'])}"
            for name in ("large", "small")
        ]
        text += f"; {', '.join(alone)}"
    if pd.isna(row["score_predicted"]):
        return f"{text}. What was predicted is not known."
    points, ms = row["score"] - row["score_predicted"], row["latency_ms"] - row["latency_predicted_ms"]
    return f"{text}. Measured less predicted: {signed(points)} points" + (
        "." if pd.isna(ms) else f", {signed(ms, 2)} ms."
    )


def _point(score: float, latency_ms: float) -> str:
    latency = "no valid latency" if pd.isna(latency_ms) else f"a mean of {latency_ms:.2f} ms"
    return f"{quantity(score)}% at {latency}"


def _served_table(findings: Findings, page: Page) -> str:
    served = findings.cascades
    rows = [
        [
            f"{row['small']}→{row['large']}",
            row["variant"],
            *(number(100 * row[name], 0) for name in ("share", "share_predicted")),
            *(number(row[name]) for name in ("score", "score_predicted", "score_large", "score_small")),
            *(number(row[name], 2) for name in ("latency_ms", "latency_predicted_ms")),
            *(number(row[name], 2) for name in ("latency_large_ms", "latency_small_ms", "p50_ms", "p99_ms")),
            *(number(row[name], 1) for name in ("server_qps", "peak_memory_mb")),
        ]
        for row in served.to_dict("records")
    ]
    columns = ["cascade", "served as", "answered by the smaller (%)", "predicted (%)"]
    columns += ["score (%)", "predicted score (%)", "larger alone (%)", "smaller alone (%)"]
    columns += [
        "mean latency (ms)",
        "predicted (ms)",
        "larger alone (ms)",
        "smaller alone (ms)",
        "p50 (ms)",
        "p99 (ms)",
    ]
    columns += ["load within the bound (queries/s)", "peak memory, both (MB)"]
    return page.table(
        "cascades", columns, rows, caption="The cascade that was served, beside its prediction", data=served
    )


def _languages(findings: Findings, page: Page) -> list[str]:
    languages = findings.cascade_languages
    if languages.empty:
        return [paragraph(NO_EXAMPLES, kind="note")]
    losing = [f"{language_name(code)} ({code})" for code in losing_languages(languages)]
    text = (
        f"Languages that lose against the larger model (95% interval below zero): {', '.join(losing)}."
        if losing
        else ("No language other than English loses against the larger model by more than its 95% interval.")
    )
    rows = [
        [
            f"{language_name(row['language'])} ({row['language']})",
            Number(f"{100 * row['share']:.0f}"),
            Number(f"{signed(row['change'])} {interval(row['low'], row['high'])}"),
            Number(str(row["targets"])),
        ]
        for row in languages.to_dict("records")
    ]
    caption = (
        "The cascade less its larger model, over the targets that cascade; intervals over test examples, not corrected "
    )
    caption += f"for {len(rows)} languages"
    columns = ["language", "answered by the smaller (%)", "change (points)", "targets"]
    return [paragraph(text), page.table("cascade_languages", columns, rows, caption=caption, data=languages)]
