"""Text without labels: files with a sentence or paragraph a line, and articles of Wikipedia."""

from __future__ import annotations

from pathlib import Path

from trainables.data.examples import ReadResult, TextExample
from trainables.data.record import Record
from trainables.data.source import DataError, Location, Rows
from trainables.data.text import lines

SHORTEST_BYTES = 64  # of an article's lines: most shorter ones are headings or list entries


def text_lines(path: Path) -> ReadResult:
    """The lines of a file; empty lines, which some corpora put between documents, are skipped.

    Raises:
        DataError: a line is not UTF-8, or the file has no text.
    """
    examples = tuple(TextExample(str(number), text) for number, line in lines(path) if (text := line.strip()))
    if not examples:
        raise DataError(path, 1, "no text; expected a sentence or paragraph a line")
    return ReadResult(examples)


def article_paragraphs(rows: Rows, where: Location) -> ReadResult:
    """The paragraphs of articles: the lines of the column `text`.

    Raises:
        DataError: a row has no text.
    """
    return ReadResult(
        tuple(
            TextExample(f"{number}-{index}", line.strip())
            for number, row in rows
            for index, line in enumerate(Record(row, where, number).text("text").split("\n"))
            if len(line.strip().encode()) >= SHORTEST_BYTES
        )
    )
