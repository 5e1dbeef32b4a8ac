"""Grades of estimators: planted truth, noise, ties, and how often an estimator that knows nothing is called better."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest

from analysis import grades, measured_scores
from analysis.tables.estimates.grades import summary
from analysis.tables.estimates.regret import expected_best, rank_correlations, regret
from tests.support.studies import build_frames

Floats = npt.NDArray[np.float64]
CHOICES = tuple("abcdef")
TARGETS = ("tagging", "span", "follows", "mention", "retrieval")


def measured(scores: Floats, choices: Sequence[str] = CHOICES) -> pd.DataFrame:
    """Scores, targets by choices, as a table."""
    return pd.DataFrame(
        [("s", target, choice, scores[t, c]) for t, target in enumerate(TARGETS) for c, choice in enumerate(choices)],
        columns=["size", "target", "intermediate", "score"],
    )


def estimated(values: Floats, name: str = "made") -> pd.DataFrame:
    table = measured(values, CHOICES[: values.shape[1]]).rename(columns={"score": "value"})
    return table.assign(estimator=name)


def by_enumeration(scores: Floats, estimates: Floats, k: int) -> float:
    """The mean, over all orders of the choices, of the best among the first k after a stable sort by estimate."""
    best = []
    for order in itertools.permutations(range(len(scores))):
        ranked = sorted(order, key=lambda choice: -estimates[choice])
        best.append(max(scores[choice] for choice in ranked[:k]))
    return float(np.mean(best))


@pytest.mark.parametrize(
    "estimates", [[3.0, 1.0, 2.0, 5.0, 4.0], [1.0, 1.0, 2.0, 2.0, 2.0], [0.0] * 5, [2.0, 1.0, 1.0, 1.0, 0.0]]
)
@pytest.mark.parametrize("k", [1, 2, 3, 5, 9])
def test_the_best_of_the_first_ones_is_expected_over_all_orders_of_ties(estimates: list[float], k: int) -> None:
    scores = np.array([60.0, 62.0, 61.0, 55.0, 62.0])
    found = expected_best(scores, np.array(estimates), k)
    assert found == pytest.approx(by_enumeration(scores, np.array(estimates), k))


def test_regret_by_hand() -> None:
    scores, estimates = np.array([50.0, 40.0, 45.0]), np.array([0.1, 0.3, 0.2])
    assert regret(scores, estimates, 1) == pytest.approx(20.0)  # (50 - 40) / 50
    assert regret(scores, estimates, 2) == pytest.approx(10.0)
    assert regret(scores, estimates, 3) == 0.0
    assert math.isnan(regret(np.zeros(3), estimates, 1))


def test_correlations_of_the_undecided_and_of_equal_scores() -> None:
    scores = np.array([1.0, 2.0, 4.0, 3.0])
    assert rank_correlations(scores, np.ones(4)) == (0.0, 0.0)
    assert rank_correlations(scores, np.array([1.0, 2.0, 3.0, 4.0])) == pytest.approx((0.8, 2 / 3))
    assert all(math.isnan(value) for value in rank_correlations(np.ones(4), scores))


def test_an_estimator_that_is_right_by_construction_has_no_regret() -> None:
    scores = 50 + 10 * np.random.default_rng(0).random((len(TARGETS), len(CHOICES)))
    right, wrong = estimated(np.exp(scores / 9), "right"), estimated(-scores, "wrong")
    table = grades(pd.concat([right, wrong]), measured(scores))
    columns = ["regret_1", "regret_3", "points_1", "spearman", "kendall"]
    graded = {name: table[table["estimator"] == name] for name in ("right", "wrong")}
    assert graded["right"][columns].to_numpy().tolist() == [pytest.approx([0.0, 0.0, 0.0, 1.0, 1.0])] * len(TARGETS)
    assert graded["wrong"]["spearman"].tolist() == [-1.0] * len(TARGETS)
    assert (graded["wrong"]["regret_1"] > graded["wrong"]["random_regret_1"]).all()
    overall = summary(pd.concat([right, wrong]), measured(scores))
    assert overall[["spearman", "spearman_low", "spearman_high"]].iloc[0].tolist() == pytest.approx([1.0] * 3)
    assert overall["p"].iloc[0] == pytest.approx(1 / 720)  # all orders of six; only the identity is as good
    assert overall["better"].tolist() == [True, False]


@pytest.mark.slow
def test_noise_is_on_the_random_baseline_and_seldom_called_better() -> None:
    """200 studies whose estimates know nothing, with intermediate tasks that are good or bad for all targets alike."""
    random = np.random.default_rng(1)
    studies, found, excess = 200, 0, []
    for _ in range(studies):
        shared = random.normal(size=(1, 5))
        scores = 60 + 2 * shared + random.normal(size=(len(TARGETS), 5))
        # So do the estimates: a noisy opinion on each task, the same for every target.
        values = random.normal(size=(1, 5)) + 0.3 * random.normal(size=(len(TARGETS), 5))
        table = summary(estimated(values), measured(scores, CHOICES[:5]))
        found += bool(table["better"].iloc[0])
        excess.append(table["regret_1"].iloc[0] - table["random_regret_1"].iloc[0])
    # 5% of 200 is 10; more than 17 have probability 0.014 where the rate is 5%.
    assert found <= 17
    assert abs(np.mean(excess)) < 3 * np.std(excess) / studies**0.5


def test_a_summary_does_not_depend_on_the_order_of_rows() -> None:
    random = np.random.default_rng(3)
    scores, values = random.normal(60, 2, size=(2, len(TARGETS), len(CHOICES)))
    estimates, known = estimated(values), measured(scores)
    shuffled = summary(estimates.sample(frac=1, random_state=1), known.sample(frac=1, random_state=2))
    pd.testing.assert_frame_equal(shuffled, summary(estimates, known))


def test_several_estimators_share_one_error_rate() -> None:
    scores = 50 + np.random.default_rng(2).normal(size=(len(TARGETS), len(CHOICES)))
    tables = [
        estimated(scores + 3 * np.random.default_rng(seed).normal(size=scores.shape), str(seed)) for seed in range(4)
    ]
    together = summary(pd.concat(tables), measured(scores))
    alone = [summary(table, measured(scores))["p"].iloc[0] for table in tables]
    assert together["p"].tolist() == alone
    assert together["p_holm"].min() == pytest.approx(min(1.0, 4 * min(alone)))


def without(table: pd.DataFrame, **where: str) -> pd.DataFrame:
    drop = pd.Series(True, index=table.index)
    for column, value in where.items():
        drop &= table[column] == value
    return table[~drop]


def test_what_has_no_estimate_or_no_score_is_left_out() -> None:
    scores = 50 + np.arange(30.0).reshape(5, 6)
    estimates, known = estimated(scores), measured(scores)
    estimates.loc[(estimates["target"] == "span") & (estimates["intermediate"] == "f"), "value"] = np.nan
    known = without(known, target="span", intermediate="e")
    for choice in "abcd":
        known = without(known, target="mention", intermediate=choice)
    table = grades(estimates, known).set_index("target")
    assert table["choices"].to_dict() == {"tagging": 6, "span": 4, "follows": 6, "retrieval": 6}
    assert (table["spearman"] == 1.0).all()
    overall = summary(estimates, known)
    assert overall["targets"].tolist() == [4]
    assert overall["p"].tolist() == [pytest.approx(1 / 720)]
    assert summary(estimates, known[known["target"] == "mention"]).empty


def test_a_single_target_has_no_interval() -> None:
    scores = 50 + np.arange(6.0).reshape(1, 6)
    one = pd.DataFrame([("s", "span", choice, scores[0, c]) for c, choice in enumerate(CHOICES)])
    one.columns = ["size", "target", "intermediate", "score"]
    table = summary(one.rename(columns={"score": "value"}).assign(estimator="made"), one)
    assert table["spearman"].tolist() == [1.0]
    assert table["spearman_low"].isna().all()


@pytest.mark.parametrize("of", [grades, summary])
def test_without_anything_in_common_there_are_columns_and_no_rows(of: Callable[..., pd.DataFrame]) -> None:
    scores = np.ones((5, 6))
    table = of(estimated(scores), measured(scores).assign(size="another"))
    assert table.empty
    assert {"estimator", "spearman", "regret_1"} <= set(table.columns)


def test_scores_of_a_study_without_flagged_cells() -> None:
    runs = [
        {"size": "s", "trial_id": name, "intermediate": name, "seed": 0, "scores": {"xnli": score, "span": 30.0}}
        for name, score in (("none", 60.0), ("topic", 62.0), ("nli", 70.0))
    ]
    frames = build_frames(runs, body_m={"s": 1.0})
    frames.context["intermediates"] = ["none", "topic", "nli"]
    frames.context["marks"] = {"nli": {"xnli": "same data"}}
    table = measured_scores(frames)
    cells = {(row["intermediate"], row["target"]): row["score"] for row in table.to_dict("records")}
    assert cells == {("topic", "xnli"): 62.0, ("topic", "span"): 30.0, ("nli", "span"): 30.0}
