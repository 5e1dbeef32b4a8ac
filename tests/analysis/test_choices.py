"""Averages over targets, ways to choose an intermediate task, and change with size."""

from __future__ import annotations

import dataclasses
import math

import pytest

import analysis
from analysis import StudyFrames
from tests.analysis.helpers import by, default_cells
from tests.support.studies import Planted

PLANTED = Planted()


def test_the_best_choice_is_made_on_dev_and_judged_on_test(study: StudyFrames) -> None:
    table = analysis.choices(study)
    for size, group in table.groupby("size"):
        by_choice = by(group, "choice")
        assert by_choice["none"]["gain"] == 0
        single = by_choice["best single"]["intermediate"]
        assert single in ("paraphrase", "mixture_all"), size  # planted means on dev: 3.0 and 2.3 against 0 for topic
        assert by_choice["mixture mixture_all"]["intermediate"] == "mixture_all"
        taken = dict(pair.split(": ") for pair in by_choice["best per target"]["intermediate"].split("; "))
        assert taken["bitext"] == single, "a target without a dev set takes the best single"
    scrambled = study.scores.assign(
        value=study.scores["value"].where(study.scores["split"] == "dev", -study.scores["value"])
    )
    other = analysis.choices(dataclasses.replace(study, scores=scrambled))
    assert other["intermediate"].tolist() == table["intermediate"].tolist()


def test_average_gains_leave_out_flagged_targets(study: StudyFrames) -> None:
    table = analysis.average_gains(study).set_index(["size", "intermediate"])
    assert (table.loc[(slice(None), "paraphrase"), "targets"] == 3).all()  # xnli shares its training data
    topic = table.xs("topic", level="intermediate")
    assert ((topic["low"] <= -2) & (topic["high"] >= -2)).sum() >= 3  # planted: -8 / 4; four intervals of 95%
    assert (topic["high"] < 0).sum() >= 3


def test_a_gain_that_shrinks_with_size_is_detected() -> None:
    def verdicts(slope: float) -> dict[str, str]:
        cells = {size: {"none": 50.0, "topic": 56.0 + slope * doublings} for doublings, size in enumerate("abcd")}
        frames = default_cells(cells, sd=0.4, seeds=3)
        table = by(analysis.interactions(frames), "intermediate")
        assert table["topic"]["low"] <= slope <= table["topic"]["high"]
        return {name: row["verdict"] for name, row in table.items()}

    assert verdicts(-1.5) == {"topic": "shrinks"}
    assert verdicts(1.5) == {"topic": "grows"}
    assert verdicts(0.0) == {"topic": "unclear"}


def test_two_sizes_with_one_seed_have_a_slope_and_no_interval() -> None:
    frames = default_cells({"a": {"none": 50.0, "topic": 54.0}, "b": {"none": 50.0, "topic": 52.0}}, sd=0.0, seeds=1)
    (row,) = analysis.interactions(frames).to_dict("records")
    assert row["slope"] == pytest.approx(-2.0)
    assert math.isnan(row["low"])
    assert row["verdict"] == "unclear"
