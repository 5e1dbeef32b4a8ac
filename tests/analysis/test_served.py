"""Benchmarks and retries: languages that count, INVALID results, loads within a bound, failed variants, retried attempts."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from mlflow.entities import Metric, Param, RunTag
from mlflow.tracking import MlflowClient

import analysis
from analysis import StudyFrames
from analysis.charts.scaling import scaling_chart
from analysis.report.answer import answer
from analysis.report.findings import Findings
from analysis.store.frames import MEAN_WITHOUT_ENGLISH as WITHOUT
from analysis.tables.scaling import SCORE, fit_power, fit_saturating
from tests.analysis.helpers import header, section, write
from tests.support.studies import build_frames, new_store

BODY_M = {"small": 1.0, "large": 4.0}


def _run(size: str, scores: dict[str, float], **rest: Any) -> dict[str, Any]:
    return {"size": size, "trial_id": "t", "intermediate": "none", "seed": 0, "scores": scores} | rest


def _served(size: str, score: float, **rest: Any) -> dict[str, Any]:
    return {"size": size, "trial_id": "t", "task_scores": {"x": score}, "timed_task": "x"} | rest


def _study(benchmarks: list[dict[str, Any]]) -> StudyFrames:
    runs = [_run(size, {"x": 60.0}, without_english={"x": 50.0}) for size in BODY_M]
    return build_frames(runs, benchmarks, body_m=BODY_M)


@pytest.mark.slow
def test_english_counts_only_where_no_mean_without_it_is_recorded(tmp_path: Path) -> None:
    benchmarks = [
        _served("small", 70.0, task_scores_without_english={"x": 40.0}, p50_ms=1.0),
        _served("large", 69.0, task_scores_without_english={"x": 45.0}, p50_ms=2.0),
    ]
    frames = _study(benchmarks)
    served = analysis.configurations(frames).set_index("size")
    assert served["score"].to_dict() == {"small": 40.0, "large": 45.0}
    assert served["on_front"].all()  # including English the large size is slower and worse
    choice = analysis.best_for_budget(frames, "p50_ms<=5")
    assert choice.best is not None
    assert choice.best["size"] == "large"
    best = answer(Findings(frames)).best
    assert "size large" in best
    assert "mean zero-shot test score 45.0% (1 target, languages other than English)" in best
    points = analysis.scaling_points(frames)
    assert set(points.loc[points["what"] == SCORE, "value"]) == {50.0}
    benchmarks_page = section(write(frames, tmp_path), "Benchmarks")
    assert "test score, all languages (%)\n" in benchmarks_page
    assert "test score without English (%)\n" in benchmarks_page

    del benchmarks[0]["task_scores_without_english"]
    mixed = _study(benchmarks)
    assert analysis.configurations(mixed)["score"].tolist() == [70.0, 69.0]
    assert "mean test score 70.0% (1 target, all languages, English included)" in answer(Findings(mixed)).best


def test_the_front_leaves_english_out_and_keeps_machines_apart() -> None:
    frames = _study(
        [
            _served("small", 70.0, task_scores_without_english={"x": 40.0}, p50_ms=2.0),
            _served("large", 71.0, task_scores_without_english={"x": 39.0}, p50_ms=3.0),  # better only with English
            _served("large", 71.0, task_scores_without_english={"x": 39.0}, p50_ms=1.0, hardware="a gpu"),
            _served("small", 60.0, task_scores_without_english={"x": 30.0}, p50_ms=1.5, variant="int8"),
        ]
    )
    assert analysis.front(frames).to_dict("records") == [
        {"size": size, "variant": variant, "intermediate": "none", "baseline": False}
        | {"hardware": hardware, "p50_ms": p50, "score": score, "judged_by": WITHOUT}
        for size, variant, hardware, p50, score in (
            ("small", "int8", "a cpu", 1.5, 30.0),
            ("small", "fp32", "a cpu", 2.0, 40.0),
            ("large", "fp32", "a gpu", 1.0, 39.0),
        )
    ]
    assert analysis.front(_study([])).empty


def test_the_most_expensive_configuration_counts_for_one_doubling() -> None:
    def volume(best: float, cost: str = "p50_ms") -> dict[Any, Any]:
        costs = (("small", 50.0, 1.0), ("middle", 60.0, 2.0), ("large", best, 8.0))
        served = [_served(size, score, p50_ms=ms, throughput_sps=8 / ms) for size, score, ms in costs]
        volumes = analysis.hypervolumes(_study(served))
        return dict(volumes[volumes["cost"] == cost].iloc[0])

    # By hand: 50 over one doubling, 60 over two, 70 over the one beyond 8 ms; likewise from 8 down to half a sample per second
    for cost, ends in (("p50_ms", (1.0, 16.0)), ("throughput_sps", (8.0, 0.5))):
        row = volume(70.0, cost)
        assert row["hypervolume"] == pytest.approx(50 + 2 * 60 + 70)
        assert row["mean_best_score"] == pytest.approx((50 + 2 * 60 + 70) / 4)
        assert (row["from_cost"], row["to_cost"]) == pytest.approx(ends)
    assert volume(75.0)["hypervolume"] == pytest.approx(volume(70.0)["hypervolume"] + 5)


def test_the_page_says_whose_queries_were_timed(tmp_path: Path) -> None:
    page = write(_study([_served("small", 70.0, p50_ms=1.0), _served("large", 72.0, p50_ms=2.0)]), tmp_path)
    costs = section(page, "Serving variants")
    assert "Costs are for queries of x only, while the score is the mean over all targets." in costs
    assert "against p50 latency (ms), queries of x; a cpu" in header(page)
    assert "at 2.0 ms median latency of x's queries" in header(page)


@pytest.mark.slow
def test_invalid_results_are_shown_but_not_used(tmp_path: Path) -> None:
    invalid = {"SingleStream": "INVALID", "Offline": "VALID"}
    benchmarks = [
        _served("small", 71.0, p50_ms=1.0, throughput_sps=9.0, results=invalid),
        _served("large", 72.0, p50_ms=5.0, throughput_sps=5.0),
        _served("large", 71.5, variant="bf16", p50_ms=4.0, throughput_sps=6.0),
    ]
    frames = _study(benchmarks)
    valid = _study(benchmarks[1:])
    assert "size large served as bf16" in answer(Findings(frames)).fastest, "not the small one's 1.0 ms"
    p50 = [table[table["cost"] == "p50_ms"].reset_index() for table in map(analysis.hypervolumes, (frames, valid))]
    assert p50[0]["hypervolume"].equals(p50[1]["hypervolume"])
    points = analysis.scaling_points(frames)
    assert set(points.loc[points["what"] == "p50 latency (ms)", "size"]) == {"large"}
    assert set(points.loc[points["what"] == "throughput (samples/s)", "size"]) == {"small", "large"}
    speeds = analysis.compare(frames, frames).speeds
    assert set(speeds.loc[speeds["size"] == "small", "metric"]) == {"throughput_sps"}
    assert "1.00 INVALID\n" in section(write(frames, tmp_path), "Benchmarks"), "it is shown"


def _loaded(size: str, score: float, bound: float, *, qps: float | None, p99: float | None) -> dict[str, Any]:
    return _served(size, score, server_bound_ms=bound, server_qps=qps, server_p99_ms=p99, p50_ms=1.0)


@pytest.mark.slow
def test_a_p99_within_the_limit_meets_it_at_the_load_it_was_measured_at(tmp_path: Path) -> None:
    """The bound of the benchmark only determines the load; it does not matter for the limit."""
    small = _loaded("small", 70.0, 50.0, qps=900.0, p99=48.5)
    frames = _study([small, _loaded("large", 72.0, 100.0, qps=20.0, p99=40.0)])
    choice = analysis.best_for_budget(frames, "server_p99_ms<=50")
    assert (choice.fitting, choice.best and choice.best["size"], choice.unknown) == (2, "large", ())
    answered = header(write(frames, tmp_path, budget="server_p99_ms<=50"))
    assert "40.0 ms p99 at 20.0 queries/s, the highest load within 100 ms." in answered
    runner_up = (
        "48.5 ms p99 at 900.0 queries/s, the highest load within 50 ms (no higher load within the budget was tried)"
    )
    page = write(frames, tmp_path, budget="server_p99_ms<=98")
    assert runner_up in section(page, "Within the budget: p99 latency under load at most 98 ms")
    # Over the limit at the measured load, a lower load might do: the limit is neither met nor broken.
    over = _study([small, _loaded("large", 72.0, 100.0, qps=20.0, p99=97.0)])
    choice = analysis.best_for_budget(over, "server_p99_ms<=50")
    assert (choice.fitting, choice.best and choice.best["size"]) == (1, "small")
    why = "97 ms at 20.0 queries/s, and no lower load was measured"
    assert choice.unknown == (f"large fp32 (server_p99_ms: {why})",)
    # With a load in the budget too: too slow at a lower load is out, not tried at that load is open.
    assert analysis.best_for_budget(over, "server_p99_ms<=50, server_qps>=100").unknown == ()
    more = analysis.best_for_budget(over, "server_p99_ms<=98, server_qps>=1000")
    assert more.fitting == 0
    assert more.unknown == ("small fp32 (server_qps: 900.0 queries/s within 50 ms, and no higher load was tried)",)
    not_met = _study(
        [_loaded("small", 70.0, 50.0, qps=None, p99=None), _loaded("large", 72.0, 50.0, qps=20.0, p99=49.0)]
    )
    assert analysis.best_for_budget(not_met, "server_p99_ms<=50").fitting == 1


@pytest.mark.slow
def test_a_metric_that_was_not_measured_does_not_break_a_budget(tmp_path: Path) -> None:
    frames = _study([_served("small", 70.0, p50_ms=1.0), _served("large", 72.0, p50_ms=9.0)])
    answered = header(write(frames, tmp_path, budget="energy_j_per_sample<=0.5"))
    assert "It is unknown whether a configuration meets the budget of energy at most 0.5 J/sample: " in answered
    assert "energy (J/sample) is not measured for small fp32, large fp32. No other one meets it." in answered
    assert "No configuration with a score" not in answered
    choice = analysis.best_for_budget(frames, "energy_j_per_sample<=0.5, p50_ms<=5")
    assert choice.undecided == {"energy (J/sample)": ("small fp32",)}, "the large one is too slow whatever its energy"
    both = write(frames, tmp_path, budget="energy_j_per_sample<=0.5, p50_ms<=0.5")
    assert "No configuration with a score meets" in header(both)
    failed = _study([_served("large", 72.0, reason="failed: the actor died")])
    assert "No configuration with a score meets" in header(write(failed, tmp_path, budget="energy_j_per_sample<=0.5"))


def test_loads_within_different_bounds_are_kept_apart() -> None:
    frames = _study(
        [_loaded("small", 70.0, 50.0, qps=900.0, p99=48.5), _loaded("large", 72.0, 100.0, qps=20.0, p99=97.0)]
    )
    # Loads within different bounds neither dominate each other nor share a hypervolume.
    assert analysis.configurations(frames)["on_front_server_qps"].all()
    assert "server_qps" not in set(analysis.hypervolumes(frames)["cost"])
    one_bound = _study(
        [_loaded("small", 70.0, 50.0, qps=900.0, p99=48.5), _loaded("large", 69.0, 50.0, qps=20.0, p99=48.5)]
    )
    assert analysis.configurations(one_bound)["on_front_server_qps"].tolist() == [True, False]
    assert analysis.hypervolumes(one_bound)["server_bound_ms"].dropna().tolist() == [50.0]


@pytest.mark.slow
def test_a_variant_that_failed_is_missing_with_its_reason_and_has_no_values(tmp_path: Path) -> None:
    frames = _study(
        [
            _served("small", 70.0, p50_ms=1.0),
            _served("large", 99.0, p50_ms=0.1, reason="failed: the actor died"),
        ]
    )
    served = analysis.configurations(frames).set_index("size")
    assert math.isnan(served["score"]["large"])
    assert math.isnan(served["p50_ms"]["large"])
    assert not served["on_front"]["large"]
    assert "size small" in answer(Findings(frames)).best
    choice = analysis.best_for_budget(frames, "p50_ms<=5")
    assert choice.fitting == 1
    page = write(frames, tmp_path)
    assert "large fp32: not measured at all: failed: the actor died" in section(page, "What is missing")
    assert "99.0" not in section(page, "Benchmarks")


def test_a_budget_opens_a_report_that_has_no_scored_benchmark() -> None:
    runs = [_run("small", {"x": 60.0}), _run("small", {"x": 62.0}, trial_id="u", intermediate="topic")]
    frames = build_frames(runs, body_m=BODY_M)
    frames.context["intermediates"] = ["none", "topic"]
    answered = answer(Findings(frames))
    assert answered.fastest == ""
    assert answered.best.startswith("The best trial on English dev is u of size small")
    assert "by +2.0 points" in answered.gain


@pytest.mark.slow
def test_a_budget_keeps_the_sentence_on_intermediate_training(tmp_path: Path) -> None:
    runs = [_run("small", {"x": 60.0}), _run("small", {"x": 62.0}, trial_id="u", intermediate="topic")]
    frames = build_frames(runs, body_m=BODY_M)
    frames.context["intermediates"] = ["none", "topic"]
    answered = header(write(frames, tmp_path, budget="p50_ms<=5"))
    assert "No configuration with a score meets the budget" in answered
    assert "Intermediate training changed the test score by +2.0 points" in answered


@pytest.mark.slow
def test_a_retried_repeat_counts_once(tmp_path: Path) -> None:
    """The failed attempt had scored one of two targets; the retry has its own run and name."""
    client = new_store(tmp_path)
    experiment = client.create_experiment("again", tags={"study.targets": '["x", "y"]', "study.intermediates": "[]"})
    for name, intermediate, gain in (("t0", "none", 0.0), ("t1", "topic", 4.0)):
        for suffix, seed, outcome, tasks in (
            ("", 0, "complete", "xy"),
            ("-s1", 1, "failed", "x"),
            ("-s1-again", 1, "complete", "xy"),
        ):
            score = 10.0 if outcome == "failed" else 50.0 + gain
            tags = {"kind": "repeat" if suffix else "trial", "size": "a", "trial_id": f"{name}{suffix}"}
            tags |= {"outcome": outcome, "default_cell": str(not suffix).lower(), "reason": "lost" if seed else ""}
            tags |= ({"repeats": name} if suffix else {}) | ({"retried": "true"} if outcome == "failed" else {})
            metrics = {f"test/{task}": score for task in tasks} | {"test/score": score, "dev/score": score}
            params = {"intermediate": intermediate, "lr_intermediate": "none", "lr_target": "1e-3", "seed": str(seed)}
            _write(client, experiment, tags, params=params, metrics=metrics)
    frames = analysis.load(f"sqlite:///{tmp_path / 'mlflow.db'}", "again")
    assert sorted(frames.trials["trial_id"]) == ["t0", "t0-s1-again", "t1", "t1-s1-again"]
    assert sorted(frames.retried["trial_id"]) == ["t0-s1", "t1-s1"]
    gained = analysis.gains(frames)
    assert gained["n"].tolist() == [2, 2]
    assert gained["gain"].tolist() == [4.0, 4.0]
    assert gained["score"].tolist() == [54.0, 54.0]
    page = write(frames, tmp_path)
    missing = section(page, "What is missing")
    assert (
        "a, repeat t0-s1 (intermediate task none): lost"
        in missing[missing.index("Failed attempts that were retried") :]
    )
    assert "1 size, 2 trials, 2 repeats" in section(page, "How it was measured")


def _write(
    client: MlflowClient, experiment: str, tags: dict[str, str], *, params: dict[str, str], metrics: dict[str, float]
) -> None:
    run_id = str(client.create_run(experiment).info.run_id)
    client.log_batch(
        run_id,
        metrics=[Metric(name, value, 0, 1) for name, value in metrics.items()],
        params=[Param(name, value) for name, value in params.items()],
        tags=[RunTag(name, value) for name, value in tags.items()],
    )


def test_a_benchmark_s_mean_without_english_is_read(tmp_path: Path) -> None:
    client = new_store(tmp_path)
    experiment = client.create_experiment("read", tags={"study.targets": '["x"]'})
    tags = {"kind": "benchmark", "size": "a", "variant": "fp32", "trial_id": "t", "timed_task": "x"}
    for variant, name in (("fp32", "test_without_english/score"), ("bf16", "test/score_without_english")):
        metrics = {"test/score": 60.0, name: 50.0, "test/x": 60.0}
        _write(client, experiment, tags | {"variant": variant}, params={}, metrics=metrics)
    benchmarks = analysis.load(f"sqlite:///{tmp_path / 'mlflow.db'}", "read").benchmarks
    assert benchmarks["test_score_without_english"].tolist() == [50.0, 50.0]
    assert benchmarks["task_scores"].tolist() == [{"x": 60.0}] * 2
    assert set(benchmarks["timed_task"]) == {"x"}


def test_the_band_of_a_curve_is_symmetric_on_its_scale() -> None:
    """For noisy points: symmetric on the log scale, and mirrored for a score, never above 100%."""
    x = np.array([1.0, 2.0, 4.0, 8.0])
    fit = fit_power(x, np.array([30.0, 60.0, 20.0, 50.0]))
    assert fit is not None
    at = np.array([1.0, 3.0, 16.0])
    low, high = fit.band(at)
    assert fit.predict(at) ** 2 == pytest.approx(low * high)
    assert (low > 0).all()
    assert (high / fit.predict(at) > 2).any(), "so wide that a symmetric band would go below zero"
    curved = fit_saturating(np.geomspace(1, 10, 6), 99 - np.array([30, 10, 9, 2, 1.5, 0.2]), ceiling=100.0)
    assert curved is not None
    assert (curved.band(np.array([1.0, 100.0]))[1] <= 100).all()


def test_the_band_of_a_score_lies_between_its_ends() -> None:
    scores = {"a": 70.0, "b": 40.0, "c": 80.0, "d": 50.0}
    body = {name: 2.0**k for k, name in enumerate(scores)}
    frames = build_frames([_run(size, {"x": score}) for size, score in scores.items()], body_m=body)
    fit = analysis.scaling(frames)[SCORE, "best", "power"]
    low, high = fit.band(np.array([1.0, 20.0]))
    error = 100 - fit.predict(np.array([1.0, 20.0]))
    assert (high < 100).all()
    assert (100 - low) * (100 - high) == pytest.approx(error**2)
    points = analysis.scaling_points(frames)
    chart = scaling_chart(points, {"best": ("power", fit)}, what=SCORE).to_dict()
    bands = [row for rows in chart["datasets"].values() for row in rows if "part" in row] if "datasets" in chart else []
    bands = bands or [row for layer in chart["layer"] for row in layer["data"]["values"] if "part" in row]
    assert bands
    assert all(0 <= row["low"] <= row["value"] <= row["high"] <= 100 for row in bands)


@pytest.mark.slow
def test_curves_over_operations_count_the_tokens(tmp_path: Path) -> None:
    """Sizes with more tokens per query need more operations than their bodies suggest; latency follows the operations."""
    body = {"a": 1.0, "b": 2.0, "c": 4.0, "d": 8.0}
    tokens = {"a": 10.0, "b": 30.0, "c": 15.0, "d": 20.0}
    operations = {size: 2 * body[size] * tokens[size] / 1000 for size in body}  # GFLOP
    frames = build_frames(
        [_run(size, {"x": 50.0}) for size in body],
        [_served(size, 50.0, mean_pieces=tokens[size], p50_ms=3 * operations[size] ** 0.7) for size in body],
        body_m=body,
    )
    key = ("p50 latency (ms)", "fp32", "power")
    assert analysis.scaling(frames, over="gflops_per_sample")[key].parameters["b"] == pytest.approx(0.7)
    assert analysis.scaling(frames)[key].parameters["b"] != pytest.approx(0.7, abs=0.01)
    page = write(frames, tmp_path)
    assert 'data-name="scaling_p50_latency_flops"' in page
    assert "Sizes with different tokenizers need different numbers of tokens" in section(page, "What size buys")
    assert "would show the same" not in section(page, "What size buys")
    unknown = build_frames([_run(size, {"x": 50.0}) for size in body], body_m=body)
    assert "Operations per sample cannot be counted" in section(write(unknown, tmp_path), "What size buys")
    assert pd.isna(analysis.scaling_points(unknown)["gflops_per_sample"]).all()


def test_the_page_says_which_predictions_change_with_the_batch(tmp_path: Path) -> None:
    def flips(scored: float, batch: float, padding: float) -> dict[str, Any]:
        return {"flips_scored": scored, "flips_batch": batch, "flips_padding": padding, "flips_examples": 64.0}

    baseline = {"baseline_trial_id": "t", "baseline_test_score": 65.0, "baseline_task_scores": {"x": 65.0}}
    frames = _study(
        [
            _served("small", 70.0, p50_ms=2.0, **flips(0.0, 0.0, 0.0), **baseline),
            _served("small", 69.0, p50_ms=1.0, variant="int8", **flips(0.5, 1.42, 0.5)),
            _served("large", 71.0, p50_ms=3.0, variant="int8", **flips(0.25, 1.5, 0.25)),
            _served("large", 71.0, p50_ms=4.0, variant="earlier"),
        ]
    )
    page = section(write(frames, tmp_path), "Benchmarks")
    assert "(%) that differ from those for single queries, the most of any size" in page
    assert "fp32\n0.0\n0.0\n0.0\nint8\n0.5\n1.5\n0.5\n" in page
    assert "for 64 test examples of all targets" in page
    assert "allow a rate of up to about 3/n at 95% (rule of three), here 4.7%" in page
    assert "among at most 64 candidates, which is easier" in page
    assert "measured by an earlier version" in page
    assert "only the predictions of the model that was timed were compared" in page
    served = analysis.configurations(frames)
    assert served.loc[served["baseline"], "flips_batch"].isna().all()
    earlier = section(write(_study([_served("small", 70.0, p50_ms=2.0)]), tmp_path), "Benchmarks")
    assert "single queries" not in earlier
