"""Text without labels: files of a sentence or paragraph a line, and the articles of Wikipedia."""

from __future__ import annotations

from pathlib import Path

from trainables.data.examples import Read, TextExample
from trainables.data.fields import text_of
from trainables.data.source import DataError, Rows
from trainables.data.text import lines

SHORTEST_BYTES = 64  # of a line of an article: what is shorter is most often a heading, or an entry of a list


def text_lines(path: Path) -> Read:
    """The lines of a file; empty ones, which some corpora put between documents, are skipped.

    Raises:
        DataError: a line is not UTF-8, or there is no text at all.
    """
    found = tuple(TextExample(str(number), text) for number, line in lines(path) if (text := line.strip()))
    if not found:
        raise DataError(path, 1, "holds no text, where a sentence or paragraph a line is expected")
    return Read(found)


def article_paragraphs(rows: Rows, where: Path | str) -> Read:
    """The paragraphs of articles, which stand in the column `text`, a line each.

    Raises:
        DataError: a row has no text.
    """
    return Read(
        tuple(
            TextExample(f"{number}-{place}", line.strip())
            for number, row in rows
            for place, line in enumerate(text_of(row, "text", where, number).split("\n"))
            if len(line.strip().encode()) >= SHORTEST_BYTES
        )
    )
