"""Published text forms, line by line: UTF-8 checked, columns checked, every error with file, line and rule."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from trainables.data.examples import Example, Read, Rejected
from trainables.data.source import DataError, Row, Rows


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines without their ends (only line feeds end a line: some texts hold other separators).

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
                raise DataError(path, number, f"a JSON object is expected, not {type(row).__name__}")
            yield number, row


def json_document(path: Path) -> Any:
    """A file that is one JSON document."""
    text = "\n".join(line for _, line in lines(path))
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(path, error.lineno, f"not JSON: {error.msg}") from error


def separated(path: Path, columns: Sequence[str] | None = None, *, delimiter: str = "\t", quoted: bool = False) -> Rows:
    """Rows of a table. `columns` names them where the file has no header; `quoted` reads CSV quotes, also over lines."""
    source = lines(path)
    if quoted:
        reader = csv.reader((line + "\n" for _, line in source), delimiter=delimiter)
        rows: Iterator[tuple[int, list[str]]] = ((reader.line_num, row) for row in reader)
    else:
        rows = ((number, line.split(delimiter)) for number, line in source)
    names = list(columns) if columns is not None else next(rows, (0, []))[1]
    for number, values in rows:
        if values and len(values) != len(names):
            raise DataError(path, number, f"{len(values)} columns, where {len(names)} are expected: {', '.join(names)}")
        if values:
            yield number, dict(zip(names, values, strict=True))


def column(row: Row, name: str, where: Path | str, line: int | None) -> Any:
    """A column's value.

    Raises:
        DataError: the row has no such column.
    """
    if name not in row:
        raise DataError(where, line, f"no column {name!r}; there are {', '.join(map(str, row)) or 'none'}")
    return row[name]


def label_of(value: object, labels: Sequence[str], where: Path | str, line: int | None) -> int:
    """The index of a label given by its name.

    Raises:
        DataError: unknown label.
    """
    if value not in labels:
        raise DataError(where, line, f"unknown label {value!r}; there are {', '.join(labels)}")
    return list(labels).index(str(value))


def read_rows(rows: Rows, where: Path | str, make: Callable[[Row, int], Example | str]) -> Read:
    """Examples made of rows; where `make` returns a string, the row is rejected for that reason."""
    examples: list[Example] = []
    rejected: list[Rejected] = []
    for number, row in rows:
        made = make(row, number)
        if isinstance(made, str):
            rejected.append(Rejected(str(where), number, made))
        else:
            examples.append(made)
    return Read(tuple(examples), tuple(rejected))


def aligned(*paths: Path) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Lines of parallel files side by side.

    Raises:
        DataError: the files differ in length.
    """
    columns = [list(lines(path)) for path in paths]
    longest = max(range(len(paths)), key=lambda index: len(columns[index]))
    for path, found in zip(paths, columns, strict=True):
        if len(found) != len(columns[longest]):
            raise DataError(path, len(found), f"ends here, while {paths[longest]} has {len(columns[longest])} lines")
    for row in zip(*columns, strict=True):
        yield row[0][0], tuple(text for _, text in row)
