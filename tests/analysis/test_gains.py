"""What intermediate training buys: pairing, verdicts, contamination flags, reasons for missing gains."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import analysis
from analysis import StudyFrames, gains
from analysis.store.frames import ENGLISH, MEAN, MEAN_WITHOUT_ENGLISH
from tests.analysis.helpers import by, default_cells, section, write
from tests.support.studies import Planted, level

PLANTED = Planted()


def test_planted_gains_are_covered_and_the_large_ones_found(study: StudyFrames) -> None:
    gained = analysis.gains(study)
    true = np.array([PLANTED.gains[i][t] for i, t in zip(gained["intermediate"], gained["task"], strict=True)])
    assert (gained["n"] == 3).all()
    assert gained["with_examples"].all()
    covered = ((gained["low"] <= true) & (gained["high"] >= true)).mean()
    assert covered >= 0.85  # 48 intervals of 95%, the twelve of a size share a baseline
    verdicts = {key: row["verdict"] for key, row in by(gained, "size", "intermediate", "task").items()}
    losses = [verdicts[size, "topic", "bitext"] == "loss" for size in PLANTED.sizes]  # planted: -8
    assert sum(losses) >= 3
    assert not any(
        verdict == "gain" for (_, intermediate, _), verdict in verdicts.items() if intermediate == "topic"
    )  # topic has no planted gain above zero


def test_a_planted_tie_is_called_a_tie() -> None:
    """Twenty seeds that differ by a tenth of a point: the interval lies within one point of zero."""
    frames = default_cells({"none": 60.0, "topic": 60.0, "paraphrase": 63.0}, sd=0.1, seeds=20)
    verdicts = analysis.gains(frames).set_index("intermediate")["verdict"].to_dict()
    assert verdicts == {"topic": "tie", "paraphrase": "gain"}
    few = default_cells({"none": 60.0, "topic": 60.0}, sd=2.0, seeds=3)
    assert analysis.gains(few)["verdict"].tolist() == ["unclear"]


def test_examples_widen_an_interval_and_one_seed_has_no_verdict(study: StudyFrames, bare: StudyFrames) -> None:
    with_examples, without = analysis.gains(study), analysis.gains(bare)
    assert (with_examples["se"] >= without["se"]).all()
    assert with_examples["se"].mean() > 1.01 * without["se"].mean()
    assert not without["with_examples"].any()
    first = dataclasses.replace(study, trials=study.trials[study.trials["seed"] == 0])
    single = analysis.gains(first)
    assert set(single.loc[single["mark"] == "", "verdict"]) == {"one seed"}
    assert single["low"].notna().all()
    assert single["p"].isna().all()
    assert single.merge(with_examples, on=["size", "intermediate", "task"])["se_x"].notna().all()


def test_flagged_gains_are_not_counted_among_the_comparisons(study: StudyFrames) -> None:
    gained = analysis.gains(study)
    flagged = gained["mark"] != ""
    assert set(gained.loc[flagged, "task"]) == {"xnli"}
    assert gained.loc[flagged, "p_holm"].isna().all()
    assert set(gained.loc[flagged, "verdict"]) == {""}, "six points planted, but a flagged gain has no verdict"
    assert (gained.loc[flagged, "p"] < 0.05).any()
    assert gained.loc[~flagged, "p_holm"].equals(
        pd.Series(analysis.holm(gained.loc[~flagged, "p"]), gained.index[~flagged])
    )


def test_repeats_pair_by_seed_and_are_not_trials(study: StudyFrames) -> None:
    assert len(study.searched) == len(PLANTED.sizes) * (4 + PLANTED.sampled)
    repeats = study.trials[study.trials["kind"] == "repeat"]
    assert len(repeats) == len(PLANTED.sizes) * 4 * 2
    assert repeats["default_cell"].all()
    size = next(iter(PLANTED.sizes))
    scores = study.scores[
        (study.scores["size"] == size)
        & (study.scores["task"] == "xnli")
        & (study.scores["language"] == MEAN_WITHOUT_ENGLISH)
    ]
    test = scores.set_index("trial_id")["value"]
    by_hand = np.mean([test[f"t1{seed}"] - test[f"t0{seed}"] for seed in ("", "-s1", "-s2")])
    gained = by(analysis.gains(study), "size", "intermediate", "task")
    assert gained[size, "paraphrase", "xnli"]["gain"] == pytest.approx(by_hand)


def test_tuned_gains_compare_each_at_its_own_rates(study: StudyFrames) -> None:
    tuned = analysis.gains(study, cells="tuned")
    assert len(tuned) == len(analysis.gains(study))
    best = study.searched[study.searched["outcome"] == "complete"]
    size = next(iter(PLANTED.sizes))
    own = best[best["size"] == size]
    ids = {
        name: max(own[own["intermediate"] == name].to_dict("records"), key=lambda row: row["dev_score"])["trial_id"]
        for name in ("none", "topic")
    }
    row = by(tuned, "size", "intermediate", "task")[size, "topic", "xnli"]
    scores = study.scores[(study.scores["size"] == size) & (study.scores["task"] == "xnli")]
    value = scores[scores["language"] == MEAN_WITHOUT_ENGLISH].set_index("trial_id")["value"]
    if row["n"] == 1:
        assert row["gain"] == pytest.approx(value[ids["topic"]] - value[ids["none"]])
    else:
        assert row["n"] == 2, "without the selection seed"


def test_gains_by_language_agree_with_gains_of_that_language(study: StudyFrames) -> None:
    table = by(analysis.gains_by_language(study), "size", "intermediate", "task", "language")
    for language in ("sw", ENGLISH, MEAN, MEAN_WITHOUT_ENGLISH):
        gained = analysis.gains(study, language=language)
        for row in gained.head(5).to_dict("records"):
            by_language = table[row["size"], row["intermediate"], row["task"], language]
            assert by_language["gain"] == pytest.approx(row["gain"])
            assert by_language["n"] == row["n"]


def test_the_planted_levels_are_what_the_study_was_drawn_from() -> None:
    assert level(PLANTED, "2x128", "topic", "bitext") == 62.0
    assert level(PLANTED, "2x128", "none", "xnli") == 55.0


def test_gains_are_paired_by_seed_on_default_cells(frames: StudyFrames) -> None:
    gained = gains(frames)
    assert len(gained) == 2 * 3 * 3  # sizes, intermediate tasks except none, targets
    small = _cell(gained, "2x128", "mnli", "nli")
    assert small["gain"] == pytest.approx(4.0)  # seeds: 43 - 40 and 43 - 38
    assert small["sd"] == pytest.approx(math.sqrt(2))  # of 3 and 5
    assert small["n"] == 2
    assert small["score"] == pytest.approx(43.0 - 1)  # without English, planted a point below
    assert small["score_none"] == pytest.approx(39.0 - 1)
    large = _cell(gained, "4x192", "mnli", "nli")
    assert large["gain"] == pytest.approx(6.5)  # b3, sampled, with 70.0, is left out
    assert large["n"] == 1
    assert math.isnan(large["sd"])
    assert large["chance"] == 33.3
    assert large["reason"] == ""


@pytest.mark.slow
def test_gains_that_are_not_transfer_are_flagged_in_table_and_chart(frames: StudyFrames, tmp_path: Path) -> None:
    marks = {(row["intermediate"], row["task"]): row["mark"] for row in gains(frames).to_dict("records")}
    assert {pair: mark for pair, mark in marks.items() if mark} == {
        ("mnli", "nli"): "same data",
        ("squad", "tags"): "leak",
    }
    page = write(frames, tmp_path)
    assert '"label": "+4.0*"' in page, "the heat map's cell"
    gains_page = section(page, "What intermediate training buys")
    assert "2x128\nmnli\nnli\n+4.0\n" in gains_page
    assert "\nsame data\n" in gains_page, "the table's last column"
    assert "* the intermediate task shares training data with the target" in gains_page


@pytest.mark.parametrize(
    ("size", "intermediate", "task", "reason"),
    [
        ("4x192", "squad", "nli", "failed"),
        ("2x128", "squad", "tags", "stopped early"),
        ("2x128", "both", "nli", "not run"),
    ],
)
def test_a_missing_gain_is_nan_with_its_reason(
    frames: StudyFrames, size: str, *, intermediate: str, task: str, reason: str
) -> None:
    cell = _cell(gains(frames), size, intermediate, task)
    assert math.isnan(cell["gain"])
    assert cell["n"] == 0
    assert cell["reason"] == reason


def test_a_target_scored_before_the_stop_still_counts(frames: StudyFrames) -> None:
    assert _cell(gains(frames), "2x128", "squad", "nli")["gain"] == pytest.approx(1.0)


def test_a_missing_baseline_or_seed_is_named(frames: StudyFrames) -> None:
    def without(*trial_ids: str) -> StudyFrames:
        kept = ~frames.trials["trial_id"].isin(trial_ids)
        scored = ~frames.scores["trial_id"].isin(trial_ids)
        return StudyFrames(frames.sizes, frames.trials[kept], frames.scores[scored], frames.benchmarks, frames.context)

    assert _cell(gains(without("b0")), "4x192", "mnli", "nli")["reason"] == "no baseline: not run"
    assert _cell(gains(without("a0", "a4")), "2x128", "mnli", "nli")["reason"] == "no common seed"


def _cell(gained: pd.DataFrame, size: str, intermediate: str, task: str) -> pd.Series:
    rows = gained[(gained["size"] == size) & (gained["intermediate"] == intermediate) & (gained["task"] == task)]
    assert len(rows) == 1
    return rows.iloc[0]
