"""Text files line by line: encoding and columns are checked, and every error names file, line and rule."""

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
        DataError: no such file, or a line is not UTF-8.
    """
    try:
        stream = open(path, "rb")  # noqa: SIM115 - closed below
    except OSError as error:
        raise DataError(path, None, error.strerror or str(error)) from error
    with stream:
        for number, raw in enumerate(stream, 1):
            try:
                yield number, raw.rstrip(b"\r\n").decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise DataError(path, number, f"not UTF-8: {error.reason} at byte {error.start} of the line") from error


def json_lines(path: Path) -> Rows:
    """One JSON object a line; empty lines are skipped."""
    for number, line in lines(path):
        if line.strip():
            try:
                row = json.loads(line)
            except ValueError as error:
                raise DataError(path, number, f"not JSON: {error}") from error
            if not isinstance(row, dict):
                raise DataError(path, number, f"expected a JSON object, got {type(row).__name__}")
            yield number, row


def json_document(path: Path) -> Any:
    """A file that is one JSON document."""
    text = "\n".join(line for _, line in lines(path))
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(path, error.lineno, f"not JSON: {error.msg}") from error


def separated(path: Path, columns: Sequence[str] | None = None, *, delimiter: str = "\t", quoted: bool = False) -> Rows:
    """Rows of a table. `columns` names the columns of a file without a header; `quoted` reads CSV quotes, also across lines."""
    source = lines(path)
    if quoted:
        reader = csv.reader((line + "\n" for _, line in source), delimiter=delimiter)
        rows: Iterator[tuple[int, list[str]]] = ((reader.line_num, row) for row in reader)
    else:
        rows = ((number, line.split(delimiter)) for number, line in source)
    names = list(columns) if columns is not None else next(rows, (0, []))[1]
    for number, values in rows:
        if values and len(values) != len(names):
            raise DataError(path, number, f"{len(values)} columns, expected {len(names)}: {', '.join(names)}")
        if values:
            yield number, dict(zip(names, values, strict=True))


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
