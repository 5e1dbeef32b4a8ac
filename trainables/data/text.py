"""Text files line by line: encoding and columns are checked, and every error names file, line and rule.

Errors of the parsers of JSON and CSV become a DataError here, so that no reader handles them.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from trainables.data.examples import Example, ReadResult, RejectedRow
from trainables.data.record import Record
from trainables.data.source import DataError, Location, Rows


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines without their line ends. Only a line feed ends a line, because some texts hold other separators.

    Raises:
        DataError: no such file, a line is not UTF-8, or the lines of the file end in carriage returns alone.
    """
    try:
        stream = open(path, "rb")  # noqa: SIM115 - closed below
    except OSError as error:
        raise DataError(path, None, error.strerror or str(error)) from error
    with stream:
        for number, raw in enumerate(stream, 1):
            if number == 1 and b"\r" in raw.rstrip(b"\r\n") and not raw.endswith(b"\n"):
                raise DataError(path, 1, "lines end in carriage returns alone; convert them to line feeds")
            try:
                yield number, raw.rstrip(b"\r\n").decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise DataError(path, number, f"not UTF-8: {error.reason} at byte {error.start} of the line") from error


def json_lines(path: Path) -> Rows:
    """One JSON object a line; empty lines are skipped."""
    for number, line in lines(path):
        if line.strip():
            row = _parsed(line, path, number)
            if not isinstance(row, dict):
                raise DataError(path, number, f"expected a JSON object, got {type(row).__name__}")
            yield number, row


def json_document(path: Path) -> Any:
    """A file that is one JSON document."""
    return _parsed("\n".join(line for _, line in lines(path)), path, 1)


def _parsed(text: str, path: Path, first_line: int) -> Any:
    """The value of a JSON text that begins in that line of the file.

    Raises:
        DataError: not JSON, nested too deeply, or a string in it is no text.
    """
    try:
        value = json.loads(text)
        if "\\u" in text:  # only an escape can be half of a surrogate pair
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except json.JSONDecodeError as error:
        raise DataError(path, first_line + error.lineno - 1, f"not JSON: {error.msg}") from error
    except UnicodeEncodeError as error:
        raise DataError(
            path, first_line, f"half of a surrogate pair, {error.object[error.start]!r}, is no text"
        ) from error
    except RecursionError as error:
        raise DataError(path, first_line, "not JSON that can be read: nested too deeply") from error
    except ValueError as error:  # a number of too many digits
        raise DataError(path, first_line, f"not JSON that can be read: {error}") from error


def separated(path: Path, columns: Sequence[str] | None = None, *, delimiter: str = "\t", quoted: bool = False) -> Rows:
    """Rows of a table; blank lines are skipped.

    `columns` names the columns of a file without a header; `quoted` reads CSV quotes, also across lines.
    """
    rows = _quoted_rows(path, delimiter) if quoted else _plain_rows(path, delimiter)
    names = list(columns) if columns is not None else next(rows, (0, []))[1]
    for number, values in rows:
        if len(values) != len(names):
            raise DataError(path, number, f"{len(values)} columns, expected {len(names)}: {', '.join(names)}")
        yield number, dict(zip(names, values, strict=True))


def _plain_rows(path: Path, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    return ((number, line.split(delimiter)) for number, line in lines(path) if line.strip(" "))


def _quoted_rows(path: Path, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader((line + "\n" for _, line in lines(path)), delimiter=delimiter)
    try:
        yield from ((reader.line_num, row) for row in reader if row)
    except csv.Error as error:
        raise DataError(path, reader.line_num, f"not CSV: {error}") from error


def is_number(text: str) -> bool:
    """Whether a text is a whole number in the digits 0 to 9; `str.isdigit` also accepts superscripts, which `int` does not."""
    return text.isascii() and text.isdigit()


def read_rows(rows: Rows, where: Location, build: Callable[[Record], Example | str]) -> ReadResult:
    """One example for each row; a row for which `build` returns a string is rejected for that reason."""
    examples: list[Example] = []
    rejected: list[RejectedRow] = []
    for number, row in rows:
        built = build(Record(row, where, number))
        if isinstance(built, str):
            rejected.append(RejectedRow(str(where), number, built))
        else:
            examples.append(built)
    return ReadResult(tuple(examples), tuple(rejected))


def aligned(*paths: Path) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Corresponding lines of parallel files.

    Raises:
        DataError: the files differ in length.
    """
    columns = [list(lines(path)) for path in paths]
    longest = max(range(len(paths)), key=lambda index: len(columns[index]))
    for path, column in zip(paths, columns, strict=True):
        if len(column) != len(columns[longest]):
            raise DataError(path, len(column), f"ends here, while {paths[longest]} has {len(columns[longest])} lines")
    for row in zip(*columns, strict=True):
        yield row[0][0], tuple(text for _, text in row)
