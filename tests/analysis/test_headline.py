"""What the report says first, on studies whose truth is known."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import analysis
from analysis import StudyFrames
from analysis.report.answer import Answer, answer
from analysis.report.findings import Findings
from analysis.store.examples import Examples
from analysis.tables.chance import NEAR_CHANCE_POINTS, at_chance
from analysis.tables.formatting import interval, signed
from tests.analysis.helpers import default_cells, header, section, with_chance, write
from tests.support.studies import build_frames

BODY_M = {"small": 1.0, "large": 4.0}


def _trial(size: str, name: str, scores: Mapping[str, float], *, dev: float, **rest: Any) -> dict[str, Any]:
    run: dict[str, Any] = {"size": size, "trial_id": name, "intermediate": "none", "seed": 0, "scores": dict(scores)}
    return run | {"dev_score": dev} | rest


def _served(size: str, name: str, scores: Mapping[str, float], **rest: Any) -> dict[str, Any]:
    return {"size": size, "trial_id": name, "task_scores": dict(scores), "timed_task": "x", "p50_ms": 1.0} | rest


def _answer(frames: StudyFrames) -> Answer:
    return answer(Findings(frames))


@pytest.mark.slow
def test_the_best_configuration_is_the_one_chosen_on_dev_and_a_better_one_is_named(tmp_path: Path) -> None:
    frames = build_frames(
        [
            _trial("small", "chosen", {"x": 60.0}, dev=70.0),
            _trial("small", "passed", {"x": 64.0}, dev=65.0, intermediate="topic"),
            _trial("small", "early", {"x": 99.0}, dev=10.0, outcome="stopped_early"),
        ],
        [_served("small", "chosen", {"x": 60.0})],
        body_m=BODY_M,
    )
    answered = _answer(frames)
    assert answered.best.startswith(
        "Of the configurations chosen on English dev and served, the most accurate is size small"
    )
    assert "60.0% (1 target" in answered.best
    assert (
        "trial passed of size small, after intermediate training on topic, has 64.0% (mean of 1 seed)"
        in answered.better
    )
    assert "against 60.0% (mean of 1 seed)" in answered.better
    assert "not chosen on English dev and not served" in answered.better
    assert answered.better in header(write(frames, tmp_path))


def test_no_better_configuration_is_named_where_the_chosen_one_is_best() -> None:
    runs = [_trial("small", "chosen", {"x": 60.0}, dev=70.0), _trial("small", "passed", {"x": 59.0}, dev=65.0)]
    assert _answer(build_frames(runs, [_served("small", "chosen", {"x": 60.0})], body_m=BODY_M)).better == ""


def test_a_better_configuration_is_judged_over_all_its_seeds() -> None:
    """One lucky seed of the passed trial is above the chosen one; its mean is not."""
    repeat = {"repeats": "passed", "seed": 1}
    runs = [
        _trial("small", "chosen", {"x": 60.0}, dev=70.0),
        _trial("small", "passed", {"x": 64.0}, dev=65.0),
        _trial("small", "passed-s1", {"x": 50.0}, dev=65.0) | repeat,
    ]
    assert _answer(build_frames(runs, [_served("small", "chosen", {"x": 60.0})], body_m=BODY_M)).better == ""


def test_without_benchmarks_a_better_trial_is_named_too() -> None:
    runs = [_trial("small", "chosen", {"x": 60.0}, dev=70.0), _trial("small", "passed", {"x": 64.0}, dev=65.0)]
    answered = _answer(build_frames(runs, body_m=BODY_M))
    assert answered.best.startswith("The best trial on English dev is chosen of size small")
    assert "trial passed of size small, without intermediate training, has 64.0%" in answered.better


@pytest.mark.parametrize(
    ("others", "says"),
    [
        ([], "No other configuration was timed on the same hardware."),
        ([{"p50_ms": 2.0}], "No configuration on the same hardware is faster."),
        ([{"p50_ms": 0.5, "hardware": "a gpu"}], "No other configuration was timed on the same hardware."),
        ([{"p50_ms": 0.5}], "No faster configuration on the same hardware comes within 2 points of it."),
        (
            [{"p50_ms": 0.5, "task_scores": {"x": 59.0}}],
            "The fastest within 2 points of it is size small served as int8",
        ),
    ],
)
def test_the_fastest_is_only_sought_among_those_that_are_faster(others: list[dict[str, Any]], says: str) -> None:
    runs = [_trial(size, "t", {"x": score}, dev=70.0) for size, score in (("small", 50.0), ("large", 60.0))]
    small = [_served("small", "t", {"x": 50.0}, variant="int8") | other for other in others]
    frames = build_frames(runs, [_served("large", "t", {"x": 60.0}), *small], body_m=BODY_M)
    assert _answer(frames).fastest.startswith(says)


@pytest.mark.slow
def test_one_seed_is_said_to_be_not_tested(tmp_path: Path) -> None:
    frames = default_cells({"none": 50.0, "topic": 52.0, "order": 49.0}, sd=0.0, seeds=1)
    gain = _answer(frames).gain
    assert gain.endswith("The mean change is between order (−1.0) and topic (+2.0). One seed: not tested.")
    assert "zero" not in gain
    page = write(frames, tmp_path)
    gains = section(page, "What intermediate training buys")
    assert "one seed: not tested" in gains
    assert "undecided\n" not in gains


@pytest.mark.slow
def test_a_gain_that_is_tested_shows_the_corrected_p_it_rests_on(tmp_path: Path) -> None:
    frames = default_cells({"none": 50.0, "topic": 56.0, "order": 50.0}, sd=0.5, seeds=6)
    averages = analysis.average_gains(frames).set_index("intermediate")
    gain = _answer(frames).gain
    assert (
        "Of 2 mean gains over targets, 1 differs from zero after Holm's correction, most of all topic on size a" in gain
    )
    assert averages["p_holm"]["topic"] < 0.001
    assert gain.endswith("corrected p < 0.001.")
    first, second = (f"{name} ({signed(averages['gain'][name])})" for name in ("topic", "order"))
    assert (
        f"The mean change is best with {first}. Told from it, corrected for all pairs: {second}. Of 2 mean gains"
        in gain
    )
    nothing = default_cells({"none": 50.0, "topic": 50.0, "order": 50.0}, sd=1.0, seeds=6)
    smallest = analysis.average_gains(nothing)["p_holm"].min()
    assert f"none differs from zero after Holm's correction (smallest p = {smallest:.3f})" in _answer(nothing).gain
    assert "Not told from it: " in _answer(nothing).gain
    page = section(write(frames, tmp_path), "What intermediate training buys")
    assert "corrected p (Holm)\n" in page
    could = analysis.gains(frames).set_index("intermediate")["detectable_corrected"]["order"]
    assert f"undecided\n{could:.1f}\n" in page
    assert [f"\n{rank}\n6\n1\n" in page for rank in (1, 2)] == [True, True], "rank, seeds, targets"
    assert "An interval is for one comparison alone. A verdict rests on the corrected p" in page


@pytest.mark.slow
def test_a_slope_whose_interval_excludes_zero_shows_the_corrected_p_of_its_verdict(tmp_path: Path) -> None:
    """A row with p = 0.035 and a smaller one before it in a table of three: Holm doubles it."""
    sizes = dict(zip("abcd", (0, 1, 2, 3), strict=True))
    wiggle = (0.0, 0.44, -0.36, 0.0)
    cells = {
        size: {"none": 50.0, "topic": 56.0 - 0.8 * k + wiggle[k], "order": 50.0 + wiggle[3 - k]}
        for size, k in sizes.items()
    }
    frames = default_cells(cells, sd=0.0, seeds=2)
    rows = analysis.interactions(frames).set_index("intermediate")
    topic = rows.to_dict("index")["topic"]
    assert topic["high"] < 0, "the interval is the row's own"
    assert topic["p"] < 0.05 < topic["p_holm"]
    assert topic["verdict"] == "unclear"
    page = section(write(frames, tmp_path), "What intermediate training buys")
    shown = page[page.index("Does the gain change with size?") :]
    assert "verdicts rest on p, corrected for 3 rows" in shown
    assert f"{topic['p_holm']:.3f}\nundecided" in shown


@pytest.mark.slow
def test_a_target_at_chance_is_named_and_left_out_of_the_headline(tmp_path: Path) -> None:
    runs: list[dict[str, Any]] = []
    for size, bonus in (("small", 0.0), ("large", 4.0)):
        for name, x, y in (("none", 60.0, 49.5), ("topic", 62.0, 44.5)):
            for seed in range(3):
                repeats = {"repeats": f"{name}0"} if seed else {}
                scores = {"x": x + bonus + 0.1 * seed, "y": y + 0.1 * seed}
                runs.append(_trial(size, f"{name}{seed}", scores, dev=x, intermediate=name, seed=seed) | repeats)
    served = [
        _served("small", "topic0", {"x": 62.0, "y": 44.5}, p50_ms=1.0),
        _served("large", "topic0", {"x": 66.0, "y": 44.5}, p50_ms=2.0),
    ]
    frames = with_chance(build_frames(runs, served, body_m=BODY_M), {"x": 33.0, "y": 50.0})
    frames.context["intermediates"] = ["none", "topic"]

    learned, guessed = analysis.targets_against_chance(frames).to_dict("records")
    assert (learned["at_chance"], guessed["at_chance"]) == (False, True)
    assert guessed["score"] == pytest.approx((49.6 + 44.6) / 2), "the mean of the trials best on dev, and their repeats"
    answered = _answer(frames)
    assert "66.0% (1 target above chance, all languages, English included; 55.2% over all 2)" in answered.best
    assert "by +2.0 points on average over 2 comparisons above chance (−1.5 over all 4)" in answered.gain
    assert answered.left_out.startswith(
        "Left out of these means, because no size scores above chance on them: y (best size "
    )
    assert answered.left_out.endswith("47.1%, chance 50.0%).")

    page = write(frames, tmp_path)
    assert answered.left_out in header(page)
    benchmarks = section(page, "Benchmarks")
    assert "test score, targets above chance (%)\n" in benchmarks
    assert "66.0\n55.2\n" in benchmarks, "both means"
    gains = section(page, "What intermediate training buys")
    assert "corrected p (Holm), above chance\n" in gains
    averages = gains[gains.index("Average gains as a table") : gains.index("One intermediate task for all")]
    above = analysis.average_gains(frames, above_chance=True).to_dict("records")[0]
    assert "small\ntopic\n−1.5\n" in averages
    assert f"\n+2.0\n{interval(above['low'], above['high'])}\n" in averages, (
        "the mean of the headline, and its interval"
    )
    chance = gains[gains.index("Targets at chance") :]
    assert "y\n50.0\n" in chance


def test_a_target_that_one_size_learns_stays_in() -> None:
    runs = [_trial(size, "t", {"x": 60.0, "y": y}, dev=60.0) for size, y in (("small", 49.0), ("large", 58.0))]
    served = [_served(size, "t", {"x": 60.0, "y": y}) for size, y in (("small", 49.0), ("large", 58.0))]
    frames = with_chance(build_frames(runs, served, body_m=BODY_M), {"x": 33.0, "y": 50.0})
    assert at_chance(frames) == []
    answered = _answer(frames)
    assert "59.0% (2 targets, all languages" in answered.best
    assert answered.left_out == ""


def test_without_a_recorded_chance_nothing_is_left_out() -> None:
    frames = build_frames([_trial("small", "t", {"x": 1.0}, dev=1.0)], body_m=BODY_M)
    assert at_chance(frames) == []
    assert not analysis.targets_against_chance(frames)["at_chance"].any()


def test_where_every_target_is_at_chance_all_count_and_the_report_says_so(tmp_path: Path) -> None:
    runs = [_trial("small", "t", {"x": 33.0, "y": 50.5}, dev=40.0)]
    served = [_served("small", "t", {"x": 33.0, "y": 50.5})]
    frames = with_chance(build_frames(runs, served, body_m=BODY_M), {"x": 33.0, "y": 50.0})
    assert at_chance(frames) == []
    answered = _answer(frames)
    assert "41.8% (2 targets" in answered.best
    assert answered.left_out.startswith(
        "No size scores above chance on any target: x (best size small: 33.0%, chance 33.0%)"
    )
    assert answered.left_out in header(write(frames, tmp_path))


def test_few_examples_widen_what_counts_as_chance() -> None:
    """Three points above chance: distinguishable with 4,000 examples, not with 40."""

    def frames(examples: int) -> StudyFrames:
        study = with_chance(build_frames([_trial("small", "t", {"x": 53.0}, dev=50.0)], body_m=BODY_M), {"x": 50.0})
        right = (np.arange(examples) < round(0.53 * examples)).astype(float)
        table = pd.DataFrame({"task": "x", "split": "test", "language": "de", "example": range(examples)})
        tables = {("small", "t"): table.assign(correct=right, total=1.0)}
        return StudyFrames(
            *(study.sizes, study.trials, study.scores, study.benchmarks, study.context),
            examples=Examples.from_tables(tables, resamples=200),
        )

    flagged = {count: bool(analysis.targets_against_chance(frames(count))["at_chance"].iloc[0]) for count in (40, 4000)}
    assert flagged == {40: True, 4000: False}
    assert NEAR_CHANCE_POINTS == 1.0


def test_what_is_no_better_than_chance_or_one_answer_to_everything_is_said_of_the_best() -> None:
    runs = [
        _trial("small", "chosen", {"x": 60.0, "y": 33.0}, dev=70.0, constant="y in 3 languages"),
        _trial("small", "other", {"x": 50.0, "y": 50.0}, dev=60.0),
    ]
    frames = build_frames(runs, [_served("small", "chosen", {"x": 60.0, "y": 33.0})], body_m=BODY_M)
    best = _answer(with_chance(frames, {"x": 50.0, "y": 33.3})).best
    assert best.endswith(
        "It is no better than chance on y (33.0%, chance 33.3%). It gives every example the same answer on y in 3 languages."
    )
    assert "no better than chance" not in _answer(with_chance(frames, {"x": 50.0, "y": 20.0})).best


def test_a_size_that_is_better_and_was_not_served_is_said_to_be_chosen() -> None:
    """As where the benchmark of the largest size failed."""
    runs = [_trial("small", "s", {"x": 60.0}, dev=70.0), _trial("large", "l", {"x": 65.0}, dev=75.0)]
    better = _answer(build_frames(runs, [_served("small", "s", {"x": 60.0})], body_m=BODY_M)).better
    assert "A better one was measured, but not served, though chosen on English dev for its size: trial l" in better


def test_a_cascade_is_not_praised_for_the_p50_of_its_smaller_model() -> None:
    runs = [_trial("small", "s", {"x": 55.0}, dev=60.0), _trial("large", "l", {"x": 62.0}, dev=75.0)]
    cascade = {"small": "small", "small_trial": "s", "served_as": "fp32", "thresholds": {}, "timed_share": 0.6}
    served = [
        _served("small", "s", {"x": 55.0}, p50_ms=2.0),
        _served("large", "l", {"x": 62.0}, p50_ms=10.0),
        _served("large", "l", {"x": 61.6}, p50_ms=2.1, variant="cascade", cascade=cascade),
    ]
    fastest = _answer(build_frames(runs, served, body_m=BODY_M)).fastest
    assert fastest == "No faster configuration on the same hardware comes within 2 points of it."
