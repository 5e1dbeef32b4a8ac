"""Every measurement of the benchmark."""

from __future__ import annotations

from typing import Any

import pandas as pd

from analysis.report.findings import Findings
from analysis.report.leads import benchmarks_lead
from analysis.report.page import Absent, Number, Page, folded, number, paragraph, section
from analysis.store.frames import BENCH_METRICS, FLIPS, cascade_in
from analysis.store.names import FLIPS_BATCH, FLIPS_CANDIDATES, METRIC_DIGITS, METRIC_NAMES
from analysis.tables.tradeoff import COSTS, configuration_name, invalid_scenario, with_baselines

TITLE = "Benchmarks"
SCORED_ONLY = (
    ". A baseline without an intermediate task has the costs of the row above it: same model shape, measured once"
)
NO_REASON = "no reason recorded"
NOT_COMPARED = "predictions were not compared between batches: measured by an earlier version"
OF_BASELINE = "only the predictions of the model that was timed were compared"


def benchmarks_section(findings: Findings, page: Page) -> str:
    """One table with all measurements, INVALID ones included and named."""
    served = findings.served
    if served.empty:
        return section(TITLE, paragraph("No benchmark is recorded."))
    measured = with_baselines(findings.frames.benchmarks)  # the same rows, still with their INVALID values
    compared = bool(served["baseline"].any())
    tasks = list(dict.fromkeys(task for scores in served["task_scores"] for task in scores))
    metrics = ["test_score", "test_score_without_english"]
    metrics += [name for name in BENCH_METRICS if measured[name].notna().any() or name in COSTS]
    metrics += ["params_m", "params_body_m"]
    on_gpu = bool(served["driver"].ne("").any())
    both = bool(findings.at_chance)
    rows = [
        [
            f"{row['size']} · {row['variant']}" if not cascade_in(row) else configuration_name(row),
            row["intermediate"] or "not recorded",
            "yes" if row["on_front"] else "no",
            *([number(row["score_above_chance"], absent="a target is missing")] if both else []),
            *(_value(as_measured, name) for name in metrics),
            *(number(row["task_scores"].get(task), absent="not scored") for task in tasks),
            row["trial_id"],
            *([row["timed_trial"]] if compared else []),
            row["hardware"] or "not recorded",
            row["timed_task"] or "not recorded",
            row["interference"] or "not recorded",
            *([_gpu(row)] if on_gpu else []),
            ", ".join(f"{name} {result}" for name, result in row["results"].items()) or "not recorded",
        ]
        for row, as_measured in zip(served.to_dict("records"), measured.to_dict("records"), strict=True)
    ]
    columns = ["size · serving variant", "intermediate task", "on the front"]
    columns += ["test score, targets above chance (%)"] if both else []
    columns += [*(METRIC_NAMES[name] for name in metrics), *(f"{task} (%)" for task in tasks)]
    columns += ["trial", *(["costs measured with trial"] if compared else []), "hardware", "queries of", "interference"]
    columns += [*(["GPU"] if on_gpu else []), "scenarios"]
    caption = "Every configuration served, with its costs and its scores as served"
    table = page.table(
        "benchmarks",
        columns,
        rows,
        caption=caption + (SCORED_ONLY if compared else ""),
        data=_exported(findings, tasks),
    )
    return section(TITLE, *_flips(served, page), folded("All measurements", table), lead=benchmarks_lead(findings))


def _flips(served: pd.DataFrame, page: Page) -> list[str]:
    """Whether the scores hold for single queries, which p50 latency is timed on: the most of any size, by variant."""
    known = served.dropna(subset=list(FLIPS))
    if known.empty:
        return []
    most = known.groupby("variant", sort=False)[list(FLIPS)].max()
    rows = [[variant, *(number(share) for share in shares)] for variant, *shares in most.itertuples()]
    columns = [
        "serving variant",
        "as scored",
        f"batches of {FLIPS_BATCH}, any length",
        "padded as in such a batch",
    ]
    examples = known["flips_examples"]
    caption = "Predictions (%) that differ from those for single queries"
    caption += ", the most of any size" if known["size"].nunique() > 1 else ""
    return [
        paragraph(
            "p50 latency is timed on single queries. The table says how often another way to serve gives another prediction "
            f"(as scores were made, in batches, padded), for {_range(examples)} test examples of all targets. 0 changes "
            f"among n still allow a rate of up to about 3/n at 95% (rule of three), here {300 / examples.min():.1f}%. "
            f"Retrieval is compared among at most {FLIPS_CANDIDATES} candidates, which is easier than the pool that is scored.",
            kind="note",
        ),
        page.table("batch_effects", columns, rows, caption=caption, data=most.reset_index()),
    ]


def _range(counts: pd.Series[float]) -> str:
    """One number, or the lowest and the highest."""
    return " to ".join(f"{count:.0f}" for count in sorted({counts.min(), counts.max()}))


def _exported(findings: Findings, tasks: list[str]) -> pd.DataFrame:
    served = findings.served
    objects = [name for name in served if served[name].dtype == "object"]
    data = served.drop(columns=objects).dropna(axis="columns", how="all")
    if not served["baseline"].any():
        data = data.drop(columns=["baseline", "timed_trial"])
    if not findings.at_chance:
        data = data.drop(columns="score_above_chance", errors="ignore")  # the same as `score`
    return data.assign(**{f"test_{task}": [scores.get(task) for scores in served["task_scores"]] for task in tasks})


def _gpu(row: dict[Any, Any]) -> str:
    """State of the GPU during the measurement; "none" for a CPU."""
    state = f"driver {row['driver']}; slowed by {row['slowed_by']}; MIG {row['mig']}"
    return state if row["driver"] else "none"


def _why_absent(row: dict[Any, Any], name: str) -> str:
    if name not in (*FLIPS, "flips_examples"):
        return NO_REASON
    return OF_BASELINE if row["baseline"] else NOT_COMPARED


def _value(row: dict[Any, Any], name: str) -> str:
    """A measured value with its range, or the reason why there is none."""
    if row["reason"]:
        return Absent(row["reason"])
    digits = METRIC_DIGITS[name]
    text = number(row[name], digits, absent=row["unavailable"].get(name, _why_absent(row, name)))
    if isinstance(text, Absent):
        return text
    low, high = row.get(f"{name}_low"), row.get(f"{name}_high")
    span = "" if pd.isna(low) or pd.isna(high) else f" [{low:,.{digits}f}, {high:,.{digits}f}]"
    return Number(f"{text}{span}{' INVALID' if invalid_scenario(row, name) else ''}")
