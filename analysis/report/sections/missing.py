"""What is missing, and what the evidence is too weak for."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from analysis.charts.common import METRIC_NAMES
from analysis.report.findings import Findings
from analysis.report.page import heading, items, paragraph, section
from analysis.report.sections.tradeoff import NO_REASON
from analysis.store.frames import StudyFrames
from analysis.tables.tradeoff import COSTS

TITLE = "What is missing"
NO_INTERFERENCE = ("", "none seen")
NOT_SLOWED = ("", "nothing")
FEW_QUERIES = 662  # a repeat: from as many on MLPerf's early stopping states a p99
_EXPECTED = (*COSTS, "p99_ms", "test_score")  # of every benchmark


def missing_section(findings: Findings) -> str:
    """Failed trials, what was not measured, gains without a pair, weak evidence."""
    frames, gained = findings.frames, findings.gained
    parts = []
    for title, lines in (
        ("Sizes that could not be searched", list(_lost_sizes(frames))),
        ("Trials without a result", list(_lost_trials(frames))),
        ("Failed attempts that were tried again", list(_retried(frames))),
        ("What could not be measured", list(_unmeasured(frames.benchmarks))),
        ("Gains without a pair", list(_unpaired(gained))),
        ("Weak evidence", list(_weak(findings))),
    ):
        if lines:
            parts.append(f"{heading(title)}{items(lines)}")
    return section(TITLE, *(parts or [paragraph("Nothing that was attempted is missing.")]))


def _lost_sizes(frames: StudyFrames) -> Iterator[str]:
    for row in frames.sizes[frames.sizes["reason"] != ""].to_dict("records"):
        yield f"{row['size']}: its encoder could not be made: {row['reason']}"


def _lost_trials(frames: StudyFrames) -> Iterator[str]:
    if frames.trials.empty:
        yield "No trial is recorded."
    for row in frames.trials[frames.trials["outcome"].isin(["failed", "unfinished"])].to_dict("records"):
        reason = f": {row['reason'] or NO_REASON}" if row["outcome"] == "failed" else ""
        yield f"{row['outcome']}: {row['size']}, {row['kind']} {row['trial_id']} (intermediate {row['intermediate']}){reason}"


def _retried(frames: StudyFrames) -> Iterator[str]:
    for row in frames.made_good.to_dict("records"):
        who = f"{row['size']}, {row['kind']} {row['trial_id']} (intermediate {row['intermediate']})"
        yield f"{who}: {row['reason'] or NO_REASON}"


def _unmeasured(benchmarks: pd.DataFrame) -> Iterator[str]:
    if benchmarks.empty:
        yield "No benchmark is recorded: latency, throughput, memory and energy are unknown for every size."
    found: dict[tuple[str, str], list[str]] = {}
    for row in benchmarks.to_dict("records"):
        who = f"{row['size']} {row['variant']}"
        if row["reason"]:
            found.setdefault(("not measured at all", row["reason"]), []).append(who)
            continue
        absent = {name: NO_REASON for name in _EXPECTED if pd.isna(row[name])}
        for name, reason in (absent | row["unavailable"]).items():
            found.setdefault((METRIC_NAMES.get(name, name), reason), []).append(who)
        for scenario, result in row["results"].items():
            if result != "VALID":
                found.setdefault((f"LoadGen's {scenario} is {result}", "not used for fronts or budgets"), []).append(
                    who
                )
    for (metric, reason), names in found.items():
        yield f"{', '.join(names)}: {metric}: {reason}"


def _unpaired(gained: pd.DataFrame) -> Iterator[str]:
    lost = gained[gained["n"] == 0]
    for key, group in lost.groupby(["size", "intermediate", "reason"], sort=False):
        size, intermediate, reason = (str(part) for part in key)
        yield f"{size}, {intermediate} on {', '.join(group['task'])}: {reason}"


def _weakly_timed(benchmarks: pd.DataFrame) -> Iterator[str]:
    """Measurements that something else, the GPU's own limits, its other slices, or chance may have had a part in."""
    few = []
    for row in benchmarks.to_dict("records"):
        who = f"{row['size']} {row['variant']}"
        if row["interference"] not in NO_INTERFERENCE:
            yield f"{who} was timed under interference: {row['interference']}"
        if row["slowed_by"].startswith("not known"):
            yield f"{who}: whether its GPU was slowed is {row['slowed_by']}"
        elif row["slowed_by"] not in NOT_SLOWED:
            yield f"{who} was timed on a GPU that was slowed: {row['slowed_by']}"
        if row["mig"] == "on":
            yield f"{who} was timed on a slice of a GPU (MIG): what ran on the other slices is not known"
        each = row["samples"] / max(row["repeats"], 1)
        if each < FEW_QUERIES and pd.notna(row["p50_ms"]):
            few.append(f"{who} ({each:.0f})")
    if few:
        yield (
            f"Latencies that rest on fewer than {FEW_QUERIES} queries a repeat, which a p99 needs: {', '.join(few)}. "
            "Their medians stand, and what lies further out is uncertain."
        )


def _weak(findings: Findings) -> Iterator[str]:
    frames = findings.frames
    counted = findings.gained[findings.gained["n"] > 0]
    if single := int((counted["n"] == 1).sum()):
        yield f"{single} of {len(counted)} gains rest on one seed: what another seed would give is not in their intervals."
    if without := int((~counted["with_examples"]).sum()):
        yield (
            f"{without} of {len(counted)} gains have no per-example scores: their intervals, if any, are over seeds alone."
        )
    at_chance = counted[counted[["score", "score_none"]].max(axis=1) <= counted["chance"]]
    if len(at_chance):
        yield f"{len(at_chance)} of {len(counted)} gains compare two scores that are both at or below guessing."
    yield from _weakly_timed(frames.benchmarks[frames.benchmarks["reason"] == ""])
    for (size, trial), problem in frames.examples.problems.items():
        yield f"{size}, {trial}: per-example scores cannot be read: {problem}"
