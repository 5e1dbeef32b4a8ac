"""Runs at chance after training are named, and are in no gain."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis import StudyFrames, average_gains, collapsed_runs, gains
from analysis.store import frames as tables
from analysis.store.examples import Examples
from analysis.tables import chance
from tests.analysis.helpers import by, default_cells, section, with_chance, write

CHANCE = {"nli": 33.0, "pos": 5.0}


def study(
    nli: dict[tuple[str, int], float], *, dev: float | None = None, noise: np.random.Generator | None = None
) -> StudyFrames:
    """Two choices over three seeds: tagging learned by all, inference as given by choice and seed (else 50).

    Tagging gains a point. With `noise` nothing gains, and scores have a standard deviation of a point.
    """
    frames = with_chance(
        default_cells({"none": 60.0, "snli": 61.0}, sd=0.0, seeds=3, targets=("pos", "nli")),
        CHANCE,
    )
    seeds = frames.scores["trial_id"].str[-1].astype(int)
    keys = list(zip(frames.scores["intermediate"], seeds, frames.scores["task"], strict=True))
    gained = 1.0 if noise is None else 0.0
    values = [
        nli.get((name, seed), 50.0) if task == "nli" else 60.0 + gained * (name == "snli") for name, seed, task in keys
    ]
    if noise is not None:
        values = [value + noise.normal() for value in values]
    test = frames.scores.assign(value=values)
    own = [value if dev is None or task == "pos" else dev for value, (_, _, task) in zip(values, keys, strict=True)]
    scores = pd.concat([test, test.assign(split="dev", value=own)], ignore_index=True)
    return dataclasses.replace(frames, scores=scores)


def test_a_run_at_chance_after_training_is_named() -> None:
    (row,) = collapsed_runs(study({("snli", 1): 33.5})).to_dict("records")
    assert row == {
        "size": "a",
        "trial_id": "t1-1",
        "intermediate": "snli",
        "seed": 1,
        "task": "nli",
        "score": 33.5,
        "dev_score": 33.5,
        "chance": 33.0,
        "reason": "at chance; its losses are not recorded",
        "replaced_by": "",
    }


def test_learned_in_english_without_transfer_is_not_collapsed() -> None:
    assert collapsed_runs(study({("snli", 1): 33.5}, dev=45.0)).empty


def test_a_target_that_no_run_learned_is_at_chance_and_not_collapsed() -> None:
    at_chance = {(name, seed): 33.2 for name in ("none", "snli") for seed in range(3)}
    assert collapsed_runs(study(at_chance)).empty


def test_a_target_without_training_or_without_a_known_chance_is_never_collapsed() -> None:
    frames = study({("snli", 1): 33.5})
    untrained = frames.scores[(frames.scores["split"] == "test") | (frames.scores["task"] != "nli")]
    assert collapsed_runs(dataclasses.replace(frames, scores=untrained)).empty
    assert collapsed_runs(dataclasses.replace(frames, scores=frames.scores.assign(chance=float("nan")))).empty


def test_test_examples_widen_what_counts_as_chance() -> None:
    """36% of 100 examples may be chance; of 10,000 they are not."""
    frames = study({("snli", 1): 36.0})
    assert collapsed_runs(frames).empty

    def examples(count: int) -> Examples:
        correct = [float(number % 100 < 36) for number in range(count)]
        table = pd.DataFrame({"task": "nli", "split": "test", "language": "en", "example": range(count)})
        return Examples.from_tables({("a", "t1-1"): table.assign(correct=correct, total=1.0)})

    assert len(collapsed_runs(dataclasses.replace(frames, examples=examples(100)))) == 1
    assert collapsed_runs(dataclasses.replace(frames, examples=examples(10_000))).empty


def test_a_gain_leaves_out_the_seeds_in_which_either_side_collapsed() -> None:
    frames = study({("snli", 1): 33.5, ("none", 2): 33.0, ("snli", 0): 53.0})
    cells = by(gains(frames), "task")
    assert (cells["nli"]["gain"], cells["nli"]["n"], cells["nli"]["collapsed"]) == (3.0, 1, 2)
    assert (cells["pos"]["gain"], cells["pos"]["n"], cells["pos"]["collapsed"]) == (1.0, 3, 0)


def test_a_cell_of_collapsed_runs_alone_has_no_gain_and_says_why() -> None:
    cell = by(gains(study({("snli", seed): 33.0 for seed in range(3)})), "task")["nli"]
    assert pd.isna(cell["gain"])
    assert (cell["n"], cell["collapsed"], cell["reason"], cell["verdict"]) == (0, 3, "collapsed", "")


def test_a_mean_gain_leaves_out_a_target_that_collapsed_in_some_seed() -> None:
    (row,) = average_gains(study({("snli", 1): 33.5})).to_dict("records")
    assert row["gain"] == pytest.approx(1.0)  # of tagging alone
    assert (row["seeds"], row["targets"], row["collapsed"]) == (3, 1, 1)


def with_further_runs(
    frames: StudyFrames, collapsed: str, *, seed: int, nli: float = 52.0, pos: float = 61.0
) -> StudyFrames:
    """The study with a run of each choice with another seed, in place of the collapsed run.

    Without an intermediate task it has 50 and 60; with one, `nli` and `pos`.
    """
    trials, scores = [frames.trials], [frames.scores]
    for trial, by_task in (("t0", {"nli": 50.0, "pos": 60.0}), ("t1", {"nli": nli, "pos": pos})):
        own, name = frames.trials[frames.trials["trial_id"] == f"{trial}-0"], f"{trial}-{seed}"
        repeat: dict[str, Any] = {
            "trial_id": name,
            "kind": "repeat",
            "repeats": f"{trial}-{collapsed[-1]}",
            "seed": seed,
        }
        trials.append(own.assign(**repeat, in_place_of=collapsed))
        of_run = frames.scores[frames.scores["trial_id"] == f"{trial}-0"]
        values = [by_task[task] for task in of_run["task"]]
        scores.append(of_run.assign(trial_id=name, value=values))
    return dataclasses.replace(
        frames, trials=pd.concat(trials, ignore_index=True), scores=pd.concat(scores, ignore_index=True)
    )


@pytest.mark.parametrize("collapsed", ["t1-1", "t0-1"])
def test_a_further_seed_takes_the_place_of_a_collapsed_one_in_a_mean_gain(collapsed: str) -> None:
    """Inference gains 0 in two seeds and 2 in the further one, tagging 1 in all."""
    frames = with_further_runs(study({("snli" if collapsed == "t1-1" else "none", 1): 33.5}), collapsed, seed=7)
    (row,) = average_gains(frames).to_dict("records")
    assert (row["seeds"], row["targets"], row["collapsed"], row["replaced"]) == (3, 2, 0, 1)
    assert row["gain"] == pytest.approx((1.0 + 2.0 / 3) / 2)
    (run,) = collapsed_runs(frames).to_dict("records")
    assert (run["trial_id"], run["replaced_by"]) == (collapsed, f"{collapsed[:2]}-7")
    cells = by(gains(frames), "task")
    assert (cells["nli"]["n"], cells["nli"]["collapsed"], cells["pos"]["n"]) == (3, 1, 4)  # a target counts what it has


def test_a_further_run_that_collapses_as_well_mends_nothing() -> None:
    frames = with_further_runs(study({("snli", 1): 33.5}), "t1-1", seed=7, nli=33.5)
    (row,) = average_gains(frames).to_dict("records")
    assert (row["seeds"], row["targets"], row["collapsed"], row["replaced"]) == (3, 1, 1, 1)


@pytest.mark.slow
def test_replacing_seeds_makes_no_discoveries_among_equal_choices() -> None:
    """200 studies without any effect, in each of which a run of either side collapses on a target and is replaced."""
    random = np.random.default_rng(3)
    discovered, covered = 0, []
    for number in range(200):
        frames = study({}, noise=np.random.default_rng(number))
        collapsed = f"t{random.integers(2)}-{random.integers(3)}"
        at_chance = (frames.scores["trial_id"] == collapsed) & (frames.scores["task"] == "nli")
        frames = dataclasses.replace(
            frames, scores=frames.scores.assign(value=frames.scores["value"].mask(at_chance, 33.0))
        )
        nli, pos = 50.0 + random.normal(0, 2**0.5), 60.0 + random.normal(0, 2**0.5)  # none's noise included
        frames = with_further_runs(frames, collapsed, seed=7, nli=nli, pos=pos)
        (row,) = average_gains(frames).to_dict("records")
        assert (row["seeds"], row["targets"], row["replaced"]) == (3, 2, 1)
        discovered += row["p_holm"] < 0.05
        covered.append(row["low"] <= 0 <= row["high"])
    assert discovered <= 19  # so many or fewer in 997 of 1,000 draws at 5% (binomial)
    assert np.mean(covered) >= 0.92


def test_a_repeat_that_was_made_for_no_collapsed_run_replaces_none() -> None:
    frames = with_further_runs(study({("snli", 1): 33.5}), "t1-1", seed=7)
    frames = dataclasses.replace(frames, trials=frames.trials.assign(in_place_of=""))
    (row,) = average_gains(frames).to_dict("records")
    assert (row["seeds"], row["targets"], row["collapsed"], row["replaced"]) == (4, 1, 1, 0)


def test_the_report_lists_collapsed_runs_and_the_headline_does_not_count_them(tmp_path: Path) -> None:
    frames = study({("snli", seed): 33.5 for seed in range(3)})
    sizes = frames.sizes.assign(best_trial="t0-0")
    page = write(dataclasses.replace(frames, sizes=sizes), tmp_path)
    listed = section(page, "What intermediate training buys")
    assert "Collapsed runs" in listed
    assert "1 comparison of runs at chance after training" in page
    assert "Collapsed runs" not in write(study({}), tmp_path)


def test_columns_stay_without_rows() -> None:
    frames = dataclasses.replace(study({}), scores=tables.frame((), tables.SCORES))
    assert list(collapsed_runs(frames).columns) == list(collapsed_runs(study({("snli", 1): 33.5})).columns)


def test_a_reason_says_whether_the_loss_fell() -> None:
    frames = study({("snli", 1): 33.5, ("none", 2): 33.0})
    losses = {"t1-1": (1.10, 1.09), "t0-2": (1.10, 0.60)}
    rows = [
        {"size": "a", "trial_id": trial, "task": "nli", "signal": signal, "value": value}
        for trial, pair in losses.items()
        for signal, value in zip(("first_loss", "final_loss"), pair, strict=True)
    ]
    frames = dataclasses.replace(frames, diagnostics=tables.frame(rows, tables.DIAGNOSTICS))
    reasons = {trial: row["reason"] for trial, row in by(collapsed_runs(frames), "trial_id").items()}
    assert reasons == {
        "t1-1": "at chance; its loss never fell (1.10 to 1.09)",
        "t0-2": "at chance, although its loss fell (1.10 to 0.60)",
    }


def test_an_untrained_target_never_collapses_even_with_a_dev_score() -> None:
    """An encoder that an intermediate task ruined for retrieval is a loss, not a failed training."""
    frames = study({("snli", 1): 33.5})
    untrained = dataclasses.replace(frames, context=frames.context | {"untrained": ["nli"]})
    assert collapsed_runs(untrained).empty
    assert by(gains(untrained), "task")["nli"]["n"] == 3


def test_collapsed_runs_are_computed_once_for_a_study(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[StudyFrames] = []
    original = chance._collapsed_runs

    def counting(frames: StudyFrames) -> pd.DataFrame:
        calls.append(frames)
        return original(frames)

    monkeypatch.setattr(chance, "_collapsed_runs", counting)
    frames = study({("snli", 1): 33.5})
    gains(frames)
    average_gains(frames)
    collapsed_runs(frames).drop(columns="task")
    assert len(collapsed_runs(frames)) == len(calls) == 1
    assert collapsed_runs(study({})).empty, "another study has its own"
    assert collapsed_runs(dataclasses.replace(frames, scores=study({}).scores)).empty, "and so has a changed one"
