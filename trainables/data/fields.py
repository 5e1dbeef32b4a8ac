"""Values of a row with their type checked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trainables.data.source import DataError, Row
from trainables.data.text import column


def text_of(row: Row, name: str, where: Path | str, line: int | None) -> str:
    """A column that holds text.

    Raises:
        DataError: the row has no such column, or no text in it.
    """
    value = column(row, name, where, line)
    if not isinstance(value, str):
        raise DataError(where, line, f"column {name!r} holds {value!r}, where text is expected")
    return value


def texts_of(row: Row, name: str, where: Path | str, line: int | None) -> tuple[str, ...]:
    """A column that holds a list of texts.

    Raises:
        DataError: the row has no such column, or no list of texts in it.
    """
    value = column(row, name, where, line)
    if not isinstance(value, Sequence) or isinstance(value, str) or not all(isinstance(one, str) for one in value):
        raise DataError(where, line, f"column {name!r} holds {value!r}, where a list of texts is expected")
    return tuple(value)
