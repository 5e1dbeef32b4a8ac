"""Several seeds: intervals, budgets, tuned gains and changes with size, on studies with known truth."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import analysis
from analysis.report.answer import answer
from analysis.report.findings import Findings
from analysis.tables.budget import compare_configurations
from analysis.tables.formatting import interval, signed
from tests.analysis.helpers import section, write
from tests.support.studies import build_frames

STUDIES = 100
ALLOWED = 0.05 + 3 * math.sqrt(0.05 * 0.95 / STUDIES)  # three standard errors above 5%
BODY_M = {"small": 1.0, "large": 4.0}


def _runs(size: str, scores: dict[int, dict[str, float]], **rest: Any) -> Iterator[dict[str, Any]]:
    """A trial of the first seed and its repeats with the others."""
    first = next(iter(scores))
    for seed, by_task in scores.items():
        repeat = {} if seed == first else {"repeats": "t", "default_cell": True}
        name = "t" if seed == first else f"t-s{seed}"
        yield {"size": size, "trial_id": name, "intermediate": "none", "seed": seed, "scores": by_task} | repeat | rest


def _served(size: str, scores: dict[str, float], **rest: Any) -> dict[str, Any]:
    return {"size": size, "trial_id": "t", "task_scores": scores, "p50_ms": 1.0} | rest


@pytest.mark.slow
def test_score_intervals_and_leads_are_those_of_the_mean_over_seeds() -> None:
    """Eight seeds of spread 2 about 60 and 59, one of them served: the truth is covered in 95%, and "better" is calibrated."""
    covered, lead_covered, stated, right = [], [], [], []
    for study in range(120):
        random = np.random.default_rng(study)
        scores = {size: true + random.normal(0, 2, size=8) for size, true in (("small", 59.0), ("large", 60.0))}
        frames = build_frames(
            [run for size, of in scores.items() for run in _runs(size, {s: {"x": float(v)} for s, v in enumerate(of)})],
            [_served(size, {"x": float(of[0])}) for size, of in scores.items()],
            body_m=BODY_M,
        )
        rows = {row["size"]: row for row in analysis.configurations(frames).to_dict("records")}
        for size, true in (("small", 59.0), ("large", 60.0)):
            covered.append(rows[size]["score_low"] <= true <= rows[size]["score_high"])
        choice = analysis.best_for_budget(frames, "p50_ms<=5")
        assert choice.best is not None
        assert choice.difference is not None
        assert choice.difference.value > 0, "the leader has the higher mean"
        lead = 1.0 if choice.best["size"] == "large" else -1.0
        lead_covered.append(choice.difference.low <= lead <= choice.difference.high)
        stated.append(choice.difference.probability)
        right.append(lead > 0)
    # Three standard errors of 240 and of 120. Intervals around a single artefact would cover half as often.
    assert np.mean(covered) == pytest.approx(0.95, abs=0.042)
    assert np.mean(lead_covered) == pytest.approx(0.95, abs=0.06)
    assert np.mean(right) == pytest.approx(np.mean(stated), abs=0.1)


def test_the_change_that_serving_made_applies_to_the_mean_over_seeds() -> None:
    frames = build_frames(
        _runs("small", {0: {"x": 66.0}, 1: {"x": 60.0}, 2: {"x": 60.0}}),
        [_served("small", {"x": 66.0}), _served("small", {"x": 64.5}, variant="int8")],
        body_m=BODY_M,
    )
    rows = {row["variant"]: row for row in analysis.configurations(frames).to_dict("records")}
    assert (rows["fp32"]["score"], rows["int8"]["score"]) == (66.0, 64.5)
    assert (rows["fp32"]["seed_mean"], rows["int8"]["seed_mean"]) == (62.0, 60.5)


def test_two_configurations_differ_over_the_targets_that_both_were_scored_on() -> None:
    frames = build_frames(
        [
            *_runs("small", {0: {"x": 50.0, "y": 90.0}, 1: {"x": 51.0, "y": 90.0}}),
            *_runs("large", {0: {"x": 55.0}, 1: {"x": 57.0}}),
        ],
        [_served("small", {"x": 50.0, "y": 90.0}), _served("large", {"x": 55.0})],
        body_m=BODY_M,
    )
    small, large = ({str(k): v for k, v in row.items()} for row in analysis.configurations(frames).to_dict("records"))
    assert compare_configurations(frames, large, small).value == pytest.approx((5 + 6) / 2)
    choice = analysis.best_for_budget(frames, "p50_ms<=5")
    assert choice.best is not None
    assert choice.best["size"] == "large", "the small size's 70 includes an easier target"


def test_the_leader_is_decided_over_shared_seeds() -> None:
    """A third seed lifts the mean of the small size above the large one, which is better on both shared seeds."""
    frames = build_frames(
        [
            *_runs("small", {0: {"x": 50.0}, 1: {"x": 51.0}, 2: {"x": 90.0}}),
            *_runs("large", {0: {"x": 55.0}, 1: {"x": 57.0}}),
        ],
        [_served("small", {"x": 50.0}), _served("large", {"x": 55.0})],
        body_m=BODY_M,
    )
    choice = analysis.best_for_budget(frames, "p50_ms<=5")
    assert choice.best is not None
    assert choice.difference is not None
    assert choice.best["size"] == "large"
    assert choice.difference.value == pytest.approx(5.5)


def test_a_failed_or_partial_repeat_changes_nothing() -> None:
    runs = [
        *_runs("small", {0: {"x": 50.0, "y": 60.0}, 1: {"x": 52.0, "y": 62.0}}),
        *_runs("large", {0: {"x": 55.0, "y": 65.0}, 1: {"x": 58.0, "y": 70.0}}),
    ]
    lost = {"size": "large", "trial_id": "t-s2", "repeats": "t", "intermediate": "none", "seed": 2, "outcome": "failed"}
    small = {"size": "small", "trial_id": "t-s2", "repeats": "t", "intermediate": "none", "seed": 2}
    served = [_served("small", {"x": 50.0, "y": 60.0}), _served("large", {"x": 55.0, "y": 65.0})]
    clean = analysis.best_for_budget(build_frames(runs, served, body_m=BODY_M), "p50_ms<=5").difference
    for scores in ({}, {"x": 5.0}):
        runs_too = [*runs, lost | {"scores": scores}, small | {"scores": {"x": 51.0, "y": 61.0}}]
        difference = analysis.best_for_budget(build_frames(runs_too, served, body_m=BODY_M), "p50_ms<=5").difference
        assert difference == clean
    assert clean is not None
    assert clean.rests_on == "2 seeds"


@pytest.mark.slow
def test_tuned_gains_leave_out_the_selection_seed() -> None:
    """Twelve rates of an intermediate task without effect, chosen on noisy dev scores: the selection seed shows a gain."""
    fresh, with_chosen = [], []
    for study in range(60):
        random = np.random.default_rng(study)
        runs = []
        for intermediate, rates in (("none", 1), ("topic", 12)):
            scores = 60 + random.normal(
                0, 2, size=rates
            )  # the same on dev and test, so the chosen trial is lucky on both
            for number, score in enumerate(scores):
                own = {"size": "small", "trial_id": f"{intermediate}{number}", "intermediate": intermediate, "seed": 0}
                runs.append(own | {"lr_intermediate": 1e-4 * (number + 1), "scores": {"x": float(score)}})
            winner = f"{intermediate}{int(scores.argmax())}"
            runs += [
                {"size": "small", "trial_id": f"{winner}-s{seed}", "repeats": winner, "intermediate": intermediate}
                | {"seed": seed, "scores": {"x": float(60 + random.normal(0, 2))}}
                for seed in (1, 2)
            ]
        frames = build_frames(runs, body_m={"small": 1.0})
        frames.context["intermediates"] = ["none", "topic"]
        (row,) = analysis.gains(frames, cells="tuned").to_dict("records")
        assert row["n"] == 2
        fresh.append(row["gain"])
        chosen = frames.trials["trial_id"].isin(["none0", *(run["trial_id"] for run in runs if "repeats" not in run)])
        lone = analysis.gains(analysis.StudyFrames(frames.sizes, frames.trials[chosen], *_rest(frames)), cells="tuned")
        with_chosen.append(lone["gain"].iloc[0])
    assert abs(np.mean(fresh)) < 4 * 2 / math.sqrt(
        60
    )  # four standard errors of the mean of 60 differences with a spread of 2
    assert np.mean(with_chosen) > 2  # the best of twelve is 1.6 standard deviations of 2 above its mean


def _rest(frames: analysis.StudyFrames) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, Any]]:
    return frames.scores, frames.benchmarks, frames.context


def test_the_answer_uses_tuned_gains_where_they_have_more_seeds() -> None:
    runs: list[dict[str, Any]] = []
    for intermediate, gain in (("none", 0.0), ("topic", 5.0)):
        own = {"size": "small", "intermediate": intermediate}
        runs.append(own | {"trial_id": f"{intermediate}0", "seed": 0, "scores": {"x": 50.0 - gain}})
        tuned = own | {"lr_target": 5e-4, "default_cell": False}
        runs.append(tuned | {"trial_id": f"{intermediate}1", "seed": 0, "scores": {"x": 60.0 + 2 * gain}})
        runs += [
            tuned
            | {"trial_id": f"{intermediate}1-s{s}", "repeats": f"{intermediate}1", "seed": s}
            | {"scores": {"x": 60.0 + gain}}
            for s in (1, 2)
        ]
    frames = build_frames(runs, body_m=BODY_M)
    frames.context["intermediates"] = ["none", "topic"]
    sentence = answer(Findings(frames)).gain
    assert "by +5.0 points on average over 1 comparison " in sentence, (
        "not -5 at default rates, nor +10 on the selection seed"
    )
    assert "each at the learning rates best for it on English dev" in sentence


def _gains_by_size(gains: dict[str, dict[int, float]], body_m: dict[str, float]) -> pd.DataFrame:
    runs = [
        {"size": size, "trial_id": f"{name}{seed}", "intermediate": name, "seed": seed}
        | {"scores": {"x": 50.0 + (gain if name == "topic" else 0.0)}}
        for size, by_seed in gains.items()
        for seed, gain in by_seed.items()
        for name in ("none", "topic")
    ]
    return analysis.interactions(build_frames(runs, body_m=body_m))


def test_two_sizes_with_one_encoder_have_no_slope_and_are_one_point() -> None:
    same = {"a": {0: 1.0, 1: 2.0}, "b": {0: 3.0, 1: 5.0}}
    assert _gains_by_size(same, {"a": 1.0, "b": 1.0}).empty
    (row,) = _gains_by_size(same | {"c": {0: 0.0, 1: 0.5}}, {"a": 1.0, "b": 1.0, "c": 2.0}).to_dict("records")
    assert (row["sizes"], row["points"]) == (2, 6)
    assert row["slope"] == pytest.approx(0.25 - 2.75)
    assert math.isnan(row["p"])
    assert row["verdict"] == "unclear"


@pytest.mark.slow
def test_the_seeds_of_a_size_are_not_separate_points_of_the_slope() -> None:
    """Sizes that differ at random, with many seeds each: a trend appears in at most 5% of studies."""
    trends = 0
    for study in range(STUDIES):
        random = np.random.default_rng(study)
        own = random.normal(0, 2, size=4)
        noise = random.normal(0, 0.3, size=(4, 8))
        gains = {name: dict(enumerate((own[k] + noise[k]).tolist())) for k, name in enumerate("abcd")}
        table = _gains_by_size(gains, {name: 2.0**k for k, name in enumerate("abcd")})
        trends += table["verdict"].iloc[0] != "unclear"
    assert trends / STUDIES <= ALLOWED


def test_points_of_a_slope_weigh_by_their_standard_errors() -> None:
    """By hand: size c has one run and the others two, so its weight is half theirs."""
    gains = {"a": {0: 3.0, 1: 5.0}, "b": {0: 2.0, 1: 4.0}, "c": {0: 5.0}, "d": {0: 0.0, 1: 2.0}}
    (row,) = _gains_by_size(gains, {name: 2.0**k for k, name in enumerate("abcd")}).to_dict("records")
    expected = np.polyfit([0, 1, 2, 3], [4, 3, 5, 1], 1, w=np.sqrt([2, 2, 1, 2]))[0]
    assert row["slope"] == pytest.approx(expected)


def _chosen_study(gains: dict[str, tuple[float, float]], seeds: int) -> tuple[analysis.StudyFrames, dict[str, Any]]:
    """Intermediate tasks that gain on targets x and y, on dev and test; the scores by intermediate and target, seed by seed."""
    random = np.random.default_rng(3)
    runs, measured = [], {}
    for name, (x, y) in {"none": (0.0, 0.0), **gains}.items():
        measured[name] = {"x": 50 + x + random.normal(0, 1, seeds), "y": 60 + y + random.normal(0, 1, seeds)}
        for seed in range(seeds):
            scores = {task: float(values[seed]) for task, values in measured[name].items()}
            run = {"size": "small", "trial_id": f"{name}{seed}", "intermediate": name, "seed": seed, "scores": scores}
            run |= (
                {"repeats": f"{name}0"} if seed else {"dev": {"x": 50 + x, "y": 60 + y}, "dev_score": 55 + (x + y) / 2}
            )
            runs.append(run)
    frames = build_frames(runs, body_m={"small": 1.0})
    frames.context["intermediates"] = ["none", *gains]
    return frames, measured


def test_the_gain_of_a_choice_is_paired_without_its_selection_seed() -> None:
    """By hand: the paired t-test of four seeds, with a single intermediate task, and none chosen for y."""
    frames, measured = _chosen_study({"topic": (3.0, -2.0)}, seeds=5)
    rows = {row["choice"]: row for row in analysis.choices(frames).to_dict("records")}
    by_task = {
        task: (measured["topic"][task] - measured["none"][task])[1:] for task in "xy"
    }  # without the selection seed
    for choice, differences in (
        ("best single", (by_task["x"] + by_task["y"]) / 2),
        ("best per target", by_task["x"] / 2),
    ):
        expected = stats.ttest_1samp(differences, 0).confidence_interval(0.95)
        assert rows[choice]["gain"] == pytest.approx(differences.mean())
        assert (rows[choice]["low"], rows[choice]["high"]) == pytest.approx((expected.low, expected.high))
        assert rows[choice]["seeds"] == 4
    assert rows["best per target"]["intermediate"] == "x: topic; y: none"
    assert rows["none"]["gain"] == 0
    assert math.isnan(rows["none"]["low"])


def test_a_choice_has_the_interval_of_the_tuned_average() -> None:
    frames, _ = _chosen_study({"topic": (3.0, 1.0), "mixture": (1.0, 2.0), "order": (0.0, 0.0)}, seeds=4)
    averages = {row["intermediate"]: row for row in analysis.average_gains(frames, cells="tuned").to_dict("records")}
    rows = {row["choice"]: row for row in analysis.choices(frames).to_dict("records")}
    for choice, intermediate in (("best single", "topic"), ("mixture mixture", "mixture")):
        for name in ("gain", "low", "high", "seeds"):
            assert rows[choice][name] == pytest.approx(averages[intermediate][name])


@pytest.mark.slow
def test_a_choice_on_one_seed_has_no_interval_and_the_page_warns_of_selection(tmp_path: Path) -> None:
    frames, measured = _chosen_study({"topic": (3.0, 1.0)}, seeds=1)
    row = {row["choice"]: row for row in analysis.choices(frames).to_dict("records")}["best single"]
    assert row["gain"] == pytest.approx(np.mean([measured["topic"][t][0] - measured["none"][t][0] for t in "xy"]))
    assert row["seeds"] == 1
    assert math.isnan(row["low"])
    gains = section(write(frames, tmp_path), "What intermediate training buys")
    assert "picking the best of several inflates the gain" in gains
    assert "small · best single\n" in gains
    assert "one seed, no examples\n1\n" in gains
    frames, _ = _chosen_study({"topic": (3.0, 1.0)}, seeds=4)
    row = {row["choice"]: row for row in analysis.choices(frames).to_dict("records")}["best single"]
    gains = section(write(frames, tmp_path), "What intermediate training buys")
    gain, between = signed(row["gain"]), interval(row["low"], row["high"])
    assert f"best single {gain} {between}" in gains, "in the sentence"
    assert f"\n{gain}\n{between}\n" in gains, "in the table"
