"""Pareto fronts, hypervolumes and budgets."""

from __future__ import annotations

import dataclasses
import math
import re

import numpy as np
import pandas as pd
import pytest
import vl_convert as vlc

import analysis
from analysis import StudyFrames, pareto_front
from analysis.charts.tradeoff import tradeoff_chart
from analysis.tables.tradeoff import best_trials, configurations
from tests.support.studies import Planted

PLANTED = Planted()


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        ([], []),
        ([(1, 1)], [True]),
        ([(1, 1), (2, 2), (3, 3)], [True, True, True]),
        ([(3, 1), (2, 2), (1, 3)], [False, False, True]),
        ([(1, 5), (1, 5)], [True, True]),  # equal in both: neither dominates
        ([(1, 5), (2, 5)], [True, False]),  # as good, more expensive
        ([(1, 5), (1, 4)], [True, False]),  # as cheap, worse
        ([(math.nan, 9), (1, 5), (0, math.nan)], [False, True, False]),
        ([(math.nan, math.nan)], [False]),
    ],
)
def test_pareto_front(points: list[tuple[float, float]], expected: list[bool]) -> None:
    frame = pd.DataFrame(points, columns=["ms", "score"], index=[7] * len(points))  # a repeated index must not matter
    front = pareto_front(frame, cost="ms", benefit="score")
    assert front.tolist() == expected
    assert front.index.equals(frame.index)


def test_pareto_front_agrees_with_its_definition() -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.integers(0, 12, size=(60, 2)), columns=["ms", "score"])
    rows = list(frame.itertuples(index=False, name=None))
    undominated = [not any(a[0] <= b[0] and a[1] >= b[1] and a != b for a in rows) for b in rows]
    assert pareto_front(frame, cost="ms", benefit="score").tolist() == undominated


def test_configurations_mark_the_front(frames: StudyFrames) -> None:
    served = configurations(frames)
    on_front = served.loc[served["on_front"], ["size", "variant"]].itertuples(index=False, name=None)
    assert set(on_front) == {("2x128", "fp32"), ("4x192", "fp32"), ("4x192", "bf16")}
    assert set(served["intermediate"]) == {"mnli"}


def test_a_front_is_taken_within_one_hardware(frames: StudyFrames) -> None:
    moved = frames.benchmarks.assign(hardware=["cpu", "gpu", "cpu", "cpu"])
    served = configurations(StudyFrames(frames.sizes, frames.trials, frames.scores, moved, frames.context))
    assert served["on_front"].tolist() == [True, True, True, True]


def test_best_trials_never_look_at_test_scores(frames: StudyFrames) -> None:
    unnamed = frames.sizes.assign(best_trial="")
    trials = frames.trials.assign(test_score=-frames.trials["dev_score"])
    rows = best_trials(StudyFrames(unnamed, trials, frames.scores, frames.benchmarks, frames.context))
    assert list(rows.itertuples(index=False, name=None)) == [("2x128", "a1"), ("4x192", "b0")]


def test_the_planted_front_is_found_on_every_cost(study: StudyFrames) -> None:
    served = analysis.configurations(study)
    by_name = {(row["size"], row["variant"]): row for row in served.to_dict("records")}
    for size in PLANTED.sizes:
        # fp32 costs 2.2 times as much as bf16 for a tenth of a point; only the largest size is on the front with it.
        assert by_name[size, "fp32"]["on_front"] == (size == "6x256")
        assert by_name[size, "bf16"]["on_front"]
        assert by_name[size, "int8"]["on_front"]
        assert by_name[size, "int8"]["on_front_throughput_sps"]
        assert by_name[size, "bf16"]["on_front_server_qps"], "more load is better"
        assert not by_name[size, "int8"]["on_front_server_qps"], "its Server result is INVALID"
        assert math.isnan(by_name[size, "int8"]["server_qps"])
    assert not served["on_front_energy_j_per_sample"].any()
    assert (served["score_low"] < served["seed_mean"]).all()
    assert (served["seed_mean"] < served["score_high"]).all()
    assert set(served["interval_covers"]) == {"3 seeds and test examples"}


def test_more_throughput_is_better_on_a_front() -> None:
    table = pd.DataFrame({"throughput_sps": [10.0, 20.0, 30.0], "score": [3.0, 4.0, 1.0]})
    assert analysis.pareto_front(table, cost="throughput_sps", benefit="score").tolist() == [False, True, True]


