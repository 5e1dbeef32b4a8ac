"""Questions with alternatives, of which one is right."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from trainables.data.examples import ChoiceExample, Read
from trainables.data.source import DataError, Row, Rows
from trainables.data.text import aligned, json_lines, label_of, read_rows

# Context, alternatives and the answer as it is written, of a row.
Parts = Callable[[Row, Path | str, int], tuple[str, tuple[str, ...], object]]


def read_choices(rows: Rows, where: Path | str, *, parts: Parts, answers: tuple[str, ...]) -> Read:
    """Examples whose alternatives are as many as `answers`, which says how each answer is written.

    Raises:
        DataError: another number of alternatives, or an unknown answer.
    """

    def make(row: Row, number: int) -> ChoiceExample:
        context, choices, answer = parts(row, where, number)
        if len(choices) != len(answers):
            raise DataError(where, number, f"{len(choices)} alternatives, where {len(answers)} are expected")
        label = label_of(str(answer).strip(), answers, where, number)
        return ChoiceExample(str(number), context, choices, label)

    return read_rows(rows, where, make)


def labelled_json_lines(texts: Path, labels: Path) -> Rows:
    """JSON lines whose labels stand in a file of their own, one a line: they join the rows as column "label".

    Raises:
        DataError: the files differ in length.
    """
    rows = dict(json_lines(texts))
    for number, (_, label) in aligned(texts, labels):
        if number in rows:
            yield number, {**rows[number], "label": label}
