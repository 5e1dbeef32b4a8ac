"""Gains of an intermediate task that is trained in German: marked wherever they are shown, and split by language."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

import analysis
from analysis import StudyFrames
from analysis.report.findings import Findings
from analysis.store.frames import MEAN, MEAN_WITHOUT_ENGLISH
from analysis.tables.averages import split_averages, split_gains
from tests.analysis.helpers import by, default_cells, section, write

# Planted gains in points, by intermediate task and language.
PLANTED = {
    "topic": {"en": 1.0, "de": 2.0, "fr": 2.0, "zh": 2.0},
    "topic_in_de": {"en": 1.0, "de": 8.0, "fr": 3.0, "zh": 1.0},
}


@pytest.fixture(scope="module")
def frames() -> StudyFrames:
    """Two targets; the second has no test in German."""
    study = default_cells({"none": 50.0, "topic": 52.0, "topic_in_de": 54.0}, sd=0.0, seeds=3, targets=("x", "y"))
    random = np.random.default_rng(1)
    rows = []
    for row in study.scores.to_dict("records"):
        gains = PLANTED.get(str(row["intermediate"]), dict.fromkeys("en de fr zh".split(), 0.0))
        own = {name: gain for name, gain in gains.items() if row["task"] == "x" or name != "de"}
        noise = random.normal(0, 0.1)
        values = {name: 50.0 + gain + noise for name, gain in own.items()}
        others = [value for name, value in values.items() if name != "en"]
        means = {MEAN: float(np.mean([*values.values()])), MEAN_WITHOUT_ENGLISH: float(np.mean(others))}
        rows += [row | {"language": name, "value": value} for name, value in (values | means).items()]
    arms = {
        "topic": {"members": ["topic"], "languages": []},
        "topic_in_de": {"members": ["topic_in_de"], "languages": ["de"]},
    }
    scores = pd.DataFrame(rows).astype(dict(study.scores.dtypes))
    return dataclasses.replace(study, scores=scores, context=study.context | {"arms": arms})


def test_a_gain_is_marked_where_the_target_is_tested_in_a_trained_language(frames: StudyFrames) -> None:
    marks = by(analysis.gains(frames), "intermediate", "task")
    assert {key: row["not_zero_shot"] for key, row in marks.items()} == {
        ("topic", "x"): "",
        ("topic", "y"): "",
        ("topic_in_de", "x"): "de",
        ("topic_in_de", "y"): "",
    }
    averages = by(Findings(frames).averages, "intermediate")
    assert (averages["topic"]["not_zero_shot"], averages["topic_in_de"]["not_zero_shot"]) == ("", "de")


def test_unknown_languages_are_said_and_never_taken_for_none(frames: StudyFrames) -> None:
    arms = frames.context["arms"] | {"topic_in_de": {"members": [], "languages": None}}
    unknown = dataclasses.replace(frames, context=frames.context | {"arms": arms})
    marks = by(analysis.gains(unknown), "intermediate", "task")
    assert {task: marks["topic_in_de", task]["not_zero_shot"] for task in ("x", "y")} == {
        "x": "unknown",
        "y": "unknown",
    }
    assert marks["topic", "x"]["not_zero_shot"] == ""
    assert by(Findings(unknown).averages, "intermediate")["topic_in_de"]["not_zero_shot"] == "unknown"
    assert split_gains(unknown).empty, "there is nothing to split by"


def test_gains_are_split_by_whether_the_language_was_trained(frames: StudyFrames) -> None:
    (row,) = split_gains(frames).to_dict("records")
    assert (row["intermediate"], row["task"], row["trained_languages"]) == ("topic_in_de", "x", "de")
    assert (row["untrained"], row["n"]) == (2, 3)
    # The noise of a run is that of all its languages: it differs by 0.1 between a run and its baseline.
    assert row["gain_trained"] == pytest.approx(8.0, abs=0.3)
    assert row["gain_untrained"] == pytest.approx((3.0 + 1.0) / 2, abs=0.3)
    (average,) = split_averages(frames).to_dict("records")
    assert (average["targets"], average["seeds"]) == (1, 3)  # y has no trained language to compare with
    assert average["gain_untrained"] == pytest.approx(row["gain_untrained"])


def test_a_flagged_gain_is_in_neither_mean(frames: StudyFrames) -> None:
    flagged = dataclasses.replace(frames, context=frames.context | {"marks": {"topic_in_de": {"x": "same data"}}})
    assert split_gains(flagged).empty
    assert split_averages(flagged).empty


@pytest.mark.slow
def test_scores_by_language_are_marked_where_the_best_trial_is_not_zero_shot(
    frames: StudyFrames, tmp_path: Path
) -> None:
    best = dataclasses.replace(frames, sizes=frames.sizes.assign(best_trial="t2-0"))
    seen = best.sizes.assign(seen=pd.Series([{"y": "bitext"}]))
    table = by(analysis.language_table(dataclasses.replace(best, sizes=seen)), "language")
    assert {name: row["labelled"] for name, row in table.items()} == {"en": "", "de": "yes", "fr": "", "zh": ""}
    assert {name: row["seen"] for name, row in table.items()} == {"en": "y", "de": "", "fr": "y", "zh": "y"}
    text = section(write(dataclasses.replace(best, sizes=seen), tmp_path), "Languages")
    assert "German (de) · a ‡" in text
    assert "French (fr) · a †" in text
    assert "French (fr) · a ‡" not in text
    assert "has labelled data in this language" in text
    assert "has seen data of a target scored here (y)" in text
    (score,) = best.scores.query("trial_id == 't2-0' and task == 'x' and language == 'de'")["value"]
    assert f"{score:.1f} ‡" in text
    plain = write(dataclasses.replace(frames, sizes=frames.sizes.assign(best_trial="t1-0")), tmp_path)
    assert "‡" not in section(plain, "Languages")


@pytest.mark.slow
def test_the_report_marks_every_such_gain_and_shows_both_means(frames: StudyFrames, tmp_path: Path) -> None:
    text = section(write(frames, tmp_path), "What intermediate training buys")
    assert "not zero-shot in de" in text
    assert "Trained in other languages than English" in text
    assert text.count("topic_in_de ‡") >= 3  # the tables of gains, of averages and of choices
    assert "topic ‡" not in text
    plain = dataclasses.replace(frames, context=frames.context | {"arms": {}})
    (tmp_path / "plain").mkdir()
    assert "‡" not in section(write(plain, tmp_path / "plain"), "What intermediate training buys")


@pytest.mark.parametrize("replaced", [False, True])
def test_split_means_are_over_the_targets_that_no_seed_lacks(monkeypatch: pytest.MonkeyPatch, replaced: bool) -> None:
    """x gains 8 and y loses 3 in every seed; x collapsed in seed 2, whose place seed 7 may take."""
    rows = [
        {"size": "s", "intermediate": "i", "task": task, "language": language, "seed": seed, "difference": gain}
        | {"collapsed": (task, seed) == ("x", 2), "replaced": replaced and seed == 2}
        for seed in (0, 1, 2, *([7] if replaced else []))
        for task, gain in (("x", 8.0), ("y", -3.0))
        for language in ("de", "sw")
    ]
    monkeypatch.setattr("analysis.tables.averages.paired_scores", lambda *_, **__: pd.DataFrame(rows))
    frames: Any = SimpleNamespace(
        languages=["en", "de", "sw"],
        not_zero_shot=lambda *_: ["de"],
        trained_languages=lambda *_: ["de"],
        contamination_flag=lambda *_: "",
    )
    (row,) = split_averages(frames).to_dict("records")
    both = 2.5 if replaced else -3.0
    assert (row["gain_trained"], row["gain_untrained"], row["sd_untrained"]) == (both, both, 0.0)
    assert (row["targets"], row["seeds"]) == (2 if replaced else 1, 3)
