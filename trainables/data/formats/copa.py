"""COPA: a premise, and which of two alternatives is its cause or its effect. XML (English) and JSON lines (XCOPA)."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

from trainables.data.examples import ReadResult
from trainables.data.formats.choices import Parts, read_choices
from trainables.data.record import Record
from trainables.data.source import DataError, Location, Row, Rows
from trainables.data.text import is_number, json_lines, lines

QUESTIONS = ("cause", "effect")


def read_copa(rows: Rows, where: Location) -> ReadResult:
    """Rows in the columns of SuperGLUE and XCOPA. The question is phrased as in XTREME-R's `run_xcopa.py`.

    Raises:
        DataError: a column is missing or invalid.
    """
    return read_choices(rows, where, parts=_parts, answers=("0", "1"))


def _parts(row: Record) -> Parts:
    premise, question, *choices = (row.text(name) for name in ("premise", "question", "choice1", "choice2"))
    if question not in QUESTIONS:
        raise row.error(f"unknown question {question!r}; there are {', '.join(QUESTIONS)}")
    return f"{premise} What was the {question}?", tuple(choices), row.value("label")


def read_xcopa(path: Path) -> ReadResult:
    return read_copa(json_lines(path), path)


def read_copa_xml(path: Path, first: int = 1, last: int | None = None) -> ReadResult:
    """The items of COPA's XML with ids from `first` to `last`."""
    return read_copa(copa_items(path, first, last), path)


def copa_items(path: Path, first: int, last: int | None) -> Rows:
    """Items in the columns of SuperGLUE, each with the line it ends in.

    Raises:
        DataError: not well-formed, or an item lacks a part.
    """
    parser: ElementTree.XMLPullParser[ElementTree.Element] = ElementTree.XMLPullParser(["end"])
    try:
        for line, text in lines(path):
            parser.feed(f"{text}\n")
            for event in parser.read_events():
                item = event[-1]
                if not isinstance(item, ElementTree.Element) or item.tag != "item":
                    continue
                if first <= (number := _number(item, path, line)) <= (last or number):
                    yield line, _row(item, path, line)
        parser.close()
    except ElementTree.ParseError as error:
        raise DataError(path, error.position[0], f"not well-formed XML: {error}") from error


def _number(item: ElementTree.Element, path: Path, line: int) -> int:
    name = item.get("id", "")
    if not is_number(name):
        raise DataError(path, line, f"item id {name!r} is not a number")
    return int(name)


def _row(item: ElementTree.Element, path: Path, line: int) -> Row:
    answer = item.get("most-plausible-alternative")
    if answer not in ("1", "2"):
        raise DataError(path, line, f"most-plausible-alternative is {answer!r}, expected 1 or 2")
    parts = {name: item.findtext(name) for name in ("p", "a1", "a2")}
    lacking = [name for name, text in parts.items() if not text]
    if lacking:
        raise DataError(path, line, f"the item lacks {', '.join(lacking)}")
    texts = dict(zip(("premise", "choice1", "choice2"), parts.values(), strict=True))
    return {**texts, "question": item.get("asks-for"), "label": int(answer) - 1}
