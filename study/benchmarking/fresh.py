"""Comparing serving variants of a subject on this machine: each measured in fresh processes, without Ray."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import ray.cloudpickle

from study.benchmarking.tables import number
from trainables.benchmark.measurement import Failed, Measured, MeasurementOutcome, Unavailable
from trainables.benchmark.repeats import combined, interleaved
from trainables.benchmark.settings import BenchmarkSettings
from trainables.benchmark.subjects.fresh import MeasurementBroke, Subject, run_fresh
from trainables.benchmark.variants import Variant, variant_named

REST_S, SCORING_S = 3600.0, 6 * 3600.0  # a process that loads and compiles, or scores, for longer than this hangs


def measure_fresh(
    subject: Subject,
    variants: Sequence[str | Variant],
    *,
    settings: BenchmarkSettings,
    repeats: int,
    report: Callable[[str], object],
) -> dict[str, MeasurementOutcome]:
    """The outcome of each variant. Variants take turns; one that breaks or hangs ends, and the others continue.

    The first repeat of each is scored. `settings` are the subject's: they limit how long a process may take. `report` gets a
    line per repeat.
    """
    by_name = {variant_named(variant).name: variant for variant in variants}
    measured: dict[str, list[Measured]] = {name: [] for name in by_name}
    missing: dict[str, Unavailable | Failed] = {}
    for turn, name in interleaved(tuple(by_name), repeats):
        if name in missing:
            continue
        limit_s = settings.scenarios_s + REST_S + (SCORING_S if turn == 0 else 0.0)
        outcome: MeasurementOutcome
        try:
            # A recipe's classes go by value: the new process cannot import its file.
            outcome = run_fresh(subject, by_name[name], scored=turn == 0, limit_s=limit_s, dumps=ray.cloudpickle.dumps)
        except MeasurementBroke as error:
            outcome = Failed(str(error))
        if isinstance(outcome, Measured):
            measured[name].append(outcome)
            which = f", {turn + 1} of {repeats}" if repeats > 1 else ""
            report(f"{name}{which}: p50 {number(outcome['p50_ms'])} ms, {number(outcome['throughput_sps'])} samples/s")
        else:
            missing[name] = outcome
            report(f"{name}: cannot be measured: {outcome.reason}")
    return {name: missing[name] if name in missing else combined(measured[name]) for name in by_name}
