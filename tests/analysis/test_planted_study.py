"""The analyses on a synthetic study whose truth is known, written to MLflow and read back."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import analysis
from analysis import StudyFrames
from analysis.store.examples import Examples
from analysis.store.frames import ENGLISH, MEAN, MEAN_WITHOUT_ENGLISH
from analysis.tables.languages import associations, script_of
from analysis.tables.literature import comparable
from analysis.tables.searches import FEWEST_TRIALS
from tests.support.studies import LANGUAGES, Planted, level, plant

PLANTED = Planted()


@pytest.fixture(scope="module")
def study(planted: Path) -> StudyFrames:
    return analysis.load(f"sqlite:///{planted / 'mlflow.db'}", "planted")


@pytest.fixture(scope="module")
def bare(study: StudyFrames) -> StudyFrames:
    """The same without per-example scores."""
    return dataclasses.replace(study, examples=Examples())


def test_planted_gains_are_covered_and_the_large_ones_found(study: StudyFrames) -> None:
    gained = analysis.gains(study)
    true = np.array([PLANTED.gains[i][t] for i, t in zip(gained["intermediate"], gained["task"], strict=True)])
    assert (gained["n"] == 3).all()
    assert gained["with_examples"].all()
    covered = ((gained["low"] <= true) & (gained["high"] >= true)).mean()
    assert covered >= 0.85  # 48 intervals of 95 %, the twelve of a size sharing one baseline
    verdicts = {key: row["verdict"] for key, row in _by(gained, "size", "intermediate", "task").items()}
    found = [verdicts[size, "topic", "bitext"] == "loss" for size in PLANTED.sizes]  # planted: -8
    assert sum(found) >= 3
    assert not any(
        verdict == "gain" for (_, intermediate, _), verdict in verdicts.items() if intermediate == "topic"
    )  # nothing planted is above zero there


def test_a_planted_tie_is_called_a_tie() -> None:
    """Twenty seeds that differ by a tenth of a point: the interval lies within one point of zero."""
    frames = _frames({"none": 60.0, "topic": 60.0, "paraphrase": 63.0}, sd=0.1, seeds=20)
    verdicts = analysis.gains(frames).set_index("intermediate")["verdict"].to_dict()
    assert verdicts == {"topic": "tie", "paraphrase": "gain"}
    few = _frames({"none": 60.0, "topic": 60.0}, sd=2.0, seeds=3)
    assert analysis.gains(few)["verdict"].tolist() == ["unclear"]


def test_examples_widen_an_interval_and_one_seed_has_no_verdict(study: StudyFrames, bare: StudyFrames) -> None:
    with_examples, without = analysis.gains(study), analysis.gains(bare)
    assert (with_examples["se"] >= without["se"]).all()
    assert with_examples["se"].mean() > 1.01 * without["se"].mean()
    assert not without["with_examples"].any()
    first = dataclasses.replace(study, trials=study.trials[study.trials["seed"] == 0])
    single = analysis.gains(first)
    assert set(single.loc[single["mark"] == "", "verdict"]) == {"one seed"}
    assert single["low"].notna().all()
    assert single["p"].isna().all()
    assert single.merge(with_examples, on=["size", "intermediate", "task"])["se_x"].notna().all()


def test_marked_gains_are_not_counted_among_the_comparisons(study: StudyFrames) -> None:
    gained = analysis.gains(study)
    marked = gained["mark"] != ""
    assert set(gained.loc[marked, "task"]) == {"xnli"}
    assert gained.loc[marked, "p_holm"].isna().all()
    assert set(gained.loc[marked, "verdict"]) == {""}, "six planted points, and no verdict on what is no transfer"
    assert (gained.loc[marked, "p"] < 0.05).any()
    assert gained.loc[~marked, "p_holm"].equals(
        pd.Series(analysis.holm(gained.loc[~marked, "p"]), gained.index[~marked])
    )


def test_repeats_pair_with_their_seed_and_count_as_no_trial(study: StudyFrames) -> None:
    assert len(study.searched) == len(PLANTED.sizes) * (4 + PLANTED.sampled)
    repeats = study.trials[study.trials["kind"] == "repeat"]
    assert len(repeats) == len(PLANTED.sizes) * 4 * 2
    assert repeats["default_cell"].all()
    size = next(iter(PLANTED.sizes))
    scores = study.scores[
        (study.scores["size"] == size)
        & (study.scores["task"] == "xnli")
        & (study.scores["language"] == MEAN_WITHOUT_ENGLISH)
    ]
    test = scores.set_index("trial_id")["value"]
    by_hand = np.mean([test[f"t1{seed}"] - test[f"t0{seed}"] for seed in ("", "-s1", "-s2")])
    gained = _by(analysis.gains(study), "size", "intermediate", "task")
    assert gained[size, "paraphrase", "xnli"]["gain"] == pytest.approx(by_hand)


def test_tuned_gains_compare_each_at_its_own_rates(study: StudyFrames) -> None:
    tuned = analysis.gains(study, cells="tuned")
    assert len(tuned) == len(analysis.gains(study))
    best = study.searched[study.searched["outcome"] == "complete"]
    size = next(iter(PLANTED.sizes))
    own = best[best["size"] == size]
    ids = {
        name: max(own[own["intermediate"] == name].to_dict("records"), key=lambda row: row["dev_score"])["trial_id"]
        for name in ("none", "topic")
    }
    row = _by(tuned, "size", "intermediate", "task")[size, "topic", "xnli"]
    scores = study.scores[(study.scores["size"] == size) & (study.scores["task"] == "xnli")]
    value = scores[scores["language"] == MEAN_WITHOUT_ENGLISH].set_index("trial_id")["value"]
    if row["n"] == 1:
        assert row["gain"] == pytest.approx(value[ids["topic"]] - value[ids["none"]])
    else:
        assert row["n"] == 2, "the seed it was chosen on is left out"


def test_gains_by_language_agree_with_gains_of_that_language(study: StudyFrames) -> None:
    table = _by(analysis.gains_by_language(study), "size", "intermediate", "task", "language")
    for language in ("sw", ENGLISH, MEAN, MEAN_WITHOUT_ENGLISH):
        one = analysis.gains(study, language=language)
        for row in one.head(5).to_dict("records"):
            found = table[row["size"], row["intermediate"], row["task"], language]
            assert found["gain"] == pytest.approx(row["gain"])
            assert found["n"] == row["n"]


def test_the_best_choice_is_made_on_dev_and_judged_on_test(study: StudyFrames) -> None:
    table = analysis.choices(study)
    for size, group in table.groupby("size"):
        by_choice = _by(group, "choice")
        assert by_choice["none"]["gain"] == 0
        single = by_choice["best single"]["intermediate"]
        assert single in ("paraphrase", "mixture_all"), size  # planted means on dev: 3.0 and 2.3 against 0 for topic
        assert by_choice["mixture mixture_all"]["intermediate"] == "mixture_all"
        # every dev score is above its test score here, so a choice that read test scores could not have been made on dev
        taken = dict(pair.split(": ") for pair in by_choice["best per target"]["intermediate"].split("; "))
        assert taken["bitext"] == single, "a target without a dev set takes the best single"
    scrambled = study.scores.assign(
        value=study.scores["value"].where(study.scores["split"] == "dev", -study.scores["value"])
    )
    other = analysis.choices(dataclasses.replace(study, scores=scrambled))
    assert other["intermediate"].tolist() == table["intermediate"].tolist()


def test_average_gains_leave_out_what_is_no_transfer(study: StudyFrames) -> None:
    table = analysis.average_gains(study).set_index(["size", "intermediate"])
    assert (table.loc[(slice(None), "paraphrase"), "targets"] == 3).all()  # xnli is of the same data
    topic = table.xs("topic", level="intermediate")
    assert ((topic["low"] <= -2) & (topic["high"] >= -2)).sum() >= 3  # planted: -8 / 4; four intervals of 95 %
    assert (topic["high"] < 0).sum() >= 3


def test_a_gain_that_shrinks_with_size_is_said_to() -> None:
    def verdicts(slope: float) -> dict[str, str]:
        cells = {size: {"none": 50.0, "topic": 56.0 + slope * doublings} for doublings, size in enumerate("abcd")}
        frames = _frames(cells, sd=0.4, seeds=3)
        table = _by(analysis.interactions(frames), "intermediate")
        assert table["topic"]["low"] <= slope <= table["topic"]["high"]
        return {name: row["verdict"] for name, row in table.items()}

    assert verdicts(-1.5) == {"topic": "shrinks"}
    assert verdicts(1.5) == {"topic": "grows"}
    assert verdicts(0.0) == {"topic": "unclear"}


def test_two_sizes_with_one_seed_have_a_slope_and_no_interval() -> None:
    frames = _frames({"a": {"none": 50.0, "topic": 54.0}, "b": {"none": 50.0, "topic": 52.0}}, sd=0.0, seeds=1)
    (row,) = analysis.interactions(frames).to_dict("records")
    assert row["slope"] == pytest.approx(-2.0)
    assert math.isnan(row["low"])
    assert row["verdict"] == "unclear"


def test_the_planted_front_is_found_on_every_cost(study: StudyFrames) -> None:
    served = analysis.configurations(study)
    by_name = {(row["size"], row["variant"]): row for row in served.to_dict("records")}
    for size in PLANTED.sizes:
        # fp32 costs 2.2 times as much as bf16 for a tenth of a point; only the largest gains by it what nothing else has
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


def test_a_budget_buys_the_best_that_fits_and_says_how_sure_that_is(study: StudyFrames, bare: StudyFrames) -> None:
    choice = analysis.best_for_budget(study, "p50_ms<=3.5")
    assert choice.best is not None
    assert choice.runner_up is not None
    assert choice.difference is not None
    served = analysis.configurations(study)
    fits = served[served["p50_ms"] <= 3.5].sort_values("seed_mean")
    assert (choice.best["size"], choice.best["variant"]) == tuple(fits[["size", "variant"]].iloc[-1])
    assert choice.fitting == len(fits)
    # planted: one size is a doubling above the other, worth about 4 points
    assert choice.runner_up["size"] != choice.best["size"]
    assert choice.difference.low < choice.difference.value < choice.difference.high
    assert choice.difference.probability > 0.95
    assert choice.difference.rests_on == "3 seeds and test examples"
    assert analysis.best_for_budget(bare, "p50_ms<=3.5").difference.rests_on == "3 seeds"  # type: ignore[union-attr]


def test_a_budget_counts_neither_what_is_unknown_nor_what_is_invalid(study: StudyFrames) -> None:
    energy = analysis.best_for_budget(study, "energy_j_per_sample<=0.5")
    assert energy.best is None
    assert len(energy.unknown) == 12
    load = analysis.best_for_budget(study, "server_p99_ms<=1000, throughput_sps>=1")
    assert load.best is not None
    assert load.fitting == 8  # the four int8 results of Server are INVALID
    assert all("int8" in name for name in load.unknown)
    served = analysis.configurations(study)  # planted: each p99 up to a tenth below the bound of 100 ms
    within = served.loc[served["server_p99_ms"] <= 95, "size"].count()
    stricter = analysis.best_for_budget(study, "server_p99_ms<=95")
    assert stricter.fitting == within
    assert len(stricter.unknown) == 12 - within, "a lower load might do"


@pytest.mark.parametrize(
    ("budget", "says"),
    [
        ("fast", "must read like"),
        ("p50<=3", "no metric 'p50'"),
        ("p50_ms>=3", "bounds p50_ms with <="),
        ("throughput_sps<=3", "bounds throughput_sps with >="),
        ("p50_ms<=1e", "is no number"),
        ("", "must read like"),
    ],
)
def test_a_budget_that_cannot_be_read_is_refused(study: StudyFrames, budget: str, says: str) -> None:
    with pytest.raises(analysis.BadBudget, match=says):
        analysis.best_for_budget(study, budget)


def test_the_same_model_in_two_variants_is_not_compared_on_noise(study: StudyFrames) -> None:
    only = study.benchmarks[study.benchmarks["size"] == "6x256"]
    choice = analysis.best_for_budget(dataclasses.replace(study, benchmarks=only), "p50_ms<=1000")
    assert choice.difference is not None
    assert math.isnan(choice.difference.probability)
    assert "no examples are recorded by variant" in choice.difference.rests_on


def test_scaling_finds_the_planted_exponent_of_latency(study: StudyFrames) -> None:
    fits = analysis.scaling(study)
    for variant in ("fp32", "bf16", "int8"):
        low, high = fits["p50 latency (ms)", variant, "power"].intervals["b"]
        assert low < 0.8 < high, variant  # planted: 4 N^0.8
        assert high - low < 0.3
    assert {form for what, _, form in fits if what == "test score (%)"} == {"power", "saturating"}
    points = analysis.scaling_points(study)
    none = points[(points["what"] == "test score (%)") & (points["series"] == "none")]
    assert len(none) == 4
    # 2 operations, 0.4 million body parameters, 20 pieces a query
    assert points.loc[points["size"] == "2x128", "gflops_per_sample"].iloc[0] == pytest.approx(0.016)


def test_three_sizes_have_points_and_no_curve(study: StudyFrames) -> None:
    fewer = dataclasses.replace(study, sizes=study.sizes[study.sizes["size"] != "6x256"])
    assert analysis.scaling(fewer) == {}
    assert set(analysis.scaling_points(fewer)["size"]) == {"2x128", "3x160", "4x192"}


def test_languages_have_scripts_gaps_and_costs(study: StudyFrames) -> None:
    assert {code: script_of(code) for code in ("en", "ru", "zh", "hi", "ar", "xx")} == {
        "en": "Latn",
        "ru": "Cyrl",
        "zh": "Hans",
        "hi": "Deva",
        "ar": "Arab",
        "xx": "",
    }
    languages = analysis.language_table(study)
    table = _by(languages, "size", "language")
    assert len(table) == len(PLANTED.sizes) * len(LANGUAGES)
    swahili, english = table["4x192", "sw"], table["4x192", ENGLISH]
    assert swahili["name"] == "Swahili"
    assert swahili["pieces_to_english"] == pytest.approx(32 / 16)
    assert swahili["latency_to_english"] == pytest.approx(1.2 / 0.8)
    assert english["gap_to_english"] == 0
    assert swahili["gap_to_english"] == pytest.approx(english["score"] - swahili["score"])
    found = associations(languages).set_index(["size", "what"])["spearman"]
    assert found["4x192", "latency with pieces"] == pytest.approx(1.0)
    assert found["4x192", "language effect with pieces"] < -0.6  # planted: a point less with each further language


def test_what_early_rungs_tell_is_computed_from_the_targets_finished(study: StudyFrames) -> None:
    table = analysis.rung_agreement(study)
    assert set(table["rung"]) == {1, 2}  # the last of three dev sets is the end itself; bitext has none
    assert (table["trials"] == 4 + 4).all()
    assert table["kendall_tau"].between(-1, 1).all()
    assert (table["low"] <= table["kendall_tau"]).all()


def test_what_pruning_and_sharing_saved_by_hand() -> None:
    frames = _frames({"none": 50.0, "topic": 50.0}, sd=0.0, seeds=1, targets=("x", "y", "z"))
    row = frames.trials.iloc[1].to_dict() | {"trial_id": "early", "outcome": "stopped_early", "lr_target": 9.0}
    trials = pd.concat([frames.trials, pd.DataFrame([row | {"targets_finished": 1}])], ignore_index=True)
    trials = trials.astype(frames.trials.dtypes.to_dict())
    (saved,) = analysis.savings(dataclasses.replace(frames, trials=trials)).to_dict("records")
    assert (saved["targets_not_trained"], saved["targets_in_all"]) == (2, 9)
    # none: pretrain + 3; topic: pretrain + intermediate + 3; early: pretrain + intermediate + 1. Shared: pretrain, intermediate
    assert (saved["stages_asked"], saved["stages_made"]) == (4 + 5 + 3, 1 + 3 + 1 + 3 + 1)


def test_importance_finds_what_decided() -> None:
    """Of two rates one decides the score and one does nothing."""
    frames = _frames({"none": 50.0}, sd=0.0, seeds=1)
    random = np.random.default_rng(0)
    rows = []
    for number in range(60):
        rate, other = random.choice([1e-4, 3e-4, 1e-3]), random.choice([1e-3, 2e-3])
        score = {1e-4: 40.0, 3e-4: 60.0, 1e-3: 50.0}[rate] + random.normal(0, 0.5)
        row = frames.trials.iloc[0].to_dict() | {"trial_id": f"r{number}", "intermediate": "topic", "dev_score": score}
        rows.append(row | {"lr_intermediate": rate, "lr_target": other})
    trials = pd.DataFrame(rows).astype(frames.trials.dtypes.to_dict())
    found = analysis.importances(dataclasses.replace(frames, trials=trials)).set_index("parameter")["importance"]
    assert found["lr_intermediate"] > 0.9
    assert found.sum() == pytest.approx(1.0)
    few = dataclasses.replace(frames, trials=trials.head(FEWEST_TRIALS - 1))
    assert analysis.importances(few).empty


def test_every_published_figure_has_its_source_and_only_zero_shot_ones_are_compared() -> None:
    table = analysis.published()
    assert len(table) > 60
    assert table["source"].str.len().min() > 5
    assert table["value"].between(0, 100).all()
    xnli = comparable(table, ["xnli", "mlqa"])
    assert "translate-train-all" in set(table["protocol"])
    large = xnli[(xnli["model"] == "XLM-R Large") & (xnli["task"] == "xnli")]
    assert large["value"].tolist() == [79.2]  # not the 83.6 of translate-train-all
    mlqa = xnli[(xnli["task"] == "mlqa") & (xnli["model"] == "XLM-R XL")]
    assert mlqa["value"].tolist() == [pytest.approx((73.4 + 55.3) / 2)]
    assert not xnli["model"].str.startswith("mT5").loc[xnli["task"] == "mlqa"].any(), (
        "F1 alone is not the study's score"
    )
    assert comparable(table, ["micro_tagging"]).empty


def test_a_published_figure_without_a_source_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text(
        "model,params_m,task,metric,value,protocol,source\nm,1,xnli,accuracy,50,zero-shot,\n"
    )
    with pytest.raises(ValueError, match=r"x\.csv: row 1 has no protocol or no source"):
        analysis.published(tmp_path)


def test_two_studies_are_compared_cell_by_cell(study: StudyFrames) -> None:
    higher = study.scores.assign(value=study.scores["value"] + 2.0)
    slower = study.benchmarks.assign(p50_ms=study.benchmarks["p50_ms"] * 2)
    context = study.context | {"experiment": "later", "precision": "bf16", "versions": {"torch": "3.0"}}
    other = dataclasses.replace(study, scores=higher, benchmarks=slower, context=context, examples=Examples())
    found = analysis.compare(study, other)
    assert found.other == "later"
    assert len(found.scores) == len(PLANTED.sizes) * 4 * 4
    assert found.scores["difference"].to_numpy() == pytest.approx(2.0)
    assert (found.scores["n"] == 3).all()
    ratios = found.speeds.set_index(["size", "variant", "metric"])["ratio"]
    assert ratios["2x128", "fp32", "p50_ms"] == pytest.approx(2.0)
    assert ratios["2x128", "fp32", "throughput_sps"] == pytest.approx(1.0)
    settings = _by(found.settings, "setting")
    assert (settings["precision"]["this"], settings["precision"]["other"]) == ("fp32", "bf16")
    assert (settings["versions"]["this"], settings["versions"]["other"]) == ("torch: 2.13.0", "torch: 3.0")
    assert "targets" not in settings


def test_an_example_file_that_cannot_be_read_costs_its_intervals_and_is_named(study: StudyFrames) -> None:
    def broken(key: tuple[str, str]) -> pd.DataFrame | None:
        if key == ("2x128", "t0"):
            raise OSError("the disk is gone")
        return study.examples.read(key)

    frames = dataclasses.replace(study, examples=Examples(broken))
    gained = analysis.gains(frames)
    assert not gained.loc[gained["size"] == "2x128", "with_examples"].any()
    assert gained.loc[gained["size"] == "4x192", "with_examples"].all()
    assert frames.examples.problems == {("2x128", "t0"): "OSError: the disk is gone"}


def test_the_store_reads_the_same_through_mlflow_and_through_sql(tmp_path: Path) -> None:
    from mlflow.tracking import MlflowClient

    from analysis.store.reading import _runs, _runs_of_file

    small = Planted(sizes={"a": 1.0}, targets={"x": 50.0}, gains={"topic": {"x": 1.0}}, seeds=1, sampled=0, examples=5)
    plant(tmp_path, dataclasses.replace(small, marks={}))
    path = tmp_path / "mlflow.db"
    client = MlflowClient(tracking_uri=f"sqlite:///{path}")
    experiment = client.get_experiment_by_name("planted")
    assert experiment is not None
    client.delete_run(client.search_runs([experiment.experiment_id], "tags.kind = 'benchmark'")[0].info.run_id)
    direct = {run.run_id: run for run in _runs_of_file(path, experiment.experiment_id)}
    asked = {run.run_id: run for run in _runs(client, "http://a-server", experiment.experiment_id)}
    assert len(asked) == 2 + 1 + 2  # trials, the size, two of three benchmarks
    assert direct == asked


@pytest.mark.parametrize("direct", [True, False])
def test_runs_that_began_in_one_millisecond_are_read_in_the_order_of_their_keys(direct: bool, tmp_path: Path) -> None:
    from mlflow.tracking import MlflowClient

    from analysis.store.reading import _runs

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    client = MlflowClient(tracking_uri=uri)
    experiment = client.create_experiment("tied")
    for number in (5, 2, 7, 0, 3, 6, 1, 4):
        client.create_run(experiment, start_time=1000, tags={"key": f"trial:s:t{number}"})
    client.create_run(experiment, start_time=999, tags={"key": "trial:s:t9"})
    read = _runs(client, uri if direct else "http://a-server", experiment)
    assert [run.tags["key"][-1] for run in read] == list("901234567")


def test_the_example_of_the_notebook_runs(study: StudyFrames) -> None:
    example = (analysis.__doc__ or "").split("In a notebook:")[1]
    code = "\n".join(line.strip() for line in example.splitlines() if "load(" not in line)
    names: dict[str, object] = {"frames": study}
    exec(code, names)
    assert callable(names["best_for_budget"])


def test_charts_and_tables_are_written_as_files(study: StudyFrames, tmp_path: Path) -> None:
    old = tmp_path / "report_files" / "charts" / "of-an-earlier-state.svg"
    old.parent.mkdir(parents=True)
    old.write_text("old")
    small = _of_size(study, "2x128")
    report = analysis.write_report(small, tmp_path / "report.html")
    folder = analysis.exports_folder(report)
    page = report.read_text(encoding="utf-8")
    charts = {path.name for path in (folder / "charts").iterdir()}
    assert {"tradeoff_p50_ms.svg", "tradeoff_p50_ms.png", "gains-2x128.svg", "languages-xnli.png"} <= charts
    assert not old.exists()
    assert "2x128" in (folder / "charts" / "tradeoff_p50_ms.svg").read_text(encoding="utf-8")
    assert (folder / "charts" / "gains-2x128.png").read_bytes().startswith(b"\x89PNG")
    gained = pd.read_csv(folder / "tables" / "gains.csv")
    assert gained["gain"].to_numpy() == pytest.approx(analysis.gains(small)["gain"].to_numpy())
    latex = (folder / "tables" / "gains.tex").read_text(encoding="utf-8")
    assert r"\toprule" in latex
    assert r"mixture\_all" in latex
    names = {path.stem for path in folder.glob("tables/*.csv")}
    assert names == {path.stem for path in (folder / "tables").glob("*.tex")}
    assert all(f'download="{name}.csv"' in page for name in names - {"importances", "rungs"})
    shutil.rmtree(folder)


def test_a_budget_and_a_comparison_open_the_report(study: StudyFrames, tmp_path: Path) -> None:
    report = analysis.write_report(
        study, tmp_path / "report.html", budget="p50_ms<=3.5", other=study, exports=False
    ).read_text(encoding="utf-8")
    header = report[report.index("<header>") : report.index("</header>")]
    assert "Within p50 latency (ms) &lt;= 3.5 take size" in header
    assert header.count("<p>") == 3, "three sentences"
    assert "is really better with probability" in report
    assert "<h2>Compared with planted</h2>" in report


def _by(table: pd.DataFrame, *names: str) -> dict[Any, dict[str, Any]]:
    """Rows by one column's value, or by a tuple of several columns'."""
    rows = [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]
    return {row[names[0]] if len(names) == 1 else tuple(row[name] for name in names): row for row in rows}


def _of_size(study: StudyFrames, size: str) -> StudyFrames:
    tables = {name: getattr(study, name) for name in ("sizes", "trials", "scores", "benchmarks")}
    return dataclasses.replace(study, **{name: table[table["size"] == size] for name, table in tables.items()})


def _frames(
    cells: dict[str, float] | dict[str, dict[str, float]],
    *,
    sd: float,
    seeds: int,
    targets: tuple[str, ...] = ("x",),
) -> StudyFrames:
    """Tables of default cells alone: true scores by intermediate, or by size and intermediate; sizes double the body."""
    by_size: dict[str, dict[str, float]] = cells if isinstance(next(iter(cells.values())), dict) else {"a": cells}  # type: ignore[assignment,dict-item]
    random = np.random.default_rng(0)
    trials, scores, sizes = [], [], []
    for place, (size, true) in enumerate(by_size.items()):
        sizes.append({"size": size, "params_m": 2.0**place + 1, "params_body_m": 2.0**place, "best_trial": ""})
        for number, (intermediate, value) in enumerate(true.items()):
            for seed in range(seeds):
                key = {
                    "size": size,
                    "trial_id": f"t{number}-{seed}",
                    "intermediate": intermediate,
                    "default_cell": True,
                }
                key |= {"outcome": "complete"}
                measured = value + random.normal(0, sd)
                rates = {"lr_intermediate": None if intermediate == "none" else 1e-4, "lr_target": 1e-3, "seed": seed}
                rest = {"kind": "trial", "repeats": "", "reason": "", "dev_score": measured, "test_score": measured}
                trials.append(key | rates | rest | {"targets_finished": len(targets)})
                scores += [
                    key | {"task": task, "split": "test", "language": MEAN, "value": measured} for task in targets
                ]
    from analysis.store import frames as tables

    context = {
        "experiment": "made",
        "targets": list(targets),
        "intermediates": list(next(iter(by_size.values()))),
        "marks": {},
    }
    return StudyFrames(
        sizes=tables.frame(sizes, tables.SIZES),
        trials=tables.frame(trials, tables.TRIALS),
        scores=tables.frame(scores, tables.SCORES),
        benchmarks=tables.frame((), tables.BENCHMARKS),
        context=json.loads(json.dumps(context)),
    )


def test_the_planted_levels_are_what_the_study_was_drawn_from() -> None:
    assert level(PLANTED, "2x128", "topic", "bitext") == 62.0
    assert level(PLANTED, "2x128", "none", "xnli") == 55.0
