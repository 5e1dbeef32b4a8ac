"""Scaling, the search, published scores, and two studies compared."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import analysis
from analysis import StudyFrames
from analysis.store.examples import Examples
from analysis.tables.literature import comparable
from analysis.tables.searches import FEWEST_TRIALS
from tests.analysis.helpers import by, default_cells
from tests.support.studies import Planted

PLANTED = Planted()


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
    # 2 operations, 0.4 million body parameters, 20 tokens per query
    assert points.loc[points["size"] == "2x128", "gflops_per_sample"].iloc[0] == pytest.approx(0.016)


def test_three_sizes_have_points_and_no_curve(study: StudyFrames) -> None:
    fewer = dataclasses.replace(study, sizes=study.sizes[study.sizes["size"] != "6x256"])
    assert analysis.scaling(fewer) == {}
    assert set(analysis.scaling_points(fewer)["size"]) == {"2x128", "3x160", "4x192"}


def test_rung_agreement_is_computed_from_the_targets_finished(study: StudyFrames) -> None:
    table = analysis.rung_agreement(study)
    assert set(table["rung"]) == {1, 2}  # the last of three dev sets is the final ranking; bitext has no dev set
    assert (table["trials"] == 4 + 4).all()
    assert table["kendall_tau"].between(-1, 1).all()
    assert (table["low"] <= table["kendall_tau"]).all()


def test_savings_from_stopping_early_and_sharing_by_hand() -> None:
    frames = default_cells({"none": 50.0, "topic": 50.0}, sd=0.0, seeds=1, targets=("x", "y", "z"))
    row = frames.trials.iloc[1].to_dict() | {"trial_id": "early", "outcome": "stopped_early", "lr_target": 9.0}
    trials = pd.concat([frames.trials, pd.DataFrame([row | {"targets_finished": 1}])], ignore_index=True)
    trials = trials.astype(frames.trials.dtypes.to_dict())
    (saved,) = analysis.savings(dataclasses.replace(frames, trials=trials)).to_dict("records")
    assert (saved["targets_not_trained"], saved["targets_in_all"]) == (2, 9)
    # none: pretrain + 3; topic: pretrain + intermediate + 3; early: pretrain + intermediate + 1. Shared: pretrain, intermediate
    assert (saved["stages_asked"], saved["stages_made"]) == (4 + 5 + 3, 1 + 3 + 1 + 3 + 1)


def test_importance_is_that_of_the_rate_that_matters() -> None:
    """One of two learning rates determines the score, the other has no effect."""
    frames = default_cells({"none": 50.0}, sd=0.0, seeds=1)
    random = np.random.default_rng(0)
    rows = []
    for number in range(60):
        rate, other = random.choice([1e-4, 3e-4, 1e-3]), random.choice([1e-3, 2e-3])
        score = {1e-4: 40.0, 3e-4: 60.0, 1e-3: 50.0}[rate] + random.normal(0, 0.5)
        row = frames.trials.iloc[0].to_dict() | {"trial_id": f"r{number}", "intermediate": "topic", "dev_score": score}
        rows.append(row | {"lr_intermediate": rate, "lr_target": other})
    trials = pd.DataFrame(rows).astype(frames.trials.dtypes.to_dict())
    shares = analysis.importances(dataclasses.replace(frames, trials=trials)).set_index("parameter")["importance"]
    assert shares["lr_intermediate"] > 0.9
    assert shares.sum() == pytest.approx(1.0)
    few = dataclasses.replace(frames, trials=trials.head(FEWEST_TRIALS - 1))
    assert analysis.importances(few).empty


def test_every_published_score_has_its_source_and_only_zero_shot_ones_are_compared() -> None:
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


def test_a_published_score_without_a_source_is_refused(tmp_path: Path) -> None:
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
    comparison = analysis.compare(study, other)
    assert comparison.other == "later"
    assert len(comparison.scores) == len(PLANTED.sizes) * 4 * 4
    assert comparison.scores["difference"].to_numpy() == pytest.approx(2.0)
    assert (comparison.scores["n"] == 3).all()
    ratios = comparison.speeds.set_index(["size", "variant", "metric"])["ratio"]
    assert ratios["2x128", "fp32", "p50_ms"] == pytest.approx(2.0)
    assert ratios["2x128", "fp32", "throughput_sps"] == pytest.approx(1.0)
    settings = by(comparison.settings, "setting")
    assert (settings["precision"]["this"], settings["precision"]["other"]) == ("fp32", "bf16")
    assert (settings["versions"]["this"], settings["versions"]["other"]) == ("torch: 2.13.0", "torch: 3.0")
    assert "targets" not in settings
