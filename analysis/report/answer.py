"""The study's answer in a few sentences, each computed from the tables and hedged by what they lack."""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis.charts.common import interval, score_name, signed
from analysis.report.findings import Findings
from analysis.store.frames import NONE, SAID, said_of, zero_shot
from analysis.tables.gains import ALPHA

WITHIN_POINTS = 2.0


@dataclass(frozen=True)
class Answer:
    """A sentence each; "" where there is nothing to say."""

    best: str
    fastest: str = ""
    gain: str = ""

    @property
    def sentences(self) -> list[str]:
        return [sentence for sentence in (self.best, self.fastest, self.gain) if sentence]


def answer(findings: Findings) -> Answer:
    """In plain text: the best configuration, the fastest near it, what intermediate training changed."""
    frames = findings.frames
    if frames.trials.empty and frames.benchmarks.empty:
        return Answer("This study holds no trials and no benchmarks yet, so there is nothing to answer from.")
    served = [row for row in findings.served.to_dict("records") if pd.notna(row["score"])]
    if not served:
        return Answer(_best_unserved(findings), gain=_gain(findings))
    best = max(served, key=lambda row: (row["score"], -row["p50_ms"] if pd.notna(row["p50_ms"]) else -math.inf))
    return Answer(_best(best), _fastest(served, best), _gain(findings))


def caveats(findings: Findings) -> list[str]:
    """How far the answer can be trusted."""
    gained = findings.tuned if findings.tuned_tells_more else findings.gained
    seeds = gained.loc[gained["n"] > (1 if findings.tuned_tells_more else 0), "n"]
    if not len(seeds) or seeds.min() > 1:
        return []
    if seeds.max() == 1:
        said = "Every gain rests on one seed"
    else:
        said = f"{int((seeds == 1).sum())} of {len(seeds)} gains rest on one seed"
    return [f"{said}: what another seed would give is not known, and a small difference may be nothing but noise."]


def _best(best: dict[Hashable, Any]) -> str:
    speed = (
        f"at {best['p50_ms']:.1f} ms median latency{_of_task(best)}"
        if pd.notna(best["p50_ms"])
        else "its latency without a valid measurement"
    )
    return (
        f"The most accurate configuration measured is size {best['size']}, served as {best['variant']}, "
        f"{trained_on(best['intermediate'])}: {score_name(best['judged_by'])} {best['score']:.1f} % "
        f"({_over_tasks(len(best['task_scores']))}{SAID[best['judged_by']]}), {speed}."
    )


def _fastest(served: list[dict[Hashable, Any]], best: dict[Hashable, Any]) -> str:
    if pd.isna(best["p50_ms"]):
        return ""
    near = [
        row
        for row in served
        if row["hardware"] == best["hardware"]
        and row["score"] >= best["score"] - WITHIN_POINTS
        and row["p50_ms"] < best["p50_ms"]
    ]
    if not near:
        return f"Nothing faster on the same hardware comes within {WITHIN_POINTS:g} points of it."
    fast = min(near, key=lambda row: row["p50_ms"])
    ratio = best["p50_ms"] / fast["p50_ms"]
    return (
        f"The fastest within {WITHIN_POINTS:g} points of it is size {fast['size']} served as {fast['variant']}, "
        f"{trained_on(fast['intermediate'])}: {fast['score']:.1f} % at {fast['p50_ms']:.1f} ms, "
        f"{ratio:.1f} times as fast."
    )


def _best_unserved(findings: Findings) -> str:
    trials = findings.frames.trials
    judged_by, scores = zero_shot(trials)
    best = findings.best.merge(trials.assign(score=scores), on=["size", "trial_id"]).to_dict("records")
    best = [row for row in best if pd.notna(row["dev_score"])]
    if not best:
        return "No trial has finished with a score and nothing was benchmarked, so no configuration can be named."
    top = max(best, key=lambda row: row["dev_score"])
    test = f", {score_name(judged_by)} {top['score']:.1f} % over {SAID[judged_by]}" if pd.notna(top["score"]) else ""
    return (
        f"By English dev score the best trial is {top['trial_id']} of size {top['size']}, "
        f"{trained_on(top['intermediate'])} (dev {top['dev_score']:.1f} %{test}); "
        "no benchmark with a score was recorded, so nothing can be said about speed."
    )


def _gain(findings: Findings) -> str:
    tuned = findings.tuned_tells_more
    gained, averages = (findings.tuned, findings.tuned_averages) if tuned else (findings.gained, findings.averages)
    if tuned:  # the choices that were repeated
        gained, averages = gained[gained["n"] > 1], averages[averages["seeds"] > 1]
    transfer = gained[gained["mark"] == ""]
    marked = int((gained["gain"].notna() & (gained["mark"] != "")).sum())
    measured = transfer[transfer["gain"].notna()]
    if measured.empty:
        return "No gain of intermediate training can be given: no trial has a partner without one to be compared with."
    missing = len(transfer) - len(measured)
    judged_by = dict(zip(measured["task"], measured["judged_by"], strict=True))
    against = (
        "each at the learning rates best for it on English dev, paired by seed" if tuned else "learning rate and seed"
    )
    sentence = (
        f"Intermediate training changed the test score by {signed(measured['gain'].mean())} points on average over "
        f"{len(measured)} comparison{'s' if len(measured) != 1 else ''} with no intermediate task at the same size, "
        f"{against}, over {said_of(judged_by)} (from {signed(measured['gain'].min())} to {signed(measured['gain'].max())}"
    )
    sentence += f"; {missing} more are missing)" if missing else ")"
    told = averages[averages["p_holm"] < ALPHA]
    by_task = measured.groupby("intermediate")["gain"].mean()
    if len(told):
        most = max(told.to_dict("records"), key=lambda row: abs(row["gain"]))
        sentence += (
            f"; its mean over targets can be told from zero in {len(told)} of {len(averages)} cases, most of all "
            f"{most['intermediate']} on size {most['size']} with {signed(most['gain'])} {interval(most['low'], most['high'])}"
        )
    elif len(by_task) > 1:
        sentence += (
            f"; highest on average was {by_task.idxmax()} with {signed(by_task.max())}, lowest {by_task.idxmin()} "
        )
        sentence += f"with {signed(by_task.min())}, and none can be told from zero"
    if marked:
        sentence += f"; {marked} more gain{'s are' if marked != 1 else ' is'} no transfer and left out"
    return f"{sentence}."


def trained_on(intermediate: str) -> str:
    """An intermediate task as a phrase."""
    if intermediate == NONE:
        return "without intermediate training"
    return f"after intermediate training on {intermediate}" if intermediate else "intermediate task unknown"


def _of_task(row: dict[Hashable, Any]) -> str:
    timed = f" ({row['samples']:,.0f} timed)" if pd.notna(row["samples"]) else ""
    return f" of {row['timed_task']}'s queries{timed}" if row["timed_task"] else timed


def _over_tasks(count: int) -> str:
    return f"over {count} target{'s' if count != 1 else ''}, " if count else ""
