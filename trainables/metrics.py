"""Scores as mergeable sums: shards, ranks and languages add their counts, and only the total is divided.

Values are in percent. A metric takes predictions and references of single examples, so that per-example results can be
kept beside the total.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from seqeval.metrics.sequence_labeling import get_entities


@dataclass(frozen=True)
class Counts:
    """Named sums over examples; `a + b` merges two disjoint sets of examples."""

    sums: Mapping[str, float] = field(default_factory=dict)

    def __add__(self, other: Counts) -> Counts:
        return Counts({name: self.sums.get(name, 0) + other.sums.get(name, 0) for name in {*self.sums, *other.sums}})

    def __getitem__(self, name: str) -> float:
        return self.sums.get(name, 0.0)


@dataclass(frozen=True)
class Metric:
    """`count` gives the sums of one example; `value` turns merged sums into the score in percent."""

    name: str
    count: Callable[[object, object], Counts]
    value: Callable[[Counts], float]

    def score(self, predictions: Sequence[object], references: Sequence[object]) -> float:
        """The score of aligned predictions and references.

        Raises:
            ValueError: the two differ in length, or there is nothing to score.
        """
        return self.value(self.total(predictions, references))

    def total(self, predictions: Sequence[object], references: Sequence[object]) -> Counts:
        if not references:
            raise ValueError(f"{self.name}: no examples to score")
        pairs = zip(predictions, references, strict=True)
        return sum((self.count(prediction, reference) for prediction, reference in pairs), Counts())


def _count_correct(prediction: object, reference: object) -> Counts:
    return Counts({"correct": float(prediction == reference), "total": 1.0})


def _accuracy(counts: Counts) -> float:
    return 100.0 * counts["correct"] / counts["total"]


def _count_spans(prediction: object, reference: object) -> Counts:
    """Exact-match entities of one IOB2 sentence, as seqeval finds them."""
    predicted, gold = set(get_entities(list(prediction))), set(get_entities(list(reference)))  # type: ignore[call-overload]
    return Counts({"hits": float(len(predicted & gold)), "predicted": float(len(predicted)), "gold": float(len(gold))})


def _span_f1(counts: Counts) -> float:
    """Micro F1 over entities: what `seqeval.metrics.f1_score` returns."""
    found = counts["predicted"] + counts["gold"]
    return 100.0 * 2 * counts["hits"] / found if found else 0.0


def normalise_squad(text: str) -> str:
    """The SQuAD v1.1 evaluation script's normaliser: lower case, no ASCII punctuation, no English articles."""
    text = "".join(character for character in text.lower() if character not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def token_f1(prediction: str, answer: str) -> float:
    """F1 (0 to 1) over the white-space tokens of two normalised texts (Rajpurkar et al. 2016, section 6)."""
    predicted, gold = prediction.split(), answer.split()
    common = sum((Counter(predicted) & Counter(gold)).values())
    return 2 * common / (len(predicted) + len(gold)) if common else 0.0


def _count_answers(prediction: object, reference: object) -> Counts:
    """Best F1 and exact match over the reference answers of one question."""
    said = normalise_squad(str(prediction))
    answers = [normalise_squad(answer) for answer in reference]  # type: ignore[attr-defined]
    return Counts(
        {
            "f1": max(token_f1(said, answer) for answer in answers),
            "exact": max(float(said == answer) for answer in answers),
            "total": 1.0,
        }
    )


def _f1_em(counts: Counts) -> float:
    """(F1 + EM) / 2, a QA task's score in XTREME."""
    return 100.0 * 0.5 * (counts["f1"] + counts["exact"]) / counts["total"]


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("accuracy", _count_correct, _accuracy),
        Metric("span_f1", _count_spans, _span_f1),
        Metric("f1_em", _count_answers, _f1_em),
    )
}
