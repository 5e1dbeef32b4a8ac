"""The study's answer in a few sentences, each computed from the tables and hedged by what they lack."""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import Any

import pandas as pd

from analysis.frames import NONE, StudyFrames
from analysis.tradeoff import best_trials, configurations

WITHIN_POINTS = 2.0


def answer(frames: StudyFrames, gained: pd.DataFrame) -> list[str]:
    """Sentences in plain text: best and fastest configuration, average gain, and how far they can be trusted."""
    if frames.trials.empty and frames.benchmarks.empty:
        return ["This study holds no trials and no benchmarks yet, so there is nothing to answer from."]
    sentences = _best(frames) + _gain(gained)
    seeds = gained.loc[gained["n"] > 0, "n"]
    if len(seeds) and seeds.min() == 1:
        all_single = "Every gain rests on one seed, so none has an error bar"
        some_single = f"{int((seeds == 1).sum())} of {len(seeds)} gains rest on one seed and have no error bar"
        sentences.append(
            f"{all_single if seeds.max() == 1 else some_single}: a small difference may be nothing but noise."
        )
    return sentences


def _best(frames: StudyFrames) -> list[str]:
    served = [row for row in configurations(frames).to_dict("records") if pd.notna(row["test_score"])]
    if not served:
        return [_best_unserved(frames)]
    best = max(served, key=lambda row: (row["test_score"], -row["p50_ms"] if pd.notna(row["p50_ms"]) else -math.inf))
    speed = f" at {best['p50_ms']:.1f} ms median latency" if pd.notna(best["p50_ms"]) else ", its latency unmeasured"
    opening = (
        f"The most accurate configuration measured is size {best['size']}, served as {best['variant']}, "
        f"{trained_on(best['intermediate'])}: mean zero-shot test score {best['test_score']:.1f} %"
        f"{_over_tasks(len(best['task_scores']))}{speed}."
    )
    return [opening, *_fastest(served, best)]


def _fastest(served: list[dict[Hashable, Any]], best: dict[Hashable, Any]) -> list[str]:
    if pd.isna(best["p50_ms"]):
        return []
    near = [
        row
        for row in served
        if row["hardware"] == best["hardware"]
        and row["test_score"] >= best["test_score"] - WITHIN_POINTS
        and row["p50_ms"] < best["p50_ms"]
    ]
    if not near:
        return [f"Nothing faster on the same hardware comes within {WITHIN_POINTS:g} points of it."]
    fast = min(near, key=lambda row: row["p50_ms"])
    ratio = best["p50_ms"] / fast["p50_ms"]
    return [
        f"The fastest within {WITHIN_POINTS:g} points of it is size {fast['size']} served as {fast['variant']}, "
        f"{trained_on(fast['intermediate'])}: {fast['test_score']:.1f} % at {fast['p50_ms']:.1f} ms, "
        f"{ratio:.1f} times as fast."
    ]


def _best_unserved(frames: StudyFrames) -> str:
    best = best_trials(frames).merge(frames.trials, on=["size", "trial_id"]).to_dict("records")
    best = [row for row in best if pd.notna(row["dev_score"])]
    if not best:
        return "No trial has finished with a score and nothing was benchmarked, so no configuration can be named."
    top = max(best, key=lambda row: row["dev_score"])
    test = f", test score {top['test_score']:.1f} %" if pd.notna(top["test_score"]) else ""
    return (
        f"By English dev score the best trial is {top['trial_id']} of size {top['size']}, "
        f"{trained_on(top['intermediate'])} (dev {top['dev_score']:.1f} %{test}); "
        "no benchmark with a score was recorded, so nothing can be said about speed."
    )


def _gain(gained: pd.DataFrame) -> list[str]:
    transfer = gained[gained["mark"] == ""]
    marked = int((gained["gain"].notna() & (gained["mark"] != "")).sum())
    measured = transfer[transfer["gain"].notna()]
    if measured.empty:
        return [
            "No gain of intermediate training can be given: no trial has a partner without one to be compared with."
        ]
    missing = len(transfer) - len(measured)
    by_task = measured.groupby("intermediate")["gain"].mean()
    sentence = (
        f"Intermediate training changed the test score by {measured['gain'].mean():+.1f} points on average over "
        f"{len(measured)} comparison{'s' if len(measured) != 1 else ''} with no intermediate task at the same size, "
        f"learning rate and seed (from {measured['gain'].min():+.1f} to {measured['gain'].max():+.1f}"
    )
    sentence += f"; {missing} more are missing)" if missing else ")"
    if len(by_task) > 1:
        sentence += (
            f"; highest on average was {by_task.idxmax()} with {by_task.max():+.1f}, lowest {by_task.idxmin()} with "
        )
        sentence += f"{by_task.min():+.1f}"
    if marked:
        sentence += f"; {marked} more gain{'s are' if marked != 1 else ' is'} no transfer and left out"
    return [f"{sentence}."]


def trained_on(intermediate: str) -> str:
    """An intermediate task as a phrase."""
    if intermediate == NONE:
        return "without intermediate training"
    return f"after intermediate training on {intermediate}" if intermediate else "intermediate task unknown"


def _over_tasks(count: int) -> str:
    return f" over {count} target{'s' if count != 1 else ''}" if count else ""
