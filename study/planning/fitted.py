"""Tables of a plan on a console of any width: as columns where these fit, otherwise one paragraph a row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderableType
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

WIDE = 10_000  # columns, for a table to measure what it would like
INDENT = "  "


@dataclass(frozen=True)
class Fitted:
    """A table whose numbers are never cut or broken: where its columns do not fit, each row is a paragraph of named values."""

    table: Table

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        wanted = Measurement.get(console, options.update(width=WIDE), self.table).maximum
        if wanted <= options.max_width:
            yield self.table
            return
        yield Text(str(self.table.title), style="italic")
        names = [str(column.header) for column in self.table.columns]
        for cells in zip(*(column.cells for column in self.table.columns), strict=True):
            first, *values = map(str, cells)
            yield Text(first, style="bold")
            pairs = [f"{name} {value}" for name, value in zip(names[1:], values, strict=True)]
            yield from map(Text, _lines(pairs, options.max_width))
        if self.table.caption:
            yield Text(str(self.table.caption), style="dim")
        yield Text()


def _lines(pairs: Sequence[str], width: int) -> Iterator[str]:
    """The pairs in indented lines of that width, each pair on one line; one that is longer has a line to itself."""
    line = INDENT
    for number, pair in enumerate(pairs, 1):
        piece = pair if number == len(pairs) else f"{pair}; "
        if line != INDENT and len(line) + len(piece.rstrip()) > width:
            yield line.rstrip()
            line = INDENT
        line += piece
    yield line.rstrip()
