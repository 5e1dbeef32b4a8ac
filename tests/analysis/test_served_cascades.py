"""Cascades in a study's tables and report: predicted from confidences, served, and what languages lose."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import analysis
from analysis import StudyFrames
from analysis.store.examples import Examples
from analysis.store.frames import BENCHMARKS, SCORES, SIZES, TRIALS, cascade_in, frame
from analysis.tables.cascades.served import cascade_curves, cascade_languages, losing_languages, served_cascades
from analysis.tables.scaling import scaling_points
from analysis.tables.tradeoff import configuration_name, configurations
from tests.analysis.helpers import by, section, write

LANGUAGES, COUNT = ("en", "de", "sw"), 400
THRESHOLD = 0.3
ALONE = {"3l": (1.0, 1.2), "12l": (4.0, 4.4)}  # p50 and mean, ms


def answers() -> dict[str, pd.DataFrame]:
    """3l knows what it knows in English and German; in Swahili it is sure of everything, and right half the time.

    12l is right 95% of the time.
    """
    random = np.random.default_rng(3)
    tables: dict[str, list[pd.DataFrame]] = {"3l": [], "12l": [], "cascade": []}
    for split, language in (("dev", "en"), *(("test", language) for language in LANGUAGES)):
        sure = random.uniform(size=COUNT)
        right = {"3l": sure > THRESHOLD, "12l": random.uniform(size=COUNT) < 0.95}
        if language == "sw":
            sure, right["3l"] = 0.9 + sure / 10, random.uniform(size=COUNT) < 0.5
        answered = sure >= THRESHOLD
        right["cascade"] = np.where(answered, right["3l"], right["12l"])
        for name, values in right.items():
            table = pd.DataFrame({"task": "pos", "split": split, "language": language, "example": range(COUNT)})
            table = table.assign(correct=values.astype(float), total=1.0)
            if name != "12l":
                table["confidence"] = sure
            tables[name].append(table.assign(small=answered.astype(float)) if name == "cascade" else table)
    return {name: pd.concat(parts, ignore_index=True) for name, parts in tables.items()}


def score(table: pd.DataFrame, *, english: bool) -> float:
    tests = table[(table["split"] == "test") & (english | (table["language"] != "en"))]
    return 100 * float(tests.groupby("language")["correct"].mean().mean())


@pytest.fixture(scope="module")
def frames() -> StudyFrames:
    tables = answers()
    about: dict[str, Any] = {"small": "3l", "small_trial": "t1", "served_as": "fp32"}
    about |= {"thresholds": {"pos": THRESHOLD}, "timed_share": 0.8}
    benchmarks: list[dict[str, Any]] = []
    for size, variant, times, cascade in (
        *(("3l", "fp32", ALONE["3l"], {}), ("12l", "fp32", ALONE["12l"], {})),
        ("12l", "cascade", (1.1, 2.5), about),
    ):
        table = tables["cascade" if cascade else size]
        values: dict[str, Any] = {"test_score": score(table, english=True)}
        values["test_score_without_english"] = score(table, english=False)
        values |= {"p50_ms": times[0], "mean_ms": times[1], "p99_ms": 9.0}
        values |= {"task_scores": {"pos": values["test_score"]}}
        values |= {"task_scores_without_english": {"pos": values["test_score_without_english"]}}
        text = {
            "size": size,
            "variant": variant,
            "trial_id": "t1",
            "hardware": "box",
            "timed_task": "pos",
            "reason": "",
        }
        text |= dict.fromkeys(("slowed_by", "mig", "driver", "baseline_trial_id"), "")
        objects = {"results": {}, "unavailable": {}, "cascade": cascade, "interference": "none seen"}
        benchmarks.append({**text, **values, **objects})
    trials = [
        {"size": size, "trial_id": "t1", "kind": "trial", "intermediate": "none", "outcome": "complete", "seed": 0}
        | {"dev_score": 50.0, "default_cell": True, "repeats": "", "targets_finished": 1}
        | {"test_score": score(tables[size], english=True)}
        | {"test_score_without_english": score(tables[size], english=False)}
        for size in ALONE
    ]
    scores = [
        {"size": size, "trial_id": "t1", "intermediate": "none", "default_cell": True, "outcome": "complete"}
        | {"task": "pos", "split": "test", "language": language, "value": score(tables[size], english=english)}
        for size in ALONE
        for language, english in (("mean", True), ("mean without en", False))
    ]
    keys = {("3l", "t1"): "3l", ("12l", "t1"): "12l", ("12l", "t1/fp32"): "12l", ("12l", "t1/cascade"): "cascade"}
    context: dict[str, Any] = {
        "experiment": "planted",
        "targets": ["pos"],
        "intermediates": ["none"],
        "marks": {},
        "arms": {},
    }
    context |= {"untrained": [], "versions": {}, "languages": {}, "protocols": {}, "data": {}, "metrics": {}}
    names = dict.fromkeys(("command", "hardware", "precision", "seed", "selection"))
    return StudyFrames(
        sizes=frame([{"size": name, "params_m": 1.0 + n, "best_trial": "t1"} for n, name in enumerate(ALONE)], SIZES),
        trials=frame(trials, TRIALS),
        scores=frame(scores, SCORES),
        benchmarks=frame(benchmarks, BENCHMARKS),
        context={**context, **names, "pretraining": {}, "deleted_runs": 0},
        examples=Examples.from_tables({key: tables[name] for key, name in keys.items()}),
    )


def test_the_curve_runs_from_asking_always_to_never(frames: StudyFrames) -> None:
    curves = cascade_curves(frames, configurations(frames))
    assert set(zip(curves["small"], curves["large"], strict=True)) == {("3l", "12l")}, (
        "the larger model is the slower one"
    )
    first, last = curves.iloc[0], curves.iloc[-1]
    tables = answers()
    assert (first["share"], first["latency_ms"]) == (0.0, pytest.approx(1.2 + 4.4))
    assert first["score"] == pytest.approx(score(tables["12l"], english=False))
    assert (last["share"], last["latency_ms"]) == (1.0, pytest.approx(1.2))
    assert last["score"] == pytest.approx(score(tables["3l"], english=False))
    assert curves["latency_ms"].is_monotonic_decreasing


def test_what_was_served_stands_beside_its_prediction(frames: StudyFrames) -> None:
    (row,) = served_cascades(frames, configurations(frames)).to_dict("records")
    assert (row["small"], row["large"], row["variant"]) == ("3l", "12l", "fp32")
    assert row["score_predicted"] == pytest.approx(row["score"]), "fp32 serves what the evaluations computed"
    sure = answers()["cascade"].query("split == 'test'")["small"].mean()
    assert row["share_predicted"] == pytest.approx(sure)
    assert row["latency_predicted_ms"] == pytest.approx(1.2 + (1 - sure) * 4.4)
    assert (row["latency_ms"], row["latency_large_ms"], row["latency_small_ms"]) == (2.5, 4.4, 1.2)


def test_languages_that_lose_are_named(frames: StudyFrames) -> None:
    """Where the small model is sure and wrong, the threshold of English dev loses; elsewhere it gains."""
    table = cascade_languages(frames, configurations(frames))
    languages = by(table, "language")
    assert list(languages) == ["de", "en", "sw"]
    swahili, german = languages["sw"], languages["de"]
    assert swahili["share"] == 1.0
    assert swahili["high"] < -30 < german["low"]
    assert swahili["low"] < swahili["change"] < swahili["high"]
    assert losing_languages(table) == ["sw"]


def test_saved_tables_keep_what_a_cascade_changes_by_language(frames: StudyFrames, tmp_path: Path) -> None:
    """And what tells serving variants of one model apart: the scores by example as served."""
    read = analysis.read_saved(analysis.save(frames, tmp_path / "study.json"))
    expected = cascade_languages(frames, configurations(frames))
    assert len(expected) == 3
    pd.testing.assert_frame_equal(cascade_languages(read, configurations(read)), expected)


def test_a_language_that_the_larger_model_was_not_scored_in_is_left_out(frames: StudyFrames) -> None:
    tables = answers()
    large = tables["12l"][tables["12l"]["language"] != "sw"]
    examples = Examples.from_tables(
        {("12l", "t1"): large, ("12l", "t1/fp32"): large, ("12l", "t1/cascade"): tables["cascade"]}
    )
    fewer = dataclasses.replace(frames, examples=examples)
    assert list(by(cascade_languages(fewer, configurations(fewer)), "language")) == ["de", "en"]


def test_a_cascade_is_a_configuration_with_its_own_name_and_no_variant_of_the_scaling_axis(frames: StudyFrames) -> None:
    served = configurations(frames)
    names = [configuration_name(row) for row in served.to_dict("records")]
    assert names == ["3l fp32", "12l fp32", "3l→12l cascade"]
    assert "cascade" not in set(scaling_points(frames)["series"])


def test_the_report_shows_curve_prediction_and_losing_languages(frames: StudyFrames, tmp_path: Path) -> None:
    page = write(frames, tmp_path)
    text = section(page, "Serving variants")
    assert "3l→12l cascade, served as fp32" in text
    assert "Measured less predicted: 0.0 points" in text
    assert "Swahili (sw)" in text
    assert "Languages that lose against the larger model" in text
    assert "p50 hides what a cascade costs" in text
    assert "3l→12l cascade" in page


def test_without_confidences_and_cascades_nothing_is_said(frames: StudyFrames, tmp_path: Path) -> None:
    tables = {("3l", "t1"): answers()["3l"].drop(columns="confidence"), ("12l", "t1"): answers()["12l"]}
    rows = [row for row in frames.benchmarks.to_dict("records") if not cascade_in(row)]
    earlier = [
        {name: value for name, value in row.items() if name != "cascade"} for row in rows
    ]  # of an earlier version
    plain = StudyFrames(
        *(frames.sizes, frames.trials, frames.scores),
        benchmarks=frame(earlier, BENCHMARKS),
        context=frames.context,
        examples=Examples.from_tables(tables),
    )
    served = configurations(plain)
    assert cascade_curves(plain, served).empty
    assert served_cascades(plain, served).empty
    assert "cascade" not in section(write(plain, tmp_path), "Serving variants")
