"""A row of a table or an object of a JSON document whose values are checked as they are read."""

from __future__ import annotations

import reprlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from trainables.data.source import DataError, Location

T = TypeVar("T")
_NAMES: dict[type, str] = {str: "text", int: "an integer", list: "a list", dict: "an object"}


@dataclass(frozen=True)
class Record:
    """Values by column or key, and where they are: `line` is the line of a file or the row of a data set, `path` a JSON path.

    Every method raises a DataError that names this place if the value is missing or has another type.
    """

    values: Any
    where: Location
    line: int | None = None
    path: str = ""

    def error(self, rule: str, key: str | int | None = None) -> DataError:
        """The error for a rule that this record breaks, or its value at `key`."""
        place = self.path if key is None else self._path_of(key)
        return DataError(self.where, self.line, f"{place}: {rule}" if place else rule)

    def value(self, key: str | int) -> Any:
        """The value at a column, key or index, whatever its type."""
        try:
            return self.values[key]
        except (KeyError, IndexError, TypeError) as error:
            keys = ", ".join(map(str, self.values)) if isinstance(self.values, Mapping) else ""
            raise self.error(f"missing; there are {keys}" if keys else "missing", key) from error

    def text(self, key: str | int) -> str:
        """A string."""
        return self._typed(key, str)

    def integer(self, key: str | int) -> int:
        """A whole number."""
        return self._typed(key, int)

    def texts(self, key: str | int) -> tuple[str, ...]:
        """A list of strings."""
        value = self.value(key)
        if (
            not isinstance(value, Sequence)
            or isinstance(value, str)
            or not all(isinstance(text, str) for text in value)
        ):
            raise self.error(f"expected a list of texts, got {reprlib.repr(value)}", key)
        return tuple(value)

    def items(self, key: str | int) -> list[Any]:
        """A list of anything."""
        return self._typed(key, list)

    def record(self, key: str | int) -> Record:
        """An object."""
        return Record(self._typed(key, dict), self.where, self.line, self._path_of(key))

    def records(self, key: str | int) -> Iterator[Record]:
        """The objects (or lists) of a list."""
        path = self._path_of(key)
        for index, item in enumerate(self.items(key)):
            yield Record(item, self.where, self.line, f"{path}[{index}]")

    def _typed(self, key: str | int, expected: type[T]) -> T:
        value = self.value(key)
        if not isinstance(value, expected) or isinstance(value, bool):
            raise self.error(f"expected {_NAMES[expected]}, got {reprlib.repr(value)}", key)
        return value

    def _path_of(self, key: str | int) -> str:
        return f"{self.path}[{key}]" if isinstance(key, int) else f"{self.path}.{key}".lstrip(".")


def label_index(label: object, labels: Sequence[str], *, where: Location, line: int | None) -> int:
    """The index of a label that is given by name.

    Raises:
        DataError: unknown label.
    """
    if label not in labels:
        raise DataError(where, line, f"unknown label {label!r}; there are {', '.join(labels)}")
    return list(labels).index(str(label))
