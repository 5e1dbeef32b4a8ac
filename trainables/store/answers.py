"""Predictions and references by example as parquet files: what scores are computed from, for readers who have no model.

`ANSWERS` has no text of the data, so it can be passed on: labels, tags and ids as they are, and answers in words with their
words numbered (`trainables.metrics.numbered`). `TEXTS` has these in words, for tasks whose answers are texts. The columns of
both are split, language, example (its number in the set, as in the scores by example), id (of the data set), and prediction and
reference as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import pandas as pd

from trainables.metrics import METRICS, Counts
from trainables.metrics.numbered import numbered
from trainables.store.examples import write_example_scores

ANSWERS = "answers.parquet"  # in the folder of a finished evaluation, beside the scores by example
TEXTS = "answer_texts.parquet"
COLUMNS = ("split", "language", "example", "id", "prediction", "reference")


class AnsweredExample(Protocol):
    """An example's prediction and reference, as JSON values."""

    @property
    def id(self) -> str: ...

    @property
    def prediction(self) -> Any: ...

    @property
    def reference(self) -> Any: ...


class AnsweredSet(Protocol):
    """The answers of a set of examples: one split of a task in one language."""

    @property
    def split(self) -> str: ...

    @property
    def language(self) -> str: ...

    @property
    def answers(self) -> Sequence[AnsweredExample]: ...


def answers_table(sets: Iterable[AnsweredSet], metric: str, *, texts: bool = False) -> pd.DataFrame:
    """One row an example with the columns `COLUMNS`; the words of answers are numbered unless `texts`."""
    normaliser = None if texts else METRICS[metric].normaliser
    rows = []
    for scored in sets:
        for number, answer in enumerate(scored.answers):
            given, wanted = answer.prediction, answer.reference
            if normaliser is not None:
                given, wanted = numbered(given, wanted, language=scored.language, normaliser=normaliser)
            rows.append((scored.split, scored.language, number, answer.id, _json(given), _json(wanted)))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def write_answers(sets: Sequence[AnsweredSet], metric: str, folder: Path) -> None:
    """Write `ANSWERS`, and `TEXTS` for a metric that compares texts."""
    write_example_scores(answers_table(sets, metric), folder / ANSWERS)
    if METRICS[metric].normaliser is not None:
        write_example_scores(answers_table(sets, metric, texts=True), folder / TEXTS)


def count_again(metric: str, *, prediction: str, reference: str, language: str) -> Counts:
    """The sums of an example, recomputed by the metric's own code from a row of the table.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: the row is not of this metric's form.
    """
    return METRICS[metric].count(json.loads(prediction), json.loads(reference), language)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
