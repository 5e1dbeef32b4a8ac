"""The answer's two sentences, and what the heat map adds up, on studies whose truth is known."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import pandas as pd
import pytest

import analysis
from analysis import StudyFrames
from analysis.charts.heatmap import OVER_TARGETS, OVER_TASKS, gains_heatmap
from analysis.report import leads
from analysis.report.findings import Findings
from analysis.report.size_steps import size_steps
from analysis.report.trade import intermediate_sentence, size_sentence, trade, uncertain
from analysis.store.examples import Examples
from analysis.store.frames import MEAN
from tests.analysis.helpers import default_cells
from tests.support.studies import build_frames

BODY_M = {"small": 1.0, "middle": 2.0, "large": 4.0}
P50_MS = {"small": 2.0, "middle": 5.0, "large": 8.0}


def _study(scores: Mapping[str, float], *, seeds: int, served: bool = True, spread: float = 0.2) -> StudyFrames:
    """One target; each size has a trial without an intermediate task, whose seeds differ by `spread` points."""
    runs: list[dict[str, Any]] = [
        {"size": size, "trial_id": f"t-s{seed}" if seed else "t", "intermediate": "none", "seed": seed}
        | {"scores": {"x": score + spread * (seed - (seeds - 1) / 2)}}
        | ({"repeats": "t"} if seed else {})
        for size, score in scores.items()
        for seed in range(seeds)
    ]
    benchmarks = [
        {"size": size, "trial_id": "t", "variant": "fp32", "p50_ms": P50_MS[size], "timed_task": "x"}
        | {"task_scores": {"x": score - spread * (seeds - 1) / 2}}
        for size, score in scores.items()
    ]
    return build_frames(runs, benchmarks if served else (), body_m=BODY_M)


@pytest.mark.parametrize(
    ("scores", "seeds", "says"),
    [
        ({"small": 50.0, "large": 60.0}, 3, "Going from small to large buys 10.0 points for 4.0 times the latency"),
        (
            {"small": 50.0, "large": 60.0},
            1,
            "from small to large changes the mean by +10.0 points for 4.0 times the latency (served as fp32, without an "
            "intermediate task; one seed, so the difference could be chance).",
        ),
        (
            {"small": 50.0, "middle": 60.0, "large": 55.0},
            3,
            "Going from small to middle buys 10.0 points for 2.5 times the latency; going on to large costs 5.0 points for 1.6",
        ),
        (
            {"small": 50.0, "middle": 59.0, "large": 60.0},
            3,
            "Going from small to middle buys 9.0 points for 2.5 times the latency; going on to large buys 1.0 points for 1.6",
        ),
        ({"small": 50.0, "middle": 52.0, "large": 60.0}, 3, "Going from small to large buys 10.0 points for 4.0 times"),
        ({"small": 60.0, "middle": 50.0, "large": 55.0}, 3, "Going from small to large costs 5.0 points for 4.0 times"),
        ({"small": 50.0}, 3, "Only one size has scores (small), so what a bigger one buys is unknown."),
    ],
)
def test_what_size_buys(scores: dict[str, float], seeds: int, says: str) -> None:
    assert says in size_sentence(Findings(_study(scores, seeds=seeds)))


def test_seeds_that_all_agree_that_nothing_changed_are_a_tie() -> None:
    frames = _study({"small": 50.0, "large": 50.0}, seeds=3)
    (step,) = size_steps(frames)
    assert (step.start, step.end, step.seeds, step.plain) == ("small", "large", 3, True)
    assert "from small to large is a tie (0.0 points) for 4.0 times the latency" in size_sentence(Findings(frames))


def test_seeds_that_disagree_tell_nothing() -> None:
    runs = [
        {"size": size, "trial_id": f"t-s{seed}" if seed else "t", "intermediate": "none", "seed": seed}
        | {"scores": {"x": score}}
        | ({"repeats": "t"} if seed else {})
        for size, scores in {"small": (50.0, 50.0, 50.0), "large": (45.0, 52.0, 58.0)}.items()
        for seed, score in enumerate(scores)
    ]
    said = size_sentence(Findings(build_frames(runs, body_m=BODY_M)))
    assert "from small to large buys nothing that 3 seeds tell from zero (+1.7 [" in said
    assert said.endswith("(without an intermediate task; speed was not measured).")


def _of_seeds(scores: Mapping[str, Mapping[int, float]]) -> StudyFrames:
    """One target; each size's trial without an intermediate task has these scores by seed, each on its own test examples."""
    runs: list[dict[str, Any]] = []
    tables = {}
    for size, by_seed in scores.items():
        for place, (seed, score) in enumerate(by_seed.items()):
            trial = f"t-s{seed}" if place else "t"
            runs.append({"size": size, "trial_id": trial, "intermediate": "none", "seed": seed, "scores": {"x": score}})
            runs[-1] |= {"repeats": "t"} if place else {}
            right = [float(number < 10 * score) for number in range(1000)]
            tables[size, trial] = pd.DataFrame({"example": range(1000), "correct": right}).assign(
                task="x", split="test", language="en", total=1.0
            )
    return dataclasses.replace(build_frames(runs, body_m=BODY_M), examples=Examples.from_tables(tables))


