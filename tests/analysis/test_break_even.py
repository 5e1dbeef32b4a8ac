"""What a gain costs in training time."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import analysis
from tests.analysis.helpers import by, section, write
from tests.support.studies import build_frames


def _frames(**seconds: tuple[float, float]) -> analysis.StudyFrames:
    """One size with "none", 10 points on either target, and choices that gain 2 points; seconds before and on targets."""
    runs: list[dict[str, Any]] = []
    for number, (name, (before_s, targets_s)) in enumerate({"none": (0.0, 600.0), **seconds}.items()):
        gain = 0.0 if name == "none" else 2.0
        scores = {"tags": 10.0 + gain, "spans": 10.0 + gain}
        times: dict[str, Any] = {"encoder_train_s": before_s, "target_train_s": targets_s}
        if name == "joint":
            times["lr_intermediate"] = None  # it has no rate of its own
        runs.append({"size": "s", "trial_id": f"t{number}", "intermediate": name, "seed": 0, "scores": scores, **times})
    frames = build_frames(runs, body_m={"s": 1.0})
    frames.context["intermediates"] = ["none", *seconds]
    return frames


def test_a_gain_is_set_against_the_training_beyond_none() -> None:
    frames = _frames(mnli=(300.0, 600.0), merged=(900.0, 612.0), joint=(10.0, 960.0))
    table = analysis.break_even(frames).set_index("intermediate")
    assert table["gain"].tolist() == [2.0, 2.0, 2.0]
    assert table["train_s"].to_dict() == {"mnli": 900.0, "merged": 1512.0, "joint": 970.0}
    # 612 s on the targets is 600 s within 5%.
    assert table["extra_s"].to_dict() == {"mnli": 300.0, "merged": 900.0, "joint": 370.0}
    assert table["gain_per_hour"].to_dict() == pytest.approx({"mnli": 24.0, "merged": 8.0, "joint": 2.0 / (370 / 3600)})


def test_what_else_the_machine_did_is_no_cost() -> None:
    """Targets have as many steps after an intermediate task; and only runs of one seed, so of one machine, are compared."""
    assert analysis.break_even(_frames(mnli=(300.0, 2800.0)))["extra_s"].tolist() == [300.0]
    frames = _frames(joint=(0.0, 960.0))
    slow = frames.trials[frames.trials["intermediate"] == "none"].assign(
        trial_id="t9", seed=1, encoder_train_s=0.0, target_train_s=2400.0
    )
    trials = pd.concat([frames.trials, slow.astype(frames.trials.dtypes)], ignore_index=True)
    scores = frames.scores[frames.scores["intermediate"] == "none"].assign(trial_id="t9")
    both = pd.concat([frames.scores, scores], ignore_index=True)
    frames = analysis.StudyFrames(frames.sizes, trials, both, frames.benchmarks, frames.context)
    assert analysis.break_even(frames)["extra_s"].tolist() == [360.0]


def test_a_published_checkpoint_gains_at_no_cost_and_unknown_times_stay_unknown() -> None:
    frames = _frames(mt0=(0.0, 618.0), old=(math.nan, math.nan))
    rows = by(analysis.break_even(frames), "intermediate")
    assert rows["mt0"]["extra_s"] == 0.0
    assert math.isnan(rows["mt0"]["gain_per_hour"])
    assert all(math.isnan(rows["old"][name]) for name in ("train_s", "extra_s", "gain_per_hour"))


def test_the_report_has_the_table_where_times_are_recorded(tmp_path: Path) -> None:
    page = section(write(_frames(mnli=(300.0, 600.0)), tmp_path), "What intermediate training buys")
    assert "What gains cost in training" in page
    untimed = _frames(mnli=(math.nan, math.nan))
    page = section(write(untimed, tmp_path), "What intermediate training buys")
    assert "What gains cost in training" not in page
