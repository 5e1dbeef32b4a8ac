"""Verdicts cover languages other than English wherever those are recorded; on studies with known gains."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

import analysis
from analysis import StudyFrames
from analysis.report.answer import answer
from analysis.report.findings import Findings
from analysis.store.examples import Examples, Key
from analysis.store.frames import MEAN, MEAN_WITHOUT_ENGLISH
from tests.analysis.helpers import section, write
from tests.support.studies import build_frames

BODY_M = {"small": 1.0, "middle": 2.0, "large": 4.0}
SEEDS = 6
ANALYSES: tuple[Callable[[StudyFrames], pd.DataFrame], ...] = (
    *(analysis.gains, analysis.average_gains),
    *(analysis.choices, analysis.interactions),
)
OTHER_LANGUAGES = "languages other than English"


def _study(*, english: float = 10.0, swahili: float = 0.0, recorded: bool = True, **targets: bool) -> StudyFrames:
    """Two languages; an intermediate task adds `english` points in English and `swahili` in Swahili; seeds differ by 0.1.

    `targets`: name and whether their mean without English is recorded (default: x, as `recorded` says).
    """
    random = np.random.default_rng(0)
    runs: list[dict[str, Any]] = []
    for size in BODY_M:
        for place, name in enumerate(("none", "topic")):
            for seed in range(SEEDS):
                by_task = {
                    task: {"en": 60 + place * english, "sw": 40 + place * swahili}
                    for task in targets or {"x": recorded}
                }
                drawn = {t: {code: v + random.normal(0, 0.1) for code, v in of.items()} for t, of in by_task.items()}
                run: dict[str, Any] = {"size": size, "trial_id": f"{name}{seed}", "intermediate": name, "seed": seed}
                run |= {"repeats": f"{name}0"} if seed else {}
                run["scores"] = {task: float(np.mean(list(of.values()))) for task, of in drawn.items()}
                has_mean = targets or {"x": recorded}
                run["without_english"] = {task: of["sw"] for task, of in drawn.items() if has_mean[task]}
                run["languages"] = {code: {task: of[code] for task, of in drawn.items()} for code in ("en", "sw")}
                runs.append(run)
    frames = build_frames(runs, body_m=BODY_M)
    frames.context["intermediates"] = ["none", "topic"]
    return frames


def test_a_gain_in_english_alone_is_a_tie_in_every_verdict() -> None:
    frames = _study()
    gained = analysis.gains(frames)
    assert gained["gain"].abs().max() < 0.2
    assert set(gained["verdict"]) == {"tie"}
    assert set(gained["judged_by"]) == {MEAN_WITHOUT_ENGLISH}
    assert set(analysis.gains(frames, cells="tuned")["verdict"]) == {"tie"}
    averages = analysis.average_gains(frames)
    assert averages["gain"].abs().max() < 0.2
    assert (averages["p_holm"] > 0.05).all()
    choices = analysis.choices(frames)
    assert choices["gain"].abs().max() < 0.5
    assert choices["test_score"].between(39, 41).all(), "Swahili's"
    # English alone differs from zero, and can still be requested.
    assert (analysis.gains(frames, language="en")["verdict"] == "gain").all()
    by_language = analysis.gains_by_language(frames).groupby("language")["gain"].mean().to_dict()
    assert by_language == pytest.approx({"en": 10, "sw": 0, MEAN: 5, MEAN_WITHOUT_ENGLISH: 0}, abs=0.2)
    assert f"over {OTHER_LANGUAGES} (from" in answer(Findings(frames)).gain


def test_a_gain_that_shrinks_in_english_alone_has_no_slope() -> None:
    """English gains ten points on the small size and none on the large one; Swahili gains nothing."""
    sizes = {"small": 10.0, "middle": 5.0, "large": 0.0}
    whole = {size: _study(english=gain) for size, gain in sizes.items()}
    parts = [frames.scores[frames.scores["size"] == size] for size, frames in whole.items()]
    frames = dataclasses.replace(whole["small"], scores=pd.concat(parts, ignore_index=True))
    (row,) = analysis.interactions(frames).to_dict("records")
    assert abs(row["slope"]) < 0.1
    assert row["verdict"] == "unclear"
    with_english = dataclasses.replace(frames, scores=frames.scores[frames.scores["language"] != MEAN_WITHOUT_ENGLISH])
    assert analysis.interactions(with_english)["slope"].tolist() == pytest.approx([-2.5], abs=0.1)


def test_studies_are_compared_without_english() -> None:
    study, other = _study(), _study()
    raised = other.scores.assign(value=other.scores["value"] + 5.0 * (other.scores["language"] == MEAN))
    scores = analysis.compare(study, dataclasses.replace(other, scores=raised)).scores
    assert scores["difference"].abs().max() == 0
    assert set(scores["judged_by"]) == {MEAN_WITHOUT_ENGLISH}
    bare = analysis.compare(study, _study(recorded=False)).scores
    assert set(bare["judged_by"]) == {MEAN}, "the only mean that both have"


@pytest.mark.slow
def test_english_counts_where_no_other_mean_is_recorded_and_the_report_says_so(tmp_path: Any) -> None:
    frames = _study(recorded=False)
    assert set(analysis.gains(frames)["judged_by"]) == {MEAN}
    assert analysis.gains(frames)["gain"].to_numpy() == pytest.approx(5.0, abs=0.2)
    gain = answer(Findings(frames)).gain
    assert "over all languages, English included (from" in gain
    assert "differ from zero after Holm's correction" in gain
    page = section(write(frames, tmp_path), "What intermediate training buys")
    assert "Gains in points, mean over all languages, English included" in page
    assert OTHER_LANGUAGES not in page


@pytest.mark.slow
def test_a_target_without_that_mean_keeps_its_own_and_is_named(tmp_path: Any) -> None:
    frames = _study(x=True, y=False)
    gained = analysis.gains(frames).groupby("task")["gain"].mean()
    assert gained.to_dict() == pytest.approx({"x": 0.0, "y": 5.0}, abs=0.2)
    assert frames.judged_by == {"x": MEAN_WITHOUT_ENGLISH, "y": MEAN}
    page = write(frames, tmp_path, other=frames)
    languages = f"{OTHER_LANGUAGES} (y: English included)"
    gains = section(page, "What intermediate training buys")
    for caption in ("Gains in points, mean over ", "without a contamination flag (", "judged on test, mean over "):
        assert f"{caption}{languages}" in gains
    assert f"paired by seed, mean over {languages}" in section(page, "Compared with made")


def test_one_trial_that_lacks_the_mean_has_its_target_judged_over_all() -> None:
    """Differences between means over different languages are not gains."""
    frames = _study()
    lost = (frames.scores["trial_id"] == "topic1") & (frames.scores["language"] == MEAN_WITHOUT_ENGLISH)
    assert dataclasses.replace(frames, scores=frames.scores[~lost]).judged_by == {"x": MEAN}


@pytest.mark.slow
def test_the_bootstrap_takes_the_examples_of_the_languages_that_are_judged() -> None:
    frames = _study()

    def examples(english: float) -> Examples:
        random, tables = np.random.default_rng(1), dict[Key, pd.DataFrame]()
        for size, trial in frames.trials[["size", "trial_id"]].itertuples(index=False, name=None):
            swahili = random.uniform(size=80) < 0.4
            own = np.random.default_rng(len(tables)).uniform(size=80) < english
            rows = [("sw", n, right) for n, right in enumerate(swahili)] + [
                ("en", n, right) for n, right in enumerate(own)
            ]
            table = pd.DataFrame(rows, columns=["language", "example", "correct"])
            tables[size, trial] = table.assign(
                task="x", split="test", total=1.0, correct=table["correct"].astype(float)
            )
        return Examples.from_tables(tables, resamples=100)

    noisy, sure = (dataclasses.replace(frames, examples=examples(share)) for share in (0.5, 1.0))
    for analyse in ANALYSES:
        pd.testing.assert_frame_equal(analyse(noisy), analyse(sure))
    assert analysis.gains(noisy)["with_examples"].all()
    pd.testing.assert_frame_equal(analysis.compare(noisy, noisy).scores, analysis.compare(sure, sure).scores)
    # With English the two would differ.
    over_all = [analysis.gains(frames, language=MEAN)["se"] for frames in (noisy, sure)]
    assert not over_all[0].equals(over_all[1])
