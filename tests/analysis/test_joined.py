"""Runs that were joined: whose repeats, benchmarks and sizes are whose."""

from __future__ import annotations

import dataclasses
from typing import Any

import analysis
from analysis import StudyFrames
from analysis.report.answer import answer
from analysis.report.findings import Findings
from analysis.store.frames import MEAN
from analysis.tables.seeds import mean_over_seeds, searched_as, seed_runs
from analysis.tables.tradeoff import configurations
from tests.support.studies import build_frames

BODY_M = {"small": 1.0, "large": 4.0}


def trial(name: str, seed: int, score: float, *, size: str = "small", **rest: Any) -> dict[str, Any]:
    run: dict[str, Any] = {"size": size, "trial_id": name, "intermediate": "none", "seed": seed, "scores": {"x": score}}
    return run | rest


def run(seed: int, *trials: dict[str, Any], served: tuple[dict[str, Any], ...] = (), **context: Any) -> StudyFrames:
    frames = build_frames(trials, served, body_m=BODY_M)
    return dataclasses.replace(frames, context=frames.context | {"seed": str(seed)} | context)


def served(name: str, score: float, **rest: Any) -> dict[str, Any]:
    return {
        "size": "small", "trial_id": name, "task_scores": {"x": score}, "timed_task": "x", "p50_ms": 1.0, **rest
    }  # fmt: skip


def seeds_of(frames: StudyFrames, trial_id: str, size: str = "small") -> dict[int, str]:
    return {seed: run.trial_id for seed, run in seed_runs(frames, (size, trial_id), ["x"], MEAN).items()}


def test_a_repeat_belongs_to_what_its_own_run_repeated() -> None:
    """The later run's winner has the id of another trial of the first, which never tried that choice."""
    first = run(
        0,
        trial("t0000", 0, 60.0),
        trial("t0001", 0, 61.0, intermediate="nli"),
        trial("t0001-s1", 1, 62.0, intermediate="nli", repeats="t0001"),
    )
    later = run(
        10,
        trial("t0000", 10, 63.0),
        trial("t0001", 10, 64.0, intermediate="topic"),
        trial("t0000-s11", 11, 65.0, repeats="t0000"),
        trial("t0001-s11", 11, 66.0, intermediate="topic", repeats="t0001"),
    )
    together = analysis.joined([first, later])
    assert seeds_of(together, "t0000") == {0: "t0000", 10: "seed10-t0000", 11: "seed10-t0000-s11"}
    assert seeds_of(together, "t0001") == {0: "t0001", 1: "t0001-s1"}
    assert seeds_of(together, "seed10-t0001") == {10: "seed10-t0001", 11: "seed10-t0001-s11"}
    kinds = together.trials.set_index("trial_id")["kind"].to_dict()
    assert [name for name, kind in kinds.items() if kind == "trial"] == ["t0000", "t0001", "seed10-t0001"]


def test_a_size_that_failed_in_the_first_run_is_that_of_the_later_ones() -> None:
    first = run(0, trial("t0000", 0, 60.0))
    failed = first.sizes.assign(reason=["", "its encoder could not be built"])
    first = dataclasses.replace(first, sizes=failed)
    later = [run(seed, trial("t0000", seed, 70.0 + seed, size="large")) for seed in (1, 2)]
    together = analysis.joined([first, *later])
    assert set(together.sizes["reason"]) == {""}
    assert seeds_of(together, "t0000", "large") == {1: "t0000", 2: "seed2-t0000"}


def test_a_copy_of_a_later_run_adds_benchmarks_of_that_run_s_trials() -> None:
    """The copy has the trial's id, which is that of another trial in the first run."""
    first = run(0, trial("t0000", 0, 59.0), trial("t0001", 0, 60.0, intermediate="nli"))
    own = trial("t0000", 1, 64.0, intermediate="nli"), trial("t0001", 1, 58.0)
    later = run(1, *own)
    copy = run(1, *own, served=(served("t0000", 64.0, hardware="a gpu"),))
    together = analysis.joined([first, later, copy])
    (row,) = configurations(together).to_dict("records")
    assert (row["trial_id"], row["intermediate"]) == ("seed1-t0000", "nli")
    mean = mean_over_seeds(together, {str(name): value for name, value in row.items()})
    assert (mean.mean, mean.seeds) == (62.0, 2)


def test_a_model_that_only_a_later_run_served_stands_for_all_seeds() -> None:
    first = run(0, trial("t0000", 0, 64.0, dev_score=70.0), hardware="machine a")
    later = run(1, trial("t0000", 1, 60.0, dev_score=70.0), served=(served("t0000", 60.0),), hardware="machine b")
    together = analysis.joined([first, later])
    assert searched_as(together, ("small", "seed1-t0000")) == ("small", "t0000")
    (row,) = configurations(together).to_dict("records")
    mean = mean_over_seeds(together, {str(name): value for name, value in row.items()})
    assert (mean.mean, mean.seeds) == (62.0, 2)
    assert answer(Findings(together)).better == "", "no better one: it is that trial"
    assert together.context["hardware"] == "machine a; machine b"


def test_a_trial_that_an_interrupted_run_had_not_finished_is_left_out() -> None:
    """It has some targets only, and a mean over those would stand beside means over all."""
    first = run(0, trial("t0000", 0, 60.0), trial("t0001", 0, 61.0, intermediate="nli"))
    interrupted = run(
        1, trial("t0000", 1, 62.0), trial("t0001", 1, 99.0, intermediate="nli", outcome="unfinished", scores={})
    )
    together = analysis.joined([first, interrupted])
    assert seeds_of(together, "t0000") == {0: "t0000", 1: "seed1-t0000"}
    assert "seed1-t0001" not in set(together.trials["trial_id"]) | set(together.scores["trial_id"])
