"""Where the examples of a split come from, and the error for data that cannot be read."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainables.data.examples import ReadResult

DATA_ROOT_VARIABLE = "XSTILTS_DATA_ROOT"  # in the environment: where files are is not part of a study's identity
LONGEST_RULE = 1000  # characters
Location = Path | str  # a file, or the name of a data set


class DataError(ValueError):
    """Data that break a rule of their format; the message names the file (or data set), the line or row, and the rule.

    It is one line, although a rule may quote what was read.
    """

    def __init__(self, where: Location, line: int | None, rule: str) -> None:
        rule = " ".join(rule.split())
        rule = rule if len(rule) <= LONGEST_RULE else f"{rule[: LONGEST_RULE - 3]}..."
        super().__init__(f"{where}{'' if line is None else f':{line}'}: {rule}")
        self.where, self.line, self.rule = str(where), line, rule

    def __reduce__(self) -> tuple[Any, ...]:
        return DataError, (self.where, self.line, self.rule)


Row = Mapping[str, Any]
Rows = Iterable[tuple[int, Row]]  # each with the line (or row) number that messages name


@dataclass(frozen=True)
class Files:
    """Published files, as paths relative to the data root, and the reader of their format.

    `read` takes the absolute paths in the same order.
    """

    paths: tuple[str, ...]
    read: Callable[..., ReadResult]

    def exist(self, root: Path | None) -> bool:
        """Whether every file is under the root."""
        return root is not None and not self.absent(root)

    def absent(self, root: Path) -> list[Path]:
        """The files that are not under the root."""
        return [root / path for path in self.paths if not (root / path).exists()]


@dataclass(frozen=True)
class Hub:
    """A split of a data set on the hub: full id, config, split and commit (None: the task is pinned to the newest one).

    `read` takes numbered rows in order and the name to use in messages. `also_reads` lists other data sets, with their
    commits, that `read` loads. `row_limit` caps the rows that are downloaded, for data sets too large to read whole.
    """

    dataset: str
    config: str | None
    split: str
    revision: str | None
    read: Callable[[Rows, str], ReadResult]
    also_reads: tuple[tuple[str, str | None], ...] = ()
    row_limit: int | None = None

    @property
    def commits(self) -> tuple[tuple[str, str | None], ...]:
        """Every data set that is read, with its commit."""
        return ((self.dataset, self.revision), *self.also_reads)


@dataclass(frozen=True)
class Source:
    """Where a split can be read: from files, from the hub, or both; None if it is not published there.

    The examples of the data sets in `more` follow those of `hub`.
    """

    files: Files | None
    hub: Hub | None
    more: tuple[Hub, ...] = ()


def data_root() -> Path | None:
    """The folder of published files, if one is given."""
    value = os.environ.get(DATA_ROOT_VARIABLE)
    return Path(value) if value else None
