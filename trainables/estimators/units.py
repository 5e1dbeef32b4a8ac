"""What an estimator sees of a task: the labelled units that its head decides about, as places in rows of tokens.

A unit is a row, a token of a row, or a pair of rows, with a class. Heads for which nothing labelled in English exists are
undefined, with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from trainables.heads import Feature
from trainables.tasks.base import HeadName, Task

T = TypeVar("T")
Row = tuple[int, ...]
MOST_TOKENS = 3000  # tokens of tagging and spans that are kept: four times XLM-R Large's width
TOKENS_A_TEXT = 8  # of an unlabelled row
OTHER, START, END, WHOLE = range(4)  # classes of a context's token; WHOLE: the answer is this token alone


class Undefined(ValueError):
    """There is no estimate; the message says why."""


@dataclass(frozen=True)
class Unit:
    """A class `label` at a place: the whole `row`, its token `position`, or the pair of `row` and `other`.

    `group` numbers the example: of the units of one multiple-choice example exactly one is right.
    """

    row: Row
    label: int
    group: int
    position: int | None = None
    other: Row | None = None


def _classified(features: Sequence[Feature]) -> list[Unit]:
    return [Unit(feature.rows[0], feature.target[0], group) for group, feature in enumerate(features)]


def _chosen(features: Sequence[Feature]) -> list[Unit]:
    """Every alternative, right (1) or wrong (0)."""
    return [
        Unit(row, int(number == feature.target[0]), group)
        for group, feature in enumerate(features)
        for number, row in enumerate(feature.rows)
    ]


def _tagged(features: Sequence[Feature]) -> list[Unit]:
    """The first token of every word, which carries its tag (`heads.tagging`: the layout's first number is a word's index)."""
    units = [
        Unit(feature.rows[0], feature.target[position], group, position)
        for group, feature in enumerate(features)
        for position in feature.layout[1:]
    ]
    return spaced(units, MOST_TOKENS)


def _spanned(features: Sequence[Feature]) -> list[Unit]:
    """First and last token of the answer, and as many other tokens of its context, evenly spaced: else nearly all are others.

    Windows that do not hold the answer are left out, unanswerable questions with them.
    """
    units: list[Unit] = []
    for group, feature in enumerate(features):
        start, end = feature.target
        if (start, end) == (0, 0):
            continue
        row = feature.rows[0]
        context = [token for token, first in enumerate(feature.layout[::2]) if first >= 0]
        others = [token for token in context if not start <= token <= end]
        ends = {start: WHOLE} if start == end else {start: START, end: END}
        units += [Unit(row, label, group, token) for token, label in ends.items()]
        units += [Unit(row, OTHER, group, token) for token in spaced(others, len(ends))]
    return spaced(units, MOST_TOKENS)


def _paired(features: Sequence[Feature]) -> list[Unit]:
    """Each query with its own answer (1), and with the next pair's (0) where that is another text."""
    pairs = [feature.rows for feature in features if len(feature.rows) == 2]
    units: list[Unit] = []
    for group, ((query, answer), (_, following)) in enumerate(zip(pairs, (*pairs[1:], *pairs[:1]), strict=True)):
        units.append(Unit(query, 1, group, other=answer))
        if following != answer:
            units.append(Unit(query, 0, group, other=following))
    return units


_UNITS: dict[HeadName, Callable[[Sequence[Feature]], list[Unit]]] = {
    "pair_classification": _classified,
    "multiple_choice": _chosen,
    "tagging": _tagged,
    "span_extraction": _spanned,
    "dual_encoder": _paired,
}
_UNDEFINED: dict[HeadName, str] = {
    "bitext_retrieval": "it has no training set",
    "bitext_mining": "it has no training set",
    "masked_lm": "it has no labels",
}
TOKEN_HEADS: frozenset[HeadName] = frozenset({"tagging", "span_extraction"})  # those that decide about tokens


def why_undefined(task: Task) -> str | None:
    """Why no estimator can say anything about the target; None if some can."""
    if task.head in _UNDEFINED:
        return _UNDEFINED[task.head]
    return None if task.trained else "it is not trained, and has no English training set"


def decisions(task: Task, features: Sequence[Feature]) -> list[Unit]:
    """The labelled units of some features of the task.

    Raises:
        Undefined: nothing labelled is defined for its head (`why_undefined`).
    """
    if (reason := why_undefined(task)) is not None:
        raise Undefined(f"{task.name}: {reason}")
    return _UNITS[task.head](features)


def rows(features: Iterable[Feature]) -> list[Unit]:
    """Every row by itself, without a class."""
    return [Unit(row, -1, group) for group, feature in enumerate(features) for row in feature.rows]


def tokens(features: Iterable[Feature]) -> list[Unit]:
    """Some tokens of every row, evenly spaced, without the special tokens at its ends and without a class."""
    return [
        Unit(unit.row, -1, unit.group, position)
        for unit in rows(features)
        for position in spaced(range(1, max(2, len(unit.row) - 1)), TOKENS_A_TEXT)
    ]


def spaced(items: Sequence[T], most: int) -> list[T]:
    """At most so many of the items, evenly spaced: the same ones on every machine, and from all of a sorted file."""
    if len(items) <= most:
        return list(items)
    return [items[int(index)] for index in np.linspace(0, len(items) - 1, most).round()]
