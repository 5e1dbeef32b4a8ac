"""Analysis through its public interface, on a synthetic MLflow store with planted numbers."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"

import numpy as np
import pandas as pd
import pytest
from mlflow.entities import Metric, Param, RunTag

from analysis import StudyFrames, gains, load, pareto_front, write_report
from analysis.tables.tradeoff import best_trials, configurations
from tests.support.studies import new_store

TARGETS = ["nli", "tags", "bitext"]
INTERMEDIATES = ["none", "mnli", "squad", "both"]
LANGUAGES = ["en", "de", "sw"]
CHANCE = {"nli": 33.3, "tags": 10.0, "bitext": 1.0}
FAILURE = "CUDA out of memory <script>alert('x')</script>"

# test means by (size, trial): the gains asserted below are differences of these
SCORES: dict[tuple[str, str], dict[str, float]] = {
    ("2x128", "a0"): {"nli": 40.0, "tags": 50.0, "bitext": 90.0},
    ("2x128", "a1"): {"nli": 43.0, "tags": 48.0, "bitext": 90.0},
    ("2x128", "a2"): {"nli": 41.0},
    ("2x128", "a3"): {"nli": 38.0, "tags": 54.0, "bitext": 90.0},
    ("2x128", "a4"): {"nli": 43.0, "tags": 55.0, "bitext": 90.0},
    ("4x192", "b0"): {"nli": 50.0, "tags": 60.0, "bitext": 95.0},
    ("4x192", "b1"): {"nli": 56.5, "tags": 61.0, "bitext": 95.0},
    ("4x192", "b3"): {"nli": 70.0, "tags": 80.0, "bitext": 95.0},
}


class Store:
    """A tracking store to plant runs in."""

    def __init__(self, folder: Path) -> None:
        self.client = new_store(folder)

    def run(
        self,
        experiment: str,
        tags: Mapping[str, str],
        *,
        params: Mapping[str, str] | None = None,
        metrics: Mapping[str, float] | None = None,
    ) -> str:
        run_id = str(self.client.create_run(experiment).info.run_id)
        self.client.log_batch(
            run_id,
            metrics=[Metric(name, value, 0, 1) for name, value in (metrics or {}).items()],
            params=[Param(name, value) for name, value in (params or {}).items()],
            tags=[RunTag(name, value) for name, value in tags.items()],
        )
        return run_id


def _trial_metrics(scores: Mapping[str, float]) -> dict[str, float]:
    metrics = {"targets_finished": float(len(scores))}
    for task, mean in scores.items():
        metrics |= {f"test/{task}": mean, f"test_without_english/{task}": mean - 1, f"chance/{task}": CHANCE[task]}
        # en above, sw below: their mean is the planted mean
        metrics |= dict(zip((f"test/{task}/{code}" for code in LANGUAGES), (mean + 2, mean, mean - 2), strict=True))
        if task != "bitext":
            metrics[f"dev/{task}"] = mean + 5
    if scores:
        metrics["test/score"] = sum(scores.values()) / len(scores)
        metrics["dev/score"] = max(scores.values()) + 5
    return metrics


def _plant(store: Store) -> None:
    experiment = store.client.create_experiment(
        "quickstart",
        tags={
            "study.command": "xstilts run quickstart --output <out>",
            "study.versions": json.dumps({"torch": "2.13.0", "ray": "2.60.0"}),
            "study.hardware": "2 CPU cores, 8 GiB",
            "study.precision": "fp32",
            "study.seed": "0",
            "study.targets": json.dumps(TARGETS),
            "study.intermediates": json.dumps(INTERMEDIATES),
            "study.selection": "English dev",
            "study.marks": json.dumps({"mnli": {"nli": "same data"}, "squad": {"tags": "leak"}}),
        },
    )
    for size, params_m, best in (("4x192", 3.25, "b1"), ("2x128", 1.5, "a1")):
        store.run(
            experiment,
            {"kind": "size", "size": size, "best_trial": best},
            metrics={
                "params_m": params_m,
                "params_body_m": params_m / 2,
                "trials": 5,
                "pruned": 1,
                "failed": 1,
                "wall_s": 60,
            },
        )
    trials = [
        ("2x128", "a0", "none", 0, "complete", True),
        ("2x128", "a1", "mnli", 0, "complete", True),
        ("2x128", "a2", "squad", 0, "stopped_early", True),
        ("2x128", "a3", "none", 1, "complete", True),
        ("2x128", "a4", "mnli", 1, "complete", True),
        ("4x192", "b0", "none", 0, "complete", True),
        ("4x192", "b1", "mnli", 0, "complete", True),
        ("4x192", "b2", "squad", 0, "failed", True),
        ("4x192", "b3", "mnli", 0, "complete", False),
    ]
    for size, trial, intermediate, seed, outcome, default in trials:
        tags = {"kind": "trial", "size": size, "trial_id": trial, "outcome": outcome}
        tags |= {"default_cell": "true" if default else "false"} | ({"reason": FAILURE} if outcome == "failed" else {})
        run_id = store.run(
            experiment,
            tags,
            params={
                "intermediate": intermediate,
                "lr_intermediate": "none" if intermediate == "none" else "2e-05" if default else "9e-05",
                "lr_target": "3e-05",
                "seed": str(seed),
            },
            metrics=_trial_metrics(SCORES.get((size, trial), {})),
        )
        if trial == "a0":
            store.client.log_metric(run_id, "dev/score", 77.0, step=3)
            store.client.log_metric(run_id, "dev/score", 11.0, step=1)
    for size, variant, trial, score, p50, extra in (
        ("2x128", "fp32", "a1", 60.5, 4.0, {"bench/p99_ms": 6.0, "bench/energy_j_per_sample": 0.5}),
        ("2x128", "bf16", "a1", 59.0, 5.0, {}),
        ("4x192", "fp32", "b1", 71.0, 16.0, {}),
        ("4x192", "bf16", "b1", 70.0, 8.0, {}),
    ):
        tags = {
            "kind": "benchmark",
            "size": size,
            "variant": variant,
            "trial_id": trial,
            "hardware": "2 CPU cores, 8 GiB",
        }
        tags |= {"interference": "none seen"}
        tags |= (
            {} if extra else {"unavailable:bench/energy_j_per_sample": "no NVML", "unavailable:p99_ms": "40 samples"}
        )
        metrics = {"bench/p50_ms": p50, "bench/p90_ms": p50 * 1.2, "bench/throughput_sps": 900 / p50, "params_m": 1.5}
        store.run(
            experiment, tags, metrics=metrics | extra | {"test/score": score, "test/nli": score, "test/tags": score}
        )
    store.client.create_experiment("empty", tags={"study.targets": json.dumps(TARGETS)})


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("store")
    _plant(Store(folder))
    return f"sqlite:///{folder / 'mlflow.db'}"


@pytest.fixture(scope="module")
def frames(uri: str) -> StudyFrames:
    return load(uri, "quickstart")


@pytest.fixture(scope="module")
def empty(uri: str) -> StudyFrames:
    return load(uri, "empty")


@pytest.fixture(scope="module")
def report(frames: StudyFrames, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("report") / "deeper" / "report.html"
    assert write_report(frames, path, exports=False) == path
    return path.read_text(encoding="utf-8")


def _cell(gained: pd.DataFrame, size: str, intermediate: str, task: str) -> pd.Series:
    found = gained[(gained["size"] == size) & (gained["intermediate"] == intermediate) & (gained["task"] == task)]
    assert len(found) == 1
    return found.iloc[0]


def _page_without_libraries(report: str) -> str:
    return re.sub(r"<script>.*?</script>", "", report, flags=re.DOTALL)


def test_sizes_are_ordered_by_parameters(frames: StudyFrames) -> None:
    assert list(frames.sizes["size"]) == ["2x128", "4x192"]
    assert list(frames.sizes["params_m"]) == [1.5, 3.25]
    assert list(frames.sizes["best_trial"]) == ["a1", "b1"]


def test_a_trial_is_one_row_with_its_last_metrics(frames: StudyFrames) -> None:
    trials = frames.trials.set_index("trial_id")
    assert list(trials.index) == ["a0", "a1", "a2", "a3", "a4", "b0", "b1", "b2", "b3"]
    assert trials.loc["a0", "dev_score"] == 77.0  # the value of the highest step, not the one logged last
    assert math.isnan(trials["lr_intermediate"]["a0"])
    assert trials["lr_intermediate"]["a1"] == 2e-5
    assert trials["outcome"]["a2"] == "stopped_early"
    assert trials["targets_finished"]["a2"] == 1
    assert trials["reason"]["b2"] == FAILURE
    assert not trials["default_cell"]["b3"]


def test_scores_are_tidy(frames: StudyFrames) -> None:
    scores = frames.scores
    assert not scores.duplicated(["size", "trial_id", "task", "split", "language"]).any()
    assert set(scores["task"]) == set(TARGETS)
    of_trial = scores[(scores["trial_id"] == "b1") & (scores["task"] == "nli") & (scores["split"] == "test")]
    expected = {"mean": 56.5, "mean without en": 55.5, "en": 58.5, "de": 56.5, "sw": 54.5}
    assert dict(zip(of_trial["language"], of_trial["value"], strict=True)) == expected
    assert set(of_trial["chance"]) == {33.3}
    assert set(scores.loc[scores["split"] == "dev", "task"]) == {"nli", "tags"}


def test_benchmarks_keep_what_was_unavailable_and_why(frames: StudyFrames) -> None:
    rows = {(row["size"], row["variant"]): row for row in frames.benchmarks.to_dict("records")}
    assert rows["2x128", "fp32"]["p99_ms"] == 6.0
    assert rows["2x128", "fp32"]["unavailable"] == {}
    assert math.isnan(rows["4x192", "fp32"]["p99_ms"])
    assert rows["4x192", "fp32"]["unavailable"] == {"energy_j_per_sample": "no NVML", "p99_ms": "40 samples"}
    assert rows["4x192", "fp32"]["task_scores"] == {"nli": 71.0, "tags": 71.0}


def test_context_is_parsed(frames: StudyFrames) -> None:
    assert frames.context["versions"] == {"torch": "2.13.0", "ray": "2.60.0"}
    assert frames.targets == TARGETS
    assert frames.intermediates == INTERMEDIATES
    assert frames.context["selection"] == "English dev"


def test_an_unknown_experiment_names_those_there_are(uri: str) -> None:
    with pytest.raises(ValueError, match=r"no MLflow experiment named 'full'.*'empty'.*'quickstart'"):
        load(uri, "full")


def test_without_a_name_several_studies_are_refused(uri: str) -> None:
    with pytest.raises(ValueError, match="2 studies"):
        load(uri)


def test_a_store_that_does_not_exist_is_not_created(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not exist"):
        load(f"sqlite:///{tmp_path / 'typo.db'}", "quickstart")
    assert not list(tmp_path.iterdir())


def test_an_empty_experiment_has_columns_and_no_rows(empty: StudyFrames, frames: StudyFrames) -> None:
    for name in ("sizes", "trials", "scores", "benchmarks"):
        table, full = getattr(empty, name), getattr(frames, name)
        assert len(table) == 0
        assert list(table.columns) == list(full.columns)
        assert list(table.dtypes) == list(full.dtypes)


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        ([], []),
        ([(1, 1)], [True]),
        ([(1, 1), (2, 2), (3, 3)], [True, True, True]),
        ([(3, 1), (2, 2), (1, 3)], [False, False, True]),
        ([(1, 5), (1, 5)], [True, True]),  # equal in both: neither dominates
        ([(1, 5), (2, 5)], [True, False]),  # as good, dearer
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
    found = best_trials(StudyFrames(unnamed, trials, frames.scores, frames.benchmarks, frames.context))
    assert list(found.itertuples(index=False, name=None)) == [("2x128", "a1"), ("4x192", "b0")]


def test_gains_are_paired_by_seed_on_default_cells(frames: StudyFrames) -> None:
    gained = gains(frames)
    assert len(gained) == 2 * 3 * 3  # sizes, intermediates but none, targets
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


def test_gains_that_are_no_transfer_are_marked_in_every_table(frames: StudyFrames, tmp_path: Path) -> None:
    marks = {(row["intermediate"], row["task"]): row["mark"] for row in gains(frames).to_dict("records")}
    assert {pair: mark for pair, mark in marks.items() if mark} == {
        ("mnli", "nli"): "same data",
        ("squad", "tags"): "leak",
    }
    page = write_report(frames, tmp_path / "report.html", exports=False).read_text(encoding="utf-8")
    assert "+4.0*" in page  # the heatmap's cell
    assert "<td>same data</td>" in page
    assert "trained on data the target is trained on" in page


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


def test_the_report_answers_first(report: str) -> None:
    header = report[report.index("<header>") : report.index("</header>")]
    assert "size 4x192, served as fp32, after intermediate training on mnli" in header
    # the benchmarks here recorded no mean without English and no task whose queries were timed
    assert "mean test score 71.0 % (over 2 targets, all languages, English included), at 16.0 ms" in header
    assert "size 4x192 served as bf16" in header
    assert "2.0 times as fast" in header
    # (-0.5 + 0 + 1 + 1 + 0) / 5: mnli small tags and bitext, squad small nli, mnli large; not the 4 and 6.5 of the same data
    assert "+0.3 points on average over 5 comparisons" in header
    assert "9 more are missing" in header
    assert "2 more gains are no transfer and left out" in header
    assert "4 of 7 gains rest on one seed" in header


def test_the_report_loads_nothing(report: str) -> None:
    page = _page_without_libraries(report)
    assert not re.findall(r"\s(?:src|href)=\"(?!data:|#)", page)
    assert not re.findall(r"https?://|@import|url\(", page)
    assert "default-src 'none'" in page  # the browser itself refuses whatever the libraries might ask for
    assert report.count("window.vegaEmbed") == 1


def test_the_report_embeds_one_specification_a_chart(report: str) -> None:
    specs = dict(re.findall(r'<script type="application/json" id="([^"]+)">(.*?)</script>', report, flags=re.DOTALL))
    assert set(re.findall(r'data-spec="([^"]+)"', report)) == set(specs)
    charts = set(re.findall(r'data-name="([^"]+)"', report))
    assert charts >= {
        "tradeoff_p50_ms",
        "tradeoff_throughput_sps",
        "gains",
        "gain_intervals",
        "average_gains",
        "languages",
    }
    assert not any(name.startswith("tradeoff_peak") for name in charts), "not measured, so not drawn"
    assert all(json.loads(text)["layer"] for text in specs.values())


def test_the_report_names_what_is_missing(report: str) -> None:
    missing = report[report.index("<h2>What is missing") : report.index("<h2>Run context")]
    assert "CUDA out of memory" in missing
    assert "2x128 bf16, 4x192 fp32, 4x192 bf16: energy (J/sample): no NVML" in missing
    assert "4x192, squad on nli, tags, bitext: failed" in missing
    assert "2x128, both on nli, tags, bitext: not run" in missing


def test_the_report_escapes_what_it_was_told(report: str) -> None:
    assert "<script>alert" not in report
    assert "&lt;script&gt;alert(&#x27;x&#x27;)" in report
    assert "--output &lt;out&gt;" in report


def test_text_in_a_chart_cannot_end_its_script(frames: StudyFrames, tmp_path: Path) -> None:
    hostile = frames.benchmarks.assign(variant="</script><b>out</b>")
    study = StudyFrames(frames.sizes, frames.trials, frames.scores, hostile, frames.context)
    page = write_report(study, tmp_path / "report.html", exports=False).read_text(encoding="utf-8")
    assert "<b>out</b>" not in page


def test_an_empty_study_gives_a_report_that_says_so(empty: StudyFrames, tmp_path: Path) -> None:
    page = write_report(empty, tmp_path / "report.html", exports=False).read_text(encoding="utf-8")
    assert "no trials and no benchmarks yet" in page
    assert "No benchmark is recorded" in page
    assert "nan" not in re.sub(r"<style>.*?</style>", "", page).lower().split()
    assert "vegaEmbed" not in page


@pytest.mark.parametrize("part", ["sizes", "trials", "scores", "benchmarks"])
def test_a_study_that_lacks_a_part_still_gives_a_report(frames: StudyFrames, part: str, tmp_path: Path) -> None:
    tables = {name: getattr(frames, name) for name in ("sizes", "trials", "scores", "benchmarks")}
    tables[part] = tables[part].iloc[:0]
    study = StudyFrames(**tables, context=frames.context)
    page = write_report(study, tmp_path / "report.html", exports=False).read_text("utf-8")
    assert "What is missing" in page
    assert ("No benchmark is recorded" in page) == (part == "benchmarks")
    assert ("No trial is recorded" in page) == (part == "trials")
