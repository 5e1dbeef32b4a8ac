"""Cascades predicted from stored confidences, on planted truths."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest

from analysis.tables.cascades.prediction import (
    ALWAYS,
    NEVER,
    PairedSet,
    candidates,
    pair_of,
    predicted_ms,
    threshold_at,
    threshold_within,
)

EXAMPLES = 2000


def examples(
    correct: dict[tuple[str, str], np.ndarray], confidence: dict[tuple[str, str], np.ndarray] | None = None
) -> pd.DataFrame:
    """A trial's table of one task, from correctness by split and language."""
    tables = []
    for (split, language), values in correct.items():
        table = pd.DataFrame({"task": "xnli", "split": split, "language": language, "example": range(len(values))})
        table = table.assign(correct=values.astype(float), total=1.0)
        tables.append(table.assign(confidence=confidence[split, language]) if confidence else table)
    return pd.concat(tables, ignore_index=True)


def planted(
    *, knows_itself: bool, shift: float = 0.0, seed: int = 0
) -> tuple[pd.DataFrame, pd.DataFrame, dict[tuple[str, str], np.ndarray]]:
    """A small model (70% right in English), and a large one (90%), on English dev and two tests.

    It is right exactly when its confidence exceeds 0.3, or its confidence is noise. In German it is surer than it may be, by
    `shift`.
    """
    random = np.random.default_rng(seed)
    small, large, sure = {}, {}, {}
    for key in [("dev", "en"), ("test", "en"), ("test", "de")]:
        skill = random.uniform(size=EXAMPLES)
        small[key], large[key] = skill > 0.3 + (shift if key[1] == "de" else 0.0), random.uniform(size=EXAMPLES) < 0.9
        sure[key] = skill if knows_itself else random.uniform(size=EXAMPLES)
    return examples(small, sure), examples(large), small


def pair(small: pd.DataFrame, large: pd.DataFrame):  # type: ignore[no-untyped-def]
    made = pair_of("3l", small, "12l", large)
    assert made is not None
    return made


def test_a_model_that_knows_what_it_knows_gives_the_large_models_accuracy_at_part_of_its_cost() -> None:
    small, large, _ = planted(knows_itself=True)
    both = pair(small, large)
    thresholds = both.thresholds(0.0)
    share = both.test_share("xnli", thresholds["xnli"])
    alone = both.test_score({"xnli": NEVER}, with_english=False)
    assert both.test_score(thresholds, with_english=False) >= alone - 0.5
    assert share > 0.7
    assert predicted_ms(1.0, 10.0, share=share) < 4.0


def test_confidences_that_are_noise_gain_nothing() -> None:
    """Every share of answers costs in proportion: a random choice between the models does as well."""
    small, large, _ = planted(knows_itself=False)
    both = pair(small, large)
    ends = [both.test_score({"xnli": threshold}, with_english=False) for threshold in (NEVER, ALWAYS)]
    for share in (0.25, 0.5, 0.75):
        expected = ends[0] + share * (ends[1] - ends[0])
        assert both.test_score(both.thresholds_at(share), with_english=False) == pytest.approx(expected, abs=2.5)
    assert both.test_share("xnli", both.thresholds(0.5)["xnli"]) < 0.2


def test_the_threshold_is_chosen_without_looking_at_any_test() -> None:
    """Other answers and confidences in the tests change what the cascade scores, but neither threshold nor choice of pair."""
    chosen = []
    scores = []
    for damage in (False, True):
        small, large, _ = planted(knows_itself=True)
        tests = small["split"] == "test"
        if damage:
            small.loc[tests, "correct"] = 0.0
            small.loc[tests, "confidence"] = 1.0
        both = pair(small, large)
        (best,) = candidates([both], {"fp32": {"3l": 1.0, "12l": 10.0}}, timed_task="xnli", loss=0.5)
        chosen.append((best.thresholds, best.dev_score, best.latency_ms, best.gain))
        scores.append(both.test_score(best.thresholds, with_english=True))
    assert chosen[0] == chosen[1]
    assert scores[1] == 0.0
    assert scores[0] > 80


def test_a_threshold_of_english_is_too_optimistic_where_confidence_means_less() -> None:
    small, large, _ = planted(knows_itself=True, shift=0.3)
    both = pair(small, large)
    threshold = both.thresholds(0.0)["xnli"]
    losses = {
        language: of_set.score(NEVER) - of_set.score(threshold) for language, of_set in both.tests["xnli"].items()
    }
    assert losses["en"] < 1 < 15 < losses["de"]


def test_cuts_are_those_of_trying_every_threshold() -> None:
    """Equal confidences stay together; the sums of F1 are no plain counts."""
    random = np.random.default_rng(1)
    sure = random.integers(0, 6, size=40) / 6
    paired = PairedSet(sure, *(random.integers(1, 9, size=(40, 2)).astype(float) for _ in range(2)))
    thresholds, shares, scores = paired.cuts
    assert len(thresholds) == len(set(sure)) + 1
    assert (shares[0], shares[-1]) == (0.0, 1.0)
    for threshold, share, score in zip(thresholds, shares, scores, strict=True):
        assert paired.answered(threshold).mean() == share
        assert paired.score(threshold) == pytest.approx(score)
    for asked in (0.0, 0.3, 1.0):
        assert paired.answered(threshold_at(paired, asked)).mean() <= asked
    for loss in (0.0, 3.0, 100.0):
        kept = paired.score(threshold_within(paired, loss))
        assert kept >= paired.score(NEVER) - loss - 1e-6
        better = [share for share, score in zip(shares, scores, strict=True) if score >= paired.score(NEVER) - loss]
        assert paired.answered(threshold_within(paired, loss)).mean() == pytest.approx(max(better))


