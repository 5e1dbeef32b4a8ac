"""Questions with alternatives, one of them right."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from trainables.data.examples import ChoiceExample, ReadResult
from trainables.data.record import Record, label_index
from trainables.data.source import Location, Rows
from trainables.data.text import aligned, json_lines, read_rows

# The context, the alternatives, and the answer as the row spells it.
Parts = tuple[str, tuple[str, ...], object]


def read_choices(
    rows: Rows, where: Location, *, parts: Callable[[Record], Parts], answers: tuple[str, ...]
) -> ReadResult:
    """Multiple-choice examples; `answers` lists the spelling of the answer for each alternative.

    Raises:
        DataError: not as many alternatives as `answers`, or an unknown answer.
    """

    def build(row: Record) -> ChoiceExample:
        context, choices, answer = parts(row)
        if len(choices) != len(answers):
            raise row.error(f"{len(choices)} alternatives, expected {len(answers)}")
        label = label_index(str(answer).strip(), answers, where=where, line=row.line)
        return ChoiceExample(str(row.line), context, choices, label)

    return read_rows(rows, where, build)


def labelled_json_lines(texts: Path, labels: Path) -> Rows:
    """JSON lines whose labels are in a separate file, one a line; they become the column "label".

    Raises:
        DataError: the files differ in length.
    """
    rows = dict(json_lines(texts))
    for number, (_, label) in aligned(texts, labels):
        if number in rows:
            yield number, {**rows[number], "label": label}