def test_hypervolume_is_the_score_that_budgets_buy(study: StudyFrames) -> None:
    volumes = analysis.hypervolumes(study).set_index("cost")
    served = analysis.configurations(study)
    costs = np.geomspace(served["p50_ms"].min(), 2 * served["p50_ms"].max(), 20001)
    buys = [served.loc[served["p50_ms"] <= cost, "score"].max() for cost in costs[::50]]
    assert volumes.loc["p50_ms", "mean_best_score"] == pytest.approx(np.mean(buys), abs=0.1)
    assert "energy_j_per_sample" not in volumes.index


def test_a_budget_buys_the_best_that_fits_with_its_probability(study: StudyFrames, bare: StudyFrames) -> None:
    choice = analysis.best_for_budget(study, "p50_ms<=3.5")
    assert choice.best is not None
    assert choice.runner_up is not None
    assert choice.difference is not None
    served = analysis.configurations(study)
    fits = served[served["p50_ms"] <= 3.5].sort_values("seed_mean")
    assert (choice.best["size"], choice.best["variant"]) == tuple(fits[["size", "variant"]].iloc[-1])
    assert choice.fitting == len(fits)
    # Planted: the sizes are a doubling apart, worth about 4 points.
    assert choice.runner_up["size"] != choice.best["size"]
    assert choice.difference.low < choice.difference.value < choice.difference.high
    assert choice.difference.probability > 0.95
    assert choice.difference.rests_on == "3 seeds and test examples"
    assert analysis.best_for_budget(bare, "p50_ms<=3.5").difference.rests_on == "3 seeds"  # type: ignore[union-attr]


def test_unknown_and_invalid_results_do_not_meet_a_budget(study: StudyFrames) -> None:
    energy = analysis.best_for_budget(study, "energy_j_per_sample<=0.5")
    assert energy.best is None
    assert len(energy.unknown) == 12
    load = analysis.best_for_budget(study, "server_p99_ms<=1000, throughput_sps>=1")
    assert load.best is not None
    assert load.fitting == 8  # the four int8 Server results are INVALID
    assert all("int8" in name for name in load.unknown)
    served = analysis.configurations(study)  # planted: each p99 up to a tenth below the bound of 100 ms
    within = served.loc[served["server_p99_ms"] <= 95, "size"].count()
    stricter = analysis.best_for_budget(study, "server_p99_ms<=95")
    assert stricter.fitting == within
    assert len(stricter.unknown) == 12 - within, "a lower load might do"


@pytest.mark.parametrize(
    ("budget", "says"),
    [
        ("fast", "must look like p50_ms<=15"),
        ("p50<=3", "unknown metric 'p50'"),
        ("p50_ms>=3", "bound p50_ms with <="),
        ("throughput_sps<=3", "bound throughput_sps with >="),
        ("p50_ms<=1e", "is not a number"),
        ("", "must look like p50_ms<=15"),
    ],
)
def test_a_budget_that_cannot_be_parsed_is_refused(study: StudyFrames, budget: str, says: str) -> None:
    with pytest.raises(analysis.BadBudget, match=says):
        analysis.best_for_budget(study, budget)


def test_the_same_model_in_two_variants_is_not_compared_on_noise(study: StudyFrames) -> None:
    only = study.benchmarks[study.benchmarks["size"] == "6x256"]
    choice = analysis.best_for_budget(dataclasses.replace(study, benchmarks=only), "p50_ms<=1000")
    assert choice.difference is not None
    assert math.isnan(choice.difference.probability)
    assert "no examples are recorded by serving variant" in choice.difference.rests_on


@pytest.mark.parametrize("name", ["6l", "multilingual-e5-small-3l→12l cascade"])
def test_the_name_of_a_size_ends_inside_the_chart(frames: StudyFrames, name: str) -> None:
    points = configurations(frames).dropna(subset=["p50_ms", "score"])
    points = points[points["hardware"] == points["hardware"].iloc[0]]
    dearest = points["size"] == points.loc[points["p50_ms"].idxmax(), "size"]
    chart = tradeoff_chart(points.assign(size=points["size"].mask(dearest, name)), cost="p50_ms").properties(width=400)
    svg = vlc.vegalite_to_svg(chart.to_json())
    (label,) = re.findall(rf'text-anchor="(\w+)" transform="translate\(([\d.]+),[^>]*>{name}<', svg)
    anchor, at = label
    ends = float(at) + (0 if anchor == "end" else 7 * len(name))
    assert 0 <= ends <= 400
    assert anchor == "start" or float(at) > 400 - 9 - 9 * len(name), "a name that fits is beside its point"