@pytest.mark.parametrize(
    ("large", "why"), [({0: 60.0, 3: 60.0, 4: 60.0}, "one seed"), ({3: 60.0, 4: 60.0}, "no shared seed")]
)
def test_sizes_that_share_one_seed_or_none_are_not_tested(large: dict[int, float], why: str) -> None:
    """Each size has several seeds, and the interval over test examples excludes zero."""
    findings = Findings(_of_seeds({"small": {0: 50.0, 1: 50.0, 2: 50.0}, "large": large}))
    (step,) = findings.size_steps
    assert (step.seeds, step.tested, step.told) == (1 if 0 in large else 0, False, False)
    assert why == "no shared seed" or step.difference.low > 0
    assert size_sentence(findings).endswith(f"; {why}, so the difference could be chance).")
    assert f"({why}: not tested)" in leads.size_lead(findings)


def test_sizes_without_a_common_choice_are_not_called_one_size() -> None:
    runs: list[dict[str, Any]] = [
        {"size": "small", "trial_id": "t", "intermediate": "none", "scores": {"x": 50.0}},
        {"size": "large", "trial_id": "t", "intermediate": "nli", "scores": {"x": 60.0}},
    ]
    said = size_sentence(Findings(build_frames(runs, body_m=BODY_M)))
    assert said == "What a bigger size buys is unknown: no two sizes have trials that can be compared yet."


def test_what_intermediate_training_buys() -> None:
    cells = {"none": 50.0, "topic": 56.0, "order": 53.0, "copy": 50.0, "noise": 47.0}
    frames = default_cells(cells, sd=0.2, seeds=6)
    gain = analysis.average_gains(frames).set_index("intermediate")["gain"]
    said = intermediate_sentence(Findings(frames))
    assert said == (
        f"Training on an English task first, on a: topic buys {gain['topic']:.1f} points and order {gain['order']:.1f}; "
        f"copy ties with none; noise costs {-gain['noise']:.1f} points."
    )
    assert uncertain(Findings(frames)).startswith("6 seeds, so only large differences can be told from zero")


def test_intermediate_tasks_that_are_undecided_are_named_once() -> None:
    names = ("topic", "order", "copy", "noise")
    frames = default_cells({"none": 50.0} | dict.fromkeys(names, 50.5), sd=2.0, seeds=3)
    said = intermediate_sentence(Findings(frames))
    assert said.count("tell from zero") == 1
    assert " and 2 others buy nothing that 3 seeds tell from zero (means from " in said


def test_one_seed_is_not_tested() -> None:
    frames = default_cells({"none": 50.0, "topic": 52.0, "order": 49.0}, sd=0.0, seeds=1)
    said = intermediate_sentence(Findings(frames))
    assert said == (
        "On a, training on an English task first changes the mean by +2.0 (topic) to −1.0 points (order; one seed, so it could "
        "be chance)."
    )
    assert uncertain(Findings(frames)) == "one seed, so no difference is tested; no speed was measured"


def test_intermediate_tasks_with_one_seed_are_named_beside_those_that_were_tested() -> None:
    frames = default_cells({"none": 50.0, "topic": 56.0, "order": 53.0}, sd=0.2, seeds=6)
    fewer = frames.trials[(frames.trials["intermediate"] != "order") | (frames.trials["seed"] == 0)]
    said = intermediate_sentence(Findings(dataclasses.replace(frames, trials=fewer)))
    assert said.startswith("Training on an English task first, on a: topic buys ")
    assert "; not tested with one seed: order (+" in said


@pytest.mark.parametrize(("large", "size"), [(58.0, "large"), (40.0, "small")])
def test_gains_are_told_of_the_best_size(large: float, size: str) -> None:
    """Also where that is the smallest one."""
    cells = {
        "small": {"none": 50.0, "topic": 56.0},
        "large": {"none": large, "topic": large + 6},
    }
    assert f", on {size}: topic buys" in intermediate_sentence(Findings(default_cells(cells, sd=0.2, seeds=6)))


def test_a_task_named_mean_is_not_the_total() -> None:
    cells = {"none": 50.0, "mean": 56.0, "topic": 52.0}
    frames = default_cells(cells, sd=0.0, seeds=1, targets=("mean", "x"))
    table = analysis.gains(frames)
    chart = gains_heatmap(
        table, analysis.gains_by_language(frames), analysis.average_gains(frames), size="a", language=MEAN
    ).to_dict()
    encoding = chart["layer"][0]["encoding"]
    for axis in ("x", "y"):
        domain = encoding[axis]["scale"]["domain"]
        assert len(set(domain)) == len(domain) == 3
        assert "mean" in encoding[axis]["axis"]["labelExpr"]
    rows = chart["datasets"][chart["layer"][1]["data"]["name"]]
    assert len({(row["intermediate"], row["task"]) for row in rows}) == len(rows), "no cell has two numbers"


