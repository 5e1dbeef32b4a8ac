"""Power, smallest detectable differences and tie groups, against the noncentral t and simulated studies."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from scipy import stats

import analysis
from analysis import StudyFrames, detectable, examples_factor, power_of, seeds_needed
from analysis.tables.averages import ranks, transfer_pairs
from analysis.tables.inference import block_variances, infer, tie_ranks
from tests.analysis.helpers import by, default_cells

STUDIES = 6000  # a share of 0.8 has a standard error of 0.005


def _noncentral_power(difference: float, sd: float, seeds: int, comparisons: int = 1) -> float:
    """Power of the paired t-test by its textbook formula."""
    critical, shift = stats.t.isf(0.05 / comparisons / 2, seeds - 1), difference / sd * math.sqrt(seeds)
    other_side = np.nan_to_num(stats.nct.cdf(-critical, seeds - 1, shift))  # scipy's fails where it is nothing
    return float(stats.nct.sf(critical, seeds - 1, shift) + other_side)


@pytest.mark.parametrize(("seeds", "comparisons"), [(3, 1), (3, 60), (5, 1), (10, 1), (50, 60), (500, 1)])
def test_one_comparison_has_the_power_of_the_noncentral_t(seeds: int, comparisons: int) -> None:
    for difference in (0.5, 2.0, 6.0):
        ours = power_of(difference, seed_variance=4.0, seeds=seeds, comparisons=comparisons)
        expected = _noncentral_power(difference, 2.0, seeds, comparisons)
        if not math.isnan(expected):  # scipy's fails far in the tail
            assert ours == pytest.approx(expected, abs=2e-4)
    least = detectable(4.0, seeds=seeds, comparisons=comparisons)
    assert _noncentral_power(least, 2.0, seeds, comparisons) == pytest.approx(0.8, abs=5e-4)


def test_seeds_needed_are_those_of_the_noncentral_t() -> None:
    for difference in (1.0, 2.0, 5.0):
        expected = next(n for n in range(2, 100) if _noncentral_power(difference, 2.0, n) >= 0.8)
        assert seeds_needed(difference, seed_variance=4.0) == expected
    assert seeds_needed(0.01, seed_variance=4.0) is None, "313,000"


@pytest.mark.parametrize(
    ("treatments", "seeds", "examples", "comparisons"),
    [(1, 2, 0.0, 1), (1, 3, 0.5, 1), (4, 3, 0.0, 1), (4, 3, 0.5, 20), (6, 4, 1.5, 1)],
)
def test_the_smallest_difference_is_told_in_80_of_100_simulated_studies(
    treatments: int, seeds: int, examples: float, comparisons: int
) -> None:
    """Through the functions of the gains table: errors pooled over treatments, and examples beside them."""
    least = detectable(4.0, seeds=seeds, example_variance=examples, treatments=treatments, comparisons=comparisons)
    random = np.random.default_rng(treatments)
    arms = random.normal(0, math.sqrt(4.0 / 2), size=(STUDIES, treatments + 1, seeds))
    differences = arms[:, 1:] - arms[:, :1]
    blocks = [block_variances(study) for study in differences]
    inferred = infer(
        least + differences[:, 0].mean(axis=1) + random.normal(0, math.sqrt(examples), STUDIES),
        [variances[0] for variances, _ in blocks],
        df=[df for _, df in blocks],
        seeds=np.full(STUDIES, seeds),
        example_variances=np.full(STUDIES, examples),
    )
    assert (inferred.p < 0.05 / comparisons).mean() == pytest.approx(0.8, abs=0.02)


def test_examples_bound_what_seeds_can_tell() -> None:
    """With seeds without limit the estimate is normal: (1.960 + 0.842) standard errors over examples."""
    assert seeds_needed(2.7, seed_variance=4.0, example_variance=1.0) is None
    assert seeds_needed(2.9, seed_variance=4.0, example_variance=1.0) is not None
    least = detectable(4.0, seeds=10**6, example_variance=1.0)
    assert least == pytest.approx(2.802, abs=0.01)
    assert examples_factor(least / 2, example_variance=1.0) == pytest.approx(4, rel=0.01)
    assert examples_factor(1.0, example_variance=1.0, comparisons=10) == pytest.approx((2.807 + 0.842) ** 2, rel=0.001)


def test_one_seed_or_no_variance_has_no_smallest_difference() -> None:
    assert math.isnan(detectable(4.0, seeds=1))
    assert math.isnan(detectable(0.0, seeds=3))
    assert seeds_needed(1.0, seed_variance=0.0) == 2


def test_the_gains_table_says_what_each_comparison_could_have_seen(study: StudyFrames) -> None:
    """80% power by the noncentral t where one intermediate task has no examples; more where others are corrected for."""
    gained = analysis.gains(default_cells({"none": 50.0, "topic": 51.0}, sd=1.0, seeds=4))
    (row,) = gained.to_dict("records")
    assert _noncentral_power(row["detectable"], row["sd"], 4) == pytest.approx(0.8, abs=5e-4)
    assert row["detectable_corrected"] == row["detectable"], "a family of one"
    many = analysis.gains(study)
    tested = many[many["p_holm"].notna()]
    assert (tested["detectable_corrected"] > tested["detectable"]).all()
    assert many.loc[many["p_holm"].isna(), "detectable_corrected"].isna().all()
    single = analysis.gains(dataclasses.replace(study, trials=study.trials[study.trials["seed"] == 0]))
    assert single["detectable"].isna().all()


def test_spreads_of_a_study_are_those_that_were_planted() -> None:
    frames = default_cells({"none": 50.0, "topic": 51.0, "order": 52.0}, sd=2.0, seeds=200)
    (row,) = analysis.spreads(frames).to_dict("records")
    assert row["sd"] == pytest.approx(2.0 * math.sqrt(2), rel=0.1)
    assert (row["task"], row["seeds"], row["gains"]) == ("x", 200, 2)
    assert math.isnan(row["examples"])
    assert analysis.spreads(default_cells({"none": 50.0, "topic": 51.0}, sd=2.0, seeds=1)).empty


def test_tie_groups_are_compared_with_their_best_and_cannot_chain() -> None:
    """Each value is within reach of its neighbour, and the first is not within reach of the third."""
    values = [3.0, 5.0, 4.0, 1.0]
    assert tie_ranks(values, lambda head, other: values[head] - values[other] > 1.5) == [3, 1, 1, 4]
    assert tie_ranks(values, lambda head, other: False) == [1, 1, 1, 1]
    # The second is well known and worse than the first; the third is not known well enough to be told from it.
    assert tie_ranks([5.0, 4.0, 3.0], lambda head, other: other == 1) == [1, 3, 1]


def test_ranks_of_a_study_separate_what_is_apart_and_nothing_else() -> None:
    frames = default_cells({"none": 50.0, "topic": 56.0, "order": 55.9, "mention": 51.0}, sd=0.5, seeds=6)
    ranked = by(analysis.average_gains(frames), "intermediate")
    assert {name: row["rank"] for name, row in ranked.items()} == {"topic": 1, "order": 1, "mention": 3}
    single = analysis.average_gains(default_cells({"none": 50.0, "topic": 56.0, "order": 51.0}, sd=0.5, seeds=1))
    assert single["rank"].isna().all()


def test_a_cell_with_one_seed_does_not_keep_the_others_from_being_ranked() -> None:
    """As of a size whose winner was not repeated: one seed that no cell of the other size has."""
    cells = {"none": 50.0, "topic": 56.0, "order": 51.0}
    frames = default_cells({"a": cells, "b": cells}, sd=0.5, seeds=7)
    in_a, first = frames.trials["size"] == "a", frames.trials["seed"] == 0
    pairs = transfer_pairs(dataclasses.replace(frames, trials=frames.trials[in_a ^ first]), cells="default")
    assert set(pairs["size"]) == {"a", "b"}
    assert ranks(frames, pairs, {"topic": 6.0, "order": 1.0}) == {"topic": 1, "order": 2}
