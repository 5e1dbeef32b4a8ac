"""Trials without an intermediate task that were scored as served, beside the configurations that were timed."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import analysis
from analysis import StudyFrames
from analysis.charts.tradeoff import tradeoff_chart
from analysis.report.answer import Answer, answer
from analysis.report.findings import Findings
from study.run.report import front_points
from tests.analysis.helpers import header, section, write
from tests.analysis.quickstart import Store
from tests.support.studies import build_frames

SCORES = {"small": {"none": 64.0, "topic": 60.0}, "large": {"none": 65.0, "topic": 70.0}}
COSTS = {"small": 1.0, "large": 4.0}


def _plant(folder: Path, *, baseline: bool = True) -> StudyFrames:
    """Two sizes, each served after training on "topic"; without it the small one is better, and the large one worse."""
    store = Store(folder)
    tags = {"study.targets": json.dumps(["x"]), "study.intermediates": json.dumps(["none", "topic"])}
    experiment = store.client.create_experiment("compared", tags=tags)
    for size, scores in SCORES.items():
        best = {"kind": "size", "size": size, "best_trial": f"{size}-topic"}
        store.run(experiment, best, metrics={"params_m": COSTS[size], "params_body_m": COSTS[size]})
        for intermediate, score in scores.items():
            trial = {"kind": "trial", "size": size, "trial_id": f"{size}-{intermediate}", "outcome": "complete"}
            params = {"intermediate": intermediate, "lr_target": "1e-3", "seed": "0"}
            params |= {"lr_intermediate": "none" if intermediate == "none" else "1e-3"}
            metrics = {"test/score": score, "test/x": score, "dev/score": score, "targets_finished": 1.0}
            store.run(experiment, trial | {"default_cell": "true"}, params=params, metrics=metrics)
        served = {
            "kind": "benchmark",
            "size": size,
            "variant": "fp32",
            "trial_id": f"{size}-topic",
            "hardware": "a cpu",
        }
        metrics = {"bench/p50_ms": COSTS[size], "test/score": scores["topic"], "test/x": scores["topic"]}
        if baseline:
            served |= {"baseline_trial_id": f"{size}-none"}
            metrics |= {"baseline/test/score": scores["none"], "baseline/test/x": scores["none"]}
            metrics |= {f"baseline/test_without_english/{name}": scores["none"] - 9 for name in ("score", "x")}
            metrics |= {f"test_without_english/{name}": scores["topic"] - 9 for name in ("score", "x")}
        store.run(experiment, served | {"interference": "none seen"}, metrics=metrics)
    return analysis.load(f"sqlite:///{folder / 'mlflow.db'}", "compared")


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> StudyFrames:
    return _plant(tmp_path_factory.mktemp("compared"))


@pytest.fixture(scope="module")
def page(compared: StudyFrames, tmp_path_factory: pytest.TempPathFactory) -> str:
    return write(compared, tmp_path_factory.mktemp("page"))


def test_scores_of_a_baseline_are_read(compared: StudyFrames) -> None:
    row = compared.benchmarks.set_index("size").to_dict("index")["small"]
    assert row["baseline_trial_id"] == "small-none"
    assert (row["baseline_test_score"], row["baseline_test_score_without_english"]) == (64.0, 55.0)
    assert row["baseline_task_scores"] == {"x": 64.0}
    assert row["baseline_task_scores_without_english"] == {"x": 55.0}
    assert row["task_scores"] == {"x": 60.0}, "not the baseline's"


def test_a_baseline_is_a_configuration_with_the_costs_of_the_one_that_was_timed(compared: StudyFrames) -> None:
    served = analysis.configurations(compared)
    names = ["size", "trial_id", "intermediate", "baseline", "timed_trial", "p50_ms", "score"]
    assert served[names].to_numpy().tolist() == [
        ["small", "small-topic", "topic", False, "small-topic", 1.0, 51.0],
        ["small", "small-none", "none", True, "small-topic", 1.0, 55.0],
        ["large", "large-topic", "topic", False, "large-topic", 4.0, 61.0],
        ["large", "large-none", "none", True, "large-topic", 4.0, 56.0],
    ]
    assert served["on_front"].tolist() == [False, True, True, False], "the better one of two at the same cost"
    volume = analysis.hypervolumes(compared).set_index("cost").to_dict("index")["p50_ms"]
    assert volume["hypervolume"] == pytest.approx(2 * 55.0 + 61.0)  # two doublings from 1 to 4 ms, and one beyond
    assert (volume["on_front"], volume["configurations"]) == (2, 4)


def test_a_point_of_the_front_that_is_a_baseline_names_its_intermediate_task(compared: StudyFrames) -> None:
    assert analysis.front(compared)[["size", "intermediate", "baseline"]].to_numpy().tolist() == [
        ["small", "none", True],
        ["large", "topic", False],
    ]
    baseline, chosen = front_points(compared)
    assert baseline["intermediate"] == "none"
    assert chosen == {
        **{"size": "large", "variant": "fp32", "hardware": "a cpu"},
        **{"p50_ms": 4.0, "score": 61.0, "judged_by": "mean without en"},
    }, "as before"


def test_a_budget_can_buy_a_baseline(compared: StudyFrames) -> None:
    choice = analysis.best_for_budget(compared, "p50_ms<=2")
    assert choice.best is not None
    assert choice.runner_up is not None
    assert [row["trial_id"] for row in (choice.best, choice.runner_up)] == ["small-none", "small-topic"]
    assert choice.fitting == 2
    unknown = analysis.best_for_budget(compared, "energy_j_per_sample<=1").unknown
    assert unknown == ("small fp32 (energy_j_per_sample)", "large fp32 (energy_j_per_sample)"), "each once"


def test_without_baselines_nothing_is_hollow(tmp_path: Path) -> None:
    frames = _plant(tmp_path, baseline=False)
    assert analysis.configurations(frames)["baseline"].tolist() == [False, False]
    assert frames.benchmarks["baseline_trial_id"].tolist() == ["", ""]
    text = write(frames, tmp_path)
    for phrase in ("ollow", "without an intermediate task:", "costs measured with trial"):
        assert phrase not in header(text) + section(text, "Benchmarks") + section(text, "Serving variants")


def _layers(frames: StudyFrames) -> list[dict[str, Any]]:
    """The layers of the chart, each with its rows as `rows`."""
    chart = tradeoff_chart(analysis.configurations(frames), cost="p50_ms").to_dict()
    return [layer | {"rows": chart["datasets"][layer["data"]["name"]]} for layer in chart["layer"]]


def test_the_chart_and_its_text_show_the_baselines(compared: StudyFrames, page: str) -> None:
    opening = header(page)
    assert "hollow: without one, at the same speed (measured once: same model shape)" in opening
    assert "small fp32: 51.0% at 1.00; small fp32 without an intermediate task: 55.0% at 1.00; large" in opening
    layers = _layers(compared)
    (hollow,) = [layer for layer in layers if layer["mark"].get("filled") is False and "color" in layer["encoding"]]
    assert [row["trial_id"] for row in hollow["rows"]] == ["small-none", "large-none"]
    assert {"costs measured with trial"} <= {tooltip["title"] for tooltip in hollow["encoding"]["tooltip"]}
    heads = {layer["mark"]["shape"]: layer for layer in layers if "shape" in layer["mark"]}
    steps = {head: [(row["from"], row["to"]) for row in layer["rows"]] for head, layer in heads.items()}
    assert steps == {"triangle-up": [(56.0, 61.0)], "triangle-down": [(55.0, 51.0)]}
    front = layers[0]["rows"]
    assert [row["score"] for row in front] == [55.0, 61.0, 61.0], "the step line runs through the better baseline"
    assert "What is missing" in page
    assert "benchmarks are not drawn" not in page


def test_two_points_that_touch_have_no_arrow() -> None:
    layers = _layers(_served({"x": 60.05}, {"x": 60.0}))
    assert not [layer for layer in layers if "y2" in layer["encoding"]]
    assert [layer for layer in layers if layer["mark"].get("filled") is False and "color" in layer["encoding"]]


def test_a_size_that_has_no_baseline_is_named(compared: StudyFrames, tmp_path: Path) -> None:
    scores = compared.benchmarks["baseline_test_score"].mask(compared.benchmarks["size"] == "small")
    frames = dataclasses.replace(compared, benchmarks=compared.benchmarks.assign(baseline_test_score=scores))
    assert "None was scored as served for small." in section(write(frames, tmp_path), "Serving variants")


def test_the_table_of_benchmarks_says_which_model_was_timed(page: str) -> None:
    table = section(page, "Benchmarks")
    assert "has the costs of the row above it: same model shape, measured once" in table
    assert "costs measured with trial\n" in table
    rows = table.split("small · fp32\n")
    assert rows[2].startswith("none\nyes\n64.0\n55.0\n1.00\n")
    assert "small-none\nsmall-topic\na cpu\n" in rows[2]


def test_costs_of_an_invalid_scenario_are_not_used_for_a_baseline_either() -> None:
    frames = _served({"x": 60.0}, {"x": 64.0}, results={"SingleStream": "INVALID"})
    assert analysis.configurations(frames)["p50_ms"].isna().all()
    assert not analysis.configurations(frames)["on_front"].any()


def test_a_variant_that_failed_has_no_baseline() -> None:
    frames = _served({"x": 60.0}, {"x": 64.0}, reason="failed: the actor died")
    assert analysis.configurations(frames)["baseline"].tolist() == [False]


# --- the answer


def _served(chosen: dict[str, float], baseline: dict[str, float], **rest: Any) -> StudyFrames:
    """One size whose best trial on dev has an intermediate task; its scores, and those of the best trial without."""
    runs = [
        {"size": "small", "trial_id": name, "intermediate": task, "seed": 0, "scores": scores, "dev_score": dev}
        for name, task, scores, dev in (("t1", "topic", chosen, 80.0), ("t0", "none", baseline, 70.0))
    ]
    benchmark = {"size": "small", "trial_id": "t1", "task_scores": chosen, "timed_task": "x", "p50_ms": 2.0}
    benchmark |= {"baseline_trial_id": "t0", "baseline_task_scores": baseline}
    return build_frames(runs, [benchmark | rest], body_m={"small": 1.0})


def _answer(frames: StudyFrames) -> Answer:
    return answer(Findings(frames))


def test_the_headline_is_about_the_chosen_one_and_names_a_better_baseline() -> None:
    answered = _answer(_served({"x": 60.0}, {"x": 64.0}))
    assert "is size small served as fp32, after intermediate training on topic: mean test score 60.0%" in answered.best
    assert answered.better == (
        "Without an intermediate task the same size, served as fp32 at the same latency, has 64.0% (mean of 1 seed) against "
        "60.0% (mean of 1 seed)."
    )
    assert answered.fastest == "No other configuration was timed on the same hardware."


def test_a_baseline_that_is_not_better_is_not_named() -> None:
    assert _answer(_served({"x": 60.0}, {"x": 59.0})).better == ""


def test_a_trial_that_was_not_served_is_named_if_it_is_better_than_the_baseline_too() -> None:
    frames = _served({"x": 60.0}, {"x": 64.0})
    for score, named in ((63.0, False), (66.0, True)):
        other = build_frames(
            [{"size": "small", "trial_id": "t2", "intermediate": "order", "seed": 0, "scores": {"x": score}}],
            body_m={"small": 1.0},
        )
        trials, scores = _joined(frames.trials, other.trials), _joined(frames.scores, other.scores)
        both = dataclasses.replace(frames, trials=trials, scores=scores)
        better = _answer(both).better
        assert better.startswith("Without an intermediate task the same size")
        assert ("trial t2 of size small, after intermediate training on order, has 66.0%" in better) == named
        assert "trial t0" not in better, "it is served"


def _joined(first: pd.DataFrame, second: pd.DataFrame) -> pd.DataFrame:
    return pd.concat([first, second], ignore_index=True)


def test_a_better_baseline_of_another_size_is_named_with_its_size() -> None:
    small, large = _served({"x": 60.0}, {"x": 66.0}), _served({"x": 62.0}, {"x": 61.0}, p50_ms=8.0)
    tables: dict[str, Any] = {}
    for name in ("sizes", "trials", "scores", "benchmarks"):
        tables[name] = _joined(getattr(small, name), getattr(large, name).assign(size="large"))
    better = _answer(StudyFrames(**tables, context=small.context)).better
    assert better == (
        "Without an intermediate task size small, served as fp32, has 66.0% (mean of 1 seed) against 62.0% (mean of 1 seed)."
    )