def test_the_heat_map_is_sorted_and_has_totals() -> None:
    cells = {"none": 50.0, "order": 47.0, "topic": 56.0}
    frames = default_cells(cells, sd=0.3, seeds=4, targets=("x", "y"))
    averages = analysis.average_gains(frames)
    chart = gains_heatmap(
        analysis.gains(frames), analysis.gains_by_language(frames), averages, size="a", language=MEAN
    ).to_dict()
    encoding = chart["layer"][0]["encoding"]
    assert encoding["x"]["scale"]["domain"] == ["topic", "order", OVER_TASKS]
    assert encoding["y"]["scale"]["domain"][-1] == OVER_TARGETS
    rows = chart["datasets"][chart["layer"][1]["data"]["name"]]
    totals = {row["intermediate"]: row for row in rows if row["task"] == OVER_TARGETS}
    for row in averages.to_dict("records"):
        assert totals[row["intermediate"]]["gain"] == pytest.approx(row["gain"])
    assert totals["topic"]["label"].endswith("▲"), "told from zero: read without colour"
    assert totals["order"]["label"].endswith("▼")
    over_tasks = {row["task"]: row["gain"] for row in rows if row["intermediate"] == OVER_TASKS}
    gains = analysis.gains(frames).groupby("task")["gain"].mean()
    assert over_tasks == pytest.approx(dict(gains), abs=0.006)


def test_sections_open_with_what_was_found() -> None:
    frames = _study({"small": 50.0, "large": 60.0}, seeds=3)
    findings = Findings(frames)
    assert leads.size_lead(findings).startswith("From small to large: +10.0 points [")
    assert leads.size_lead(findings).endswith("] (3 seeds), p50 from 2.00 to 8.00 ms.")
    three = Findings(_study({"small": 50.0, "middle": 57.0, "large": 60.0}, seeds=3))
    assert "; from middle to large: +3.0 points [" in leads.size_lead(three)
    assert leads.serving_lead(findings) == "One variant of large was served: fp32, at 8.00 ms p50 latency."
    assert leads.benchmarks_lead(findings) == "2 configurations measured; 2 on the Pareto front of p50 latency."
    assert leads.search_lead(findings).startswith("2 trials searched, none of them stopped early")
    one_seed = Findings(default_cells({"none": 50.0, "topic": 52.0, "order": 49.0}, sd=0.0, seeds=1))
    assert leads.gains_lead(one_seed) == (
        "2 gains at the default learning rates, one seed each and so not tested: −1.0 points (order on x) to +2.0 points "
        "(topic on x)."
    )
    tested = Findings(default_cells({"none": 50.0, "topic": 56.0, "copy": 50.0}, sd=0.2, seeds=6))
    assert leads.gains_lead(tested).startswith(
        "Of 2 comparisons at the default learning rates: 1 gain, 0 losses, 1 tie, 0 undecided. "
        "The largest: topic on x, size a, +"
    )


def test_of_one_size_the_answer_says_what_serving_buys() -> None:
    frames = _study({"small": 50.0}, seeds=3)
    quick = frames.benchmarks.assign(
        variant="int8", p50_ms=0.5, task_scores=pd.Series([{"x": 49.0}], dtype="object"), test_score=49.0
    )
    both = dataclasses.replace(frames, benchmarks=pd.concat([frames.benchmarks, quick], ignore_index=True))
    first, _ = trade(Findings(both))
    assert first.endswith(
        "int8 serves small 4.0 times as fast as fp32 (0.50 against 2.00 ms p50) and scores 0.8 points less."
    )


def test_sizes_are_compared_by_their_scores_where_one_of_them_was_served() -> None:
    frames = _study({"small": 50.0, "large": 60.0}, seeds=3)
    served = frames.benchmarks[frames.benchmarks["size"] == "small"]
    (step,) = size_steps(dataclasses.replace(frames, benchmarks=served))
    assert (step.start, step.end, step.variant) == ("small", "large", "")
    sentence = size_sentence(Findings(dataclasses.replace(frames, benchmarks=served)))
    assert "speed was not measured" in sentence
    assert "Only one size" not in sentence


def test_arms_in_other_languages_are_not_called_english_tasks() -> None:
    frames = default_cells({"none": 50.0, "topic_in_de": 56.0}, sd=0.2, seeds=4)
    arms = {"topic_in_de": {"members": ["topic"], "languages": ["de"]}}
    marked = Findings(dataclasses.replace(frames, context=frames.context | {"arms": arms}))
    assert intermediate_sentence(marked).startswith("Intermediate training, on ")
    assert intermediate_sentence(Findings(frames)).startswith("Training on an English task first, on ")