def test_the_pair_that_adds_most_to_the_front_comes_first_and_useless_pairs_are_left_out() -> None:
    small, large, _ = planted(knows_itself=True)
    noisy, _, _ = planted(knows_itself=False, seed=5)
    tables = {"knows": small, "noisy": noisy, "large": large}
    pairs = [
        made
        for first, second in itertools.permutations(tables, 2)
        if (made := pair_of(first, tables[first], second, tables[second])) is not None
    ]
    assert {made.small for made in pairs} == {"knows", "noisy"}, "the large model's confidence is not known"
    latencies = {"fp32": {"knows": 1.0, "noisy": 1.0, "large": 10.0}, "int8": {"knows": 0.5}}
    ranked = candidates(pairs, latencies, timed_task="xnli", loss=0.5)
    assert (ranked[0].pair.small, ranked[0].pair.large, ranked[0].variant) == ("knows", "large", "fp32")
    assert ranked[0].gain > 0 < ranked[0].saving
    assert {candidate.variant for candidate in ranked} == {"fp32"}, "int8 is measured of one size only"
    assert not candidates(pairs, latencies, timed_task="other", loss=0.5)
    assert all(candidate.pair.large == "large" for candidate in ranked), "the larger model is the slower one"


@pytest.mark.parametrize(
    ("latencies", "latency_ms", "gain"),
    [
        ({"fp32": {"3l": 10.0, "12l": 12.0}}, 18.4, 0.0),  # slower than the larger model, which scores more
        ({"fp32": {"3l": 1.0, "12l": 10.0}}, 8.0, 1.5 * np.log2(10 / 8)),
        (
            {"fp32": {"3l": 1.0, "12l": 10.0}, "int8": {"12l": 0.9}},
            8.0,
            0.0,
        ),  # another variant's single model is faster
    ],
)
def test_a_cascade_that_a_single_model_dominates_gains_nothing(
    latencies: dict[str, dict[str, float]], latency_ms: float, gain: float
) -> None:
    """The models score 78 and 80. The smaller one answers the 300 examples that cost half a point, and then loses more."""
    number = np.arange(1000)
    small_right = (number >= 5) & (number < 800) & ~((number >= 300) & (number < 315))
    dev = ("dev", "en")
    small = examples(
        {dev: small_right, ("test", "en"): small_right}, dict.fromkeys([dev, ("test", "en")], 1 - number / 1e3)
    )
    large = examples({dev: number < 800, ("test", "en"): number < 800})
    (found,) = candidates([pair(small, large)], latencies, timed_task="xnli", loss=0.5)
    assert (found.dev_score, found.latency_ms) == pytest.approx((79.5, latency_ms))
    assert found.gain == pytest.approx(gain, abs=1e-9)


def test_what_does_not_cascade_has_the_small_models_score() -> None:
    small, large, right = planted(knows_itself=True)
    retrieved = {("test", "de"): np.array([1.0, 0.0, 0.0, 0.0])}
    add = [examples({key: values * scale for key, values in retrieved.items()}) for scale in (1, 0)]
    small, large = (
        pd.concat([table, extra.assign(task="bitext")], ignore_index=True)
        for table, extra in zip((small, large), add, strict=True)
    )
    both = pair(small, large)
    assert both.alone == {"bitext": {"de": 25.0}}
    german = 100 * float(right["test", "de"].mean())
    assert both.test_score({"xnli": ALWAYS}, with_english=False) == pytest.approx((german + 25) / 2)


def test_a_task_with_a_test_that_cannot_be_paired_counts_once_as_the_small_model_serves_it() -> None:
    small, large, right = planted(knows_itself=True)
    unpaired = large[(large["language"] != "de") | (large["example"] > 0)].assign(task="pawsx")
    small, large = (
        pd.concat([table, other], ignore_index=True)
        for table, other in ((small, small.assign(task="pawsx")), (large, unpaired))
    )
    both = pair(small, large)
    assert set(both.tests) == set(both.dev) == {"xnli"}
    scores = {language: 100 * float(right["test", language].mean()) for language in ("en", "de")}
    assert both.alone == {"pawsx": pytest.approx(scores)}
    large_alone = both.test_score({"xnli": NEVER}, with_english=True)
    of_xnli = np.mean([of_set.score(NEVER) for of_set in both.tests["xnli"].values()])
    assert large_alone == pytest.approx((of_xnli + np.mean(list(scores.values()))) / 2)


def test_evaluations_of_earlier_versions_give_no_pair() -> None:
    small, large, _ = planted(knows_itself=True)
    assert pair_of("3l", small.drop(columns="confidence"), "12l", large) is None
    assert pair_of("3l", small[small["split"] == "test"], "12l", large) is None, "no English dev examples"
