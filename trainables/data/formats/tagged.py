"""Words with a tag each, as rows of the hub or lines of a file; a blank line ends a sentence."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from trainables.data.examples import Read, TaggingExample
from trainables.data.fields import texts_of
from trainables.data.source import DataError, Row, Rows
from trainables.data.text import column, label_of, lines, read_rows

NER_LABELS = ("O", "B-PER", "I-PER", "B-ORG", "I-ORG", "B-LOC", "I-LOC")  # in WikiANN's order on the hub


@dataclass
class Block:
    """The lines between two blank ones: comments by name ("# sent_id = x"), and the others with their numbers."""

    comments: dict[str, str] = field(default_factory=dict)
    lines: list[tuple[int, str]] = field(default_factory=list)

    @property
    def id(self) -> str:
        return self.comments.get("sent_id") or str(self.lines[0][0])


def blocks(path: Path) -> Iterator[Block]:
    """The sentences of a file. A line that starts with "#" is a comment (words stand behind a number or a language)."""
    block = Block()
    for number, line in lines(path):
        if line.startswith("#"):
            name, _, value = line[1:].partition("=")
            block.comments[name.strip()] = value.strip()
        elif line.strip():
            block.lines.append((number, line))
        else:
            if block.lines:
                yield block
            block = Block()
    if block.lines:
        yield block


def read_tagged(path: Path, *, parse: Callable[[str], tuple[str, str] | str], labels: Sequence[str]) -> Read:
    """Sentences of a file with one word a line; `parse` gives the word and its tag, or the rule that the line breaks.

    Raises:
        DataError: a line breaks a rule, or its tag is unknown.
    """
    return Read(tuple(_sentence(block, path, parse, labels) for block in blocks(path)))


def _sentence(
    block: Block, path: Path, parse: Callable[[str], tuple[str, str] | str], labels: Sequence[str]
) -> TaggingExample:
    words, tags = [], []
    for number, line in block.lines:
        parsed = parse(line)
        if isinstance(parsed, str):
            raise DataError(path, number, parsed)
        label_of(parsed[1], labels, path, number)
        words.append(parsed[0])
        tags.append(parsed[1])
    return TaggingExample(block.id, tuple(words), tuple(tags))


def read_iob2(*paths: Path) -> Read:
    """Universal NER: number, word, tag and two more columns."""

    def parse(line: str) -> tuple[str, str] | str:
        columns = line.split("\t")
        return (columns[1], columns[2]) if len(columns) == 5 else f"{len(columns)} columns, where 5 are expected"

    return _joined(read_tagged(path, parse=parse, labels=NER_LABELS) for path in paths)


def read_panx(path: Path) -> Read:
    """WikiANN: the language and the word, as in "en:Word", then the tag."""

    def parse(line: str) -> tuple[str, str] | str:
        columns = line.split("\t")
        language, colon, word = columns[0].partition(":")
        if len(columns) != 2:
            return f"{len(columns)} columns, where 2 are expected: language:word, tag"
        return (word, columns[1].strip()) if language and colon else f"no language before the word: {columns[0]!r}"

    return read_tagged(path, parse=parse, labels=NER_LABELS)


def read_tag_rows(rows: Rows, where: Path | str, *, tags: str, labels: Sequence[str]) -> Read:
    """Rows of a data set with columns `tokens` and `tags`, where a tag is a name or its number in `labels`.

    Raises:
        DataError: a column is missing, a tag is unknown, or there are not as many tags as words.
    """

    def make(row: Row, number: int) -> TaggingExample:
        words, found = texts_of(row, "tokens", where, number), column(row, tags, where, number)
        if len(found) != len(words):
            raise DataError(where, number, f"{len(found)} tags for {len(words)} words")
        names = [labels[tag] if isinstance(tag, int) and 0 <= tag < len(labels) else tag for tag in found]
        return TaggingExample(
            str(number), words, tuple(labels[label_of(name, labels, where, number)] for name in names)
        )

    return read_rows(rows, where, make)


def _joined(reads: Iterable[Read]) -> Read:
    return sum(reads, Read(()))
