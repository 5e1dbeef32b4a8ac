"""Missing results and weak evidence."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from analysis.report.findings import Findings
from analysis.report.leads import missing_lead
from analysis.report.page import heading, items, paragraph, section
from analysis.report.sections.benchmarks import NO_REASON
from analysis.store.frames import StudyFrames
from analysis.store.names import METRIC_NAMES
from analysis.tables.tradeoff import COSTS, kinds_of_hardware

TITLE = "What is missing"
NO_INTERFERENCE = ("", "none seen")
NOT_SLOWED = ("", "nothing")
FEW_QUERIES = 662  # per repeat: the fewest from which MLPerf's early stopping gives a p99
_EXPECTED = (*COSTS, "p99_ms", "test_score")  # metrics every benchmark should have


def missing_section(findings: Findings) -> str:
    """Failed trials, unmeasured metrics, gains without a pair, weak evidence."""
    frames, gained = findings.frames, findings.gained
    listed = {
        "Sizes that could not be searched": list(_lost_sizes(frames)),
        "Trials without a result": list(_lost_trials(frames)),
        "Failed attempts that were retried": list(_retried(frames)),
        "Not measured": list(_unmeasured(frames.benchmarks)),
        "Gains without a pair": list(_unpaired(gained)),
        "Weak evidence": list(_weak(findings)),
    }
    listed = {title: lines for title, lines in listed.items() if lines}
    parts = [f"{heading(title)}{items(lines)}" for title, lines in listed.items()]
    return section(TITLE, *(parts or [paragraph("Nothing is missing.")]), lead=missing_lead(listed))


def _lost_sizes(frames: StudyFrames) -> Iterator[str]:
    for row in frames.sizes[frames.sizes["reason"] != ""].to_dict("records"):
        yield f"{row['size']}: its encoder could not be built: {row['reason']}"


def _lost_trials(frames: StudyFrames) -> Iterator[str]:
    if frames.trials.empty:
        yield "No trial is recorded."
    for row in frames.trials[frames.trials["outcome"].isin(["failed", "unfinished"])].to_dict("records"):
        reason = f": {row['reason'] or NO_REASON}" if row["outcome"] == "failed" else ""
        yield f"{row['outcome']}: {_trial(row)}{reason}"


def _retried(frames: StudyFrames) -> Iterator[str]:
    for row in frames.retried.to_dict("records"):
        yield f"{_trial(row)}: {row['reason'] or NO_REASON}"


def _trial(row: dict[Any, Any]) -> str:
    return f"{row['size']}, {row['kind']} {row['trial_id']} (intermediate task {row['intermediate']})"


def _unmeasured(benchmarks: pd.DataFrame) -> Iterator[str]:
    if benchmarks.empty:
        yield "No benchmark is recorded: latency, throughput, memory and energy are unknown for every size."
    several = len(kinds_of_hardware(benchmarks)) > 1
    names_of: dict[tuple[str, str], list[str]] = {}
    for row in benchmarks.to_dict("records"):
        name = f"{row['size']} {row['variant']}" + (f" on {row['hardware']}" if several and row["hardware"] else "")
        if row["reason"]:
            names_of.setdefault(("not measured at all", row["reason"]), []).append(name)
            continue
        absent = {metric: NO_REASON for metric in _EXPECTED if pd.isna(row[metric])}
        for metric, reason in (absent | row["unavailable"]).items():
            names_of.setdefault((METRIC_NAMES.get(metric, metric), reason), []).append(name)
        for scenario, result in row["results"].items():
            if result != "VALID":
                problem = (f"LoadGen's {scenario} result is {result}", "not used for fronts or budgets")
                names_of.setdefault(problem, []).append(name)
    metrics_of: dict[tuple[str, str], list[str]] = {}
    for (metric, reason), names in names_of.items():
        where = "every configuration" if len(names) == len(benchmarks) > 1 else ", ".join(names)
        metrics_of.setdefault((where, reason), []).append(metric)
    for (where, reason), metrics in metrics_of.items():
        yield f"{where}: {', '.join(metrics)}: {reason}"


def _unpaired(gained: pd.DataFrame) -> Iterator[str]:
    """A line for the intermediate tasks of a size that lack the same targets for the same reason."""
    targets = gained["task"].nunique()
    alike: dict[tuple[str, str, str], list[str]] = {}
    for key, group in gained[gained["n"] == 0].groupby(["size", "intermediate", "reason"], sort=False):
        size, intermediate, reason = (str(part) for part in key)
        over = "every target" if len(group) == targets > 1 else ", ".join(group["task"])
        alike.setdefault((size, over, reason), []).append(intermediate)
    for (size, over, reason), intermediates in alike.items():
        yield f"{size}, {', '.join(intermediates)} on {over}: {reason}"


def _weakly_timed(benchmarks: pd.DataFrame) -> Iterator[str]:
    """Measurements that other processes, GPU throttling, other MIG slices or few queries may have affected."""
    few = []
    for row in benchmarks.to_dict("records"):
        name = f"{row['size']} {row['variant']}"
        if row["interference"] not in NO_INTERFERENCE:
            yield f"{name} was timed under interference: {row['interference']}"
        if row["slowed_by"].startswith("not known"):
            yield f"{name}: whether its GPU was slowed is {row['slowed_by']}"
        elif row["slowed_by"] not in NOT_SLOWED:
            yield f"{name} was timed on a GPU that was slowed: {row['slowed_by']}"
        if row["mig"] == "on":
            energy = "; its energy is that of the whole card" if pd.notna(row["energy_j_per_sample"]) else ""
            yield f"{name} was timed on a slice of a GPU (MIG): the load of the other slices is unknown{energy}"
        each = row["samples"] / max(row["repeats"], 1)
        if each < FEW_QUERIES and pd.notna(row["p50_ms"]):
            few.append(f"{name} ({each:.0f})")
    if few:
        yield (
            f"Latencies from fewer than {FEW_QUERIES} queries per repeat, which a p99 needs: {', '.join(few)}. "
            "Their medians are reliable, their tails are not."
        )


def _weak(findings: Findings) -> Iterator[str]:
    frames = findings.frames
    counted = findings.gained[findings.gained["n"] > 0]
    if single := int((counted["n"] == 1).sum()):
        yield (
            f"{_share(single, len(counted))} gains rest on one seed: they were not tested, and their intervals do not cover "
            "the spread over seeds."
        )
    if without := int((~counted["with_examples"]).sum()):
        yield (
            f"{_share(without, len(counted))} gains have no per-example scores: their intervals, if any, cover seeds alone."
        )
    below = counted[counted[["score", "score_none"]].max(axis=1) <= counted["chance"]]
    if len(below):
        tasks = ", ".join(dict.fromkeys(below["task"]))
        yield f"{_share(len(below), len(counted))} gains compare two scores at or below chance: {tasks}."
    yield from _weakly_timed(frames.benchmarks[frames.benchmarks["reason"] == ""])
    for (size, trial), problem in frames.examples.problems.items():
        yield f"{size}, {trial}: per-example scores cannot be read: {problem}"


def _share(part: int, whole: int) -> str:
    """ "3 of 5", "All 5"."""
    return f"All {whole}" if part == whole > 1 else f"{part} of {whole}"
