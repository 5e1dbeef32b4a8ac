"""Where the examples of a split come from, and what is said when they cannot be read."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainables.data.examples import Read

DATA_ROOT_VARIABLE = "XSTILTS_DATA_ROOT"  # where files lie is no part of any identity, so it travels beside the study


class DataError(ValueError):
    """Data that break a rule of their form: names the file (or data set), the line or row, and the rule."""

    def __init__(self, where: str | Path, line: int | None, rule: str) -> None:
        super().__init__(f"{where}{'' if line is None else f':{line}'}: {rule}")
        self.where, self.line, self.rule = str(where), line, rule

    def __reduce__(self) -> tuple[Any, ...]:
        return DataError, (self.where, self.line, self.rule)


Row = Mapping[str, Any]
Rows = Iterable[tuple[int, Row]]  # with the line (or row) number that messages name


@dataclass(frozen=True)
class Files:
    """Published files, as paths relative to the data root, and the reader of their form.

    `read` takes the absolute paths in the same order.
    """

    paths: tuple[str, ...]
    read: Callable[..., Read]


@dataclass(frozen=True)
class Hub:
    """A split of a data set on the hub: full id, config, split and commit (None: noted when a study is made).

    `read` takes numbered rows (mappings of column to value, in order) and a name for messages; `beside` names other data sets,
    with their commits, that it looks into. `first`: no more than so many rows are downloaded, of a set too large for all.
    """

    dataset: str
    config: str | None
    split: str
    revision: str | None
    read: Callable[[Rows, str], Read]
    beside: tuple[tuple[str, str | None], ...] = ()
    first: int | None = None


@dataclass(frozen=True)
class Source:
    """The two places a split can be read from; None where it is not to be had there.

    `more` are data sets of the hub whose examples follow those of the first.
    """

    files: Files | None
    hub: Hub | None
    more: tuple[Hub, ...] = ()


def hub_errors() -> tuple[type[Exception], ...]:
    """What asking the hub raises where it does not answer, or has no such thing."""
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # its HTTP client's own

    return HTTPError, OSError


def data_root() -> Path | None:
    """The folder of published files, if one was given."""
    value = os.environ.get(DATA_ROOT_VARIABLE)
    return Path(value) if value else None
