"""The interface of a metric, and arithmetic that several metrics share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Counts:
    """Named sums over examples; `a + b` merges two disjoint sets of examples."""

    sums: Mapping[str, float] = field(default_factory=dict)

    def __add__(self, other: Counts) -> Counts:
        return Counts({name: self.sums.get(name, 0) + other.sums.get(name, 0) for name in {*self.sums, *other.sums}})

    def __getitem__(self, name: str) -> float:
        return self.sums.get(name, 0.0)


def no_parts(counts: Counts) -> dict[str, float]:
    """For a score without components."""
    return {}


@dataclass(frozen=True)
class Metric:
    """`value` turns merged sums into the score, and `parts` into its named components, all in percent.

    `counter` returns the sums of one prediction, given its reference and language; call it through `count`. `normaliser`, of
    metrics that compare texts, maps a text and its language to the tokens that are compared, separated by single spaces.
    """

    name: str
    counter: Callable[[Any, Any, str], Counts]
    value: Callable[[Counts], float]
    parts: Callable[[Counts], dict[str, float]] = no_parts
    normaliser: Callable[[str, str], str] | None = None

    def count(self, prediction: object, reference: object, language: str = "en") -> Counts:
        """The sums of one example. `language` (ISO 639-1) matters only to metrics that normalise text by language."""
        return self.counter(prediction, reference, language)

    def total(self, predictions: Sequence[object], references: Sequence[object], *, language: str = "en") -> Counts:
        """The merged sums of aligned predictions and references.

        Raises:
            ValueError: their lengths differ, or there are no examples.
        """
        if not references:
            raise ValueError(f"{self.name}: no examples to score")
        pairs = zip(predictions, references, strict=True)
        return sum((self.count(prediction, reference, language) for prediction, reference in pairs), Counts())

    def score(self, predictions: Sequence[object], references: Sequence[object], *, language: str = "en") -> float:
        """The score, in percent, of aligned predictions and references; raises the errors of `total`."""
        return self.value(self.total(predictions, references, language=language))


def overlap(predicted: set[Any], gold: set[Any]) -> Counts:
    """The sums that `micro_f1` and `precision_recall` divide."""
    return Counts({"hits": float(len(predicted & gold)), "predicted": float(len(predicted)), "gold": float(len(gold))})


def micro_f1(counts: Counts) -> float:
    """2 hits / (predicted + gold), the harmonic mean of precision and recall; 0 if both sets are empty."""
    size = counts["predicted"] + counts["gold"]
    return 100.0 * 2 * counts["hits"] / size if size else 0.0


def precision_recall(counts: Counts) -> dict[str, float]:
    """Precision is 0 if nothing is predicted, and recall if nothing is gold, as in seqeval."""
    return {
        name: 100.0 * counts["hits"] / counts[divisor] if counts[divisor] else 0.0
        for name, divisor in (("precision", "predicted"), ("recall", "gold"))
    }
