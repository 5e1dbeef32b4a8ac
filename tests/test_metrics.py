"""Scores against seqeval, scikit-learn, hand-worked SQuAD cases and a second implementation from the definition."""

from __future__ import annotations

import random
import re
import string

import pytest
from seqeval.metrics import f1_score
from sklearn.metrics import accuracy_score

from trainables.metrics import METRICS, Counts, normalise_squad

TAGS = ("O", "B-place", "I-place", "B-date", "I-date")


@pytest.mark.parametrize("seed", range(6))
def test_span_f1_is_seqevals(seed: int) -> None:
    rng = random.Random(seed)
    gold = [iob2(rng) for _ in range(40)]
    said = [[tag if rng.random() < 0.8 else rng.choice(TAGS) for tag in tags] for tags in gold]
    assert METRICS["span_f1"].score(said, gold) == pytest.approx(100 * f1_score(gold, said))


def iob2(rng: random.Random) -> list[str]:
    tags: list[str] = []
    for _ in range(rng.randrange(1, 12)):
        before = tags[-1] if tags else "O"
        inside = [f"I-{before[2:]}"] if before != "O" else []
        tags.append(rng.choice(["O", "B-place", "B-date", *inside]))
    return tags


def test_span_f1_without_any_entity_is_zero() -> None:
    assert METRICS["span_f1"].score([["O", "O"]], [["O", "O"]]) == 0.0


@pytest.mark.parametrize("seed", range(3))
def test_accuracy_is_scikit_learns(seed: int) -> None:
    rng = random.Random(seed)
    gold, said = ([rng.randrange(3) for _ in range(97)] for _ in range(2))
    assert METRICS["accuracy"].score(said, gold) == pytest.approx(100 * accuracy_score(gold, said))


@pytest.mark.parametrize(
    ("said", "answers", "f1", "exact"),
    [
        ("the cat", ("Cat.",), 1.0, 1.0),  # article, case and full stop do not count
        ("a big cat", ("big dog",), 0.5, 0.0),  # tokens: {big, cat} and {big, dog}: precision and recall 1/2
        ("cat cat", ("cat",), 2 / 3, 0.0),  # a token counts as often as in both: precision 1/2, recall 1
        ("", ("cat",), 0.0, 0.0),
        ("New York", ("York", "New York City"), 0.8, 0.0),  # the better of 2/3 and 2 * 2 / (2 + 3)
        ("St. John's", ("st johns",), 1.0, 1.0),
        ("theatre", ("atre",), 0.0, 0.0),  # articles go as words only
        ("東京", ("東京",), 1.0, 1.0),
    ],
)
def test_answers_by_hand(said: str, answers: tuple[str, ...], f1: float, exact: float) -> None:
    assert METRICS["f1_em"].score([said], [answers]) == pytest.approx(100 * (f1 + exact) / 2)


@pytest.mark.parametrize("seed", range(4))
def test_answers_against_the_definition(seed: int) -> None:
    rng = random.Random(seed)
    vocabulary = ["the", "a", "An", "Cat", "cat.", "dog", "sat,", "on", "7", "mat!"]
    pairs = [
        [" ".join(rng.choices(vocabulary, k=rng.randrange(1, 6))) for _ in range(1 + rng.randrange(1, 4))]
        for _ in range(50)
    ]
    expected = sum(max(definition(said, answer)[part] for answer in right) for said, *right in pairs for part in (0, 1))
    score = METRICS["f1_em"].score([said for said, *_ in pairs], [tuple(right) for _, *right in pairs])
    assert score == pytest.approx(100 * expected / 2 / len(pairs))


def definition(said: str, answer: str) -> tuple[float, float]:
    """F1 and exact match as section 6 of Rajpurkar et al. 2016 words them, with lists instead of counters."""
    sides = []
    for text in (said, answer):
        plain = re.sub(f"[{re.escape(string.punctuation)}]", "", text.lower())
        sides.append([word for word in plain.split() if word not in ("a", "an", "the")])
    left, common = list(sides[1]), 0
    for word in sides[0]:
        if word in left:
            left.remove(word)
            common += 1
    exact = float(sides[0] == sides[1])
    if not common:
        return 0.0, exact
    precision, recall = common / len(sides[0]), common / len(sides[1])
    return 2 * precision * recall / (precision + recall), exact


def test_normaliser_leaves_other_scripts_alone() -> None:
    assert normalise_squad(" The  Große Straße, ") == "große straße"


def test_counts_add_and_nothing_to_score_is_an_error() -> None:
    assert (Counts({"hits": 1.0}) + Counts({"hits": 2.0, "gold": 3.0})).sums == {"hits": 3.0, "gold": 3.0}
    with pytest.raises(ValueError, match="no examples"):
        METRICS["accuracy"].score([], [])
    with pytest.raises(ValueError, match="zip"):
        METRICS["accuracy"].score([1], [1, 2])
