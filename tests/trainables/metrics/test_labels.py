"""Accuracy and the F1 of spans against scikit-learn and seqeval, and where seqeval is not followed."""

from __future__ import annotations

import itertools
import random
import warnings
from collections.abc import Sequence

import pytest
from seqeval.metrics import f1_score, precision_score, recall_score
from sklearn.metrics import accuracy_score

from tests.trainables.metrics.samples import labels, sentences
from trainables.metrics import METRICS

UD_TAGS = "ADJ ADP ADV AUX CCONJ DET INTJ NOUN NUM PART PRON PROPN PUNCT SCONJ SYM VERB X".split()


@pytest.mark.parametrize("seed", range(3))
def test_accuracy_is_scikit_learns(seed: int) -> None:
    predicted, gold = labels(random.Random(seed), 97)
    assert METRICS["accuracy"].score(predicted, gold) == pytest.approx(100 * accuracy_score(gold, predicted))


class TestSpans:
    @pytest.mark.parametrize("seed", range(6))
    def test_iob2_is_seqevals(self, seed: int) -> None:
        rng = random.Random(seed)
        gold = [iob2(rng) for _ in range(40)]
        tags = ("O", "B-place", "I-place", "B-date", "I-date")
        self.check([[tag if rng.random() < 0.8 else rng.choice(tags) for tag in sentence] for sentence in gold], gold)

    @pytest.mark.parametrize("seed", range(12))
    def test_any_order_of_tags_is_seqevals(self, seed: int) -> None:
        """Orders that no scheme allows, single-word and end tags, and types with a hyphen."""
        tags = ["O", "B-a", "I-a", "E-a", "S-a", "B-b", "I-b", "B-x-y", "I-x-y"]
        self.check(*sentences(random.Random(seed), 30, tags))

    def check(self, predicted: list[list[str]], gold: list[list[str]]) -> None:
        metric = METRICS["span_f1"]
        assert metric.score(predicted, gold) == pytest.approx(100 * f1_score(gold, predicted))
        assert metric.parts(metric.total(predicted, gold)) == pytest.approx(
            {"precision": 100 * precision_score(gold, predicted), "recall": 100 * recall_score(gold, predicted)}
        )

    @pytest.mark.parametrize("seed", range(8))
    def test_part_of_speech_tags_are_runs_of_equal_tags(self, seed: int) -> None:
        rng = random.Random(seed)
        predicted, gold = sentences(rng, 30, [*rng.sample(UD_TAGS, rng.randrange(2, 7)), "SCONJ", "CCONJ"])
        hits = sum(len(runs(tags) & runs(gold_tags)) for tags, gold_tags in zip(predicted, gold, strict=True))
        size = sum(len(runs(tags)) for tags in [*predicted, *gold])
        assert METRICS["span_f1"].score(predicted, gold) == pytest.approx(200 * hits / size)

    @pytest.mark.parametrize("seed", range(4))
    def test_part_of_speech_tags_that_seqeval_tells_apart_are_seqevals(self, seed: int) -> None:
        """Without SCONJ, which seqeval 1.x confuses with CCONJ, and X, whose type is empty without its first letter."""
        tags = [tag for tag in UD_TAGS if tag not in ("SCONJ", "X")]
        predicted, gold = sentences(random.Random(seed), 30, tags)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "NOUN seems not to be NE tag"
            assert METRICS["span_f1"].score(predicted, gold) == pytest.approx(100 * f1_score(gold, predicted))

    def test_conjunctions_of_both_kinds_differ(self) -> None:
        """seqeval 1.2.2 gives 1.0 here; 0.0.12, with which XTREME's mock UDPOS score of 70.2 comes out, gives 0.5."""
        assert METRICS["span_f1"].score([["NOUN", "SCONJ"]], [["NOUN", "CCONJ"]]) == 50.0

    def test_without_any_entity_everything_is_zero(self) -> None:
        metric = METRICS["span_f1"]
        assert metric.score([["O", "O"]], [["O", "O"]]) == 0.0
        assert metric.parts(metric.total([["O", "O"]], [["O", "O"]])) == {"precision": 0.0, "recall": 0.0}

    def test_sentences_do_not_run_into_each_other(self) -> None:
        assert METRICS["span_f1"].score([["B-a"], ["I-a"]], [["B-a"], ["I-a"]]) == 100.0
        assert METRICS["span_f1"].total([["B-a"], ["I-a"]], [["B-a"], ["O"]]).sums["predicted"] == 2

    def test_a_sentence_with_too_few_tags_is_an_error(self) -> None:
        with pytest.raises(ValueError, match="1 tags predicted for a sentence of 2 words"):
            METRICS["span_f1"].count(["O"], ["O", "O"])


def iob2(rng: random.Random) -> list[str]:
    tags: list[str] = []
    for _ in range(rng.randrange(1, 12)):
        before = tags[-1] if tags else "O"
        inside = [f"I-{before[2:]}"] if before != "O" else []
        tags.append(rng.choice(["O", "B-place", "B-date", *inside]))
    return tags


def runs(tags: Sequence[str]) -> set[tuple[str, int, int]]:
    """Runs of equal tags; tags in S stand alone, since seqeval reads "S" as "single"."""
    spans, start = set(), 0
    for tag, group in itertools.groupby(tags):
        length = len(list(group))
        step = 1 if tag.startswith("S") else length
        spans |= {(tag, begin, begin + step) for begin in range(start, start + length, step)}
        start += length
    return spans
