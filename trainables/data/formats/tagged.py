"""Tagged words, as rows of the hub or as a word a line, where a blank line ends a sentence."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from trainables.data.examples import ReadResult, TaggingExample
from trainables.data.record import Record, label_index
from trainables.data.source import DataError, Location, Rows
from trainables.data.text import lines, read_rows

NER_LABELS = ("O", "B-PER", "I-PER", "B-ORG", "I-ORG", "B-LOC", "I-LOC")  # in WikiANN's order on the hub

Parse = Callable[[str], tuple[str, str] | str]  # a line's word and tag, or the rule that the line breaks


@dataclass
class Block:
    """The lines between two blank lines: comments by name ("# sent_id = x"), and numbered other lines."""

    comments: dict[str, str] = field(default_factory=dict)
    lines: list[tuple[int, str]] = field(default_factory=list)

    @property
    def id(self) -> str:
        return self.comments.get("sent_id") or str(self.lines[0][0])


def blocks(path: Path) -> Iterator[Block]:
    """The sentences of a file. A line that starts with "#" is a comment (words follow a number or a language)."""
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


def read_tagged(path: Path, *, parse: Parse, labels: Sequence[str]) -> ReadResult:
    """The sentences of a file with one word a line.

    Raises:
        DataError: a line breaks a rule, or its tag is unknown.
    """
    return ReadResult(tuple(_sentence(block, path, parse=parse, labels=labels) for block in blocks(path)))


def _sentence(block: Block, path: Path, *, parse: Parse, labels: Sequence[str]) -> TaggingExample:
    words, tags = [], []
    for number, line in block.lines:
        parsed = parse(line)
        if isinstance(parsed, str):
            raise DataError(path, number, parsed)
        label_index(parsed[1], labels, where=path, line=number)
        words.append(parsed[0])
        tags.append(parsed[1])
    return TaggingExample(block.id, tuple(words), tuple(tags))


def read_iob2(*paths: Path) -> ReadResult:
    """Universal NER: a line has number, word, tag and two more columns."""

    def parse(line: str) -> tuple[str, str] | str:
        columns = line.split("\t")
        return (columns[1], columns[2]) if len(columns) == 5 else f"{len(columns)} columns, expected 5"

    return sum((read_tagged(path, parse=parse, labels=NER_LABELS) for path in paths), ReadResult(()))


def read_panx(path: Path) -> ReadResult:
    """WikiANN: a line has language and word, as in "en:Word", then the tag."""

    def parse(line: str) -> tuple[str, str] | str:
        columns = line.split("\t")
        language, colon, word = columns[0].partition(":")
        if len(columns) != 2:
            return f"{len(columns)} columns, expected 2: language:word, tag"
        return (word, columns[1].strip()) if language and colon else f"no language before the word: {columns[0]!r}"

    return read_tagged(path, parse=parse, labels=NER_LABELS)


def read_tag_rows(rows: Rows, where: Location, *, tags: str, labels: Sequence[str]) -> ReadResult:
    """Rows with the words in column `tokens` and, in column `tags`, the names of tags or their numbers in `labels`.

    Raises:
        DataError: a column is missing, a tag is unknown, or the numbers of tags and words differ.
    """

    def build(row: Record) -> TaggingExample:
        words, given = row.texts("tokens"), row.value(tags)
        if len(given) != len(words):
            raise row.error(f"{len(given)} tags for {len(words)} words")
        names = [labels[tag] if isinstance(tag, int) and 0 <= tag < len(labels) else tag for tag in given]
        indices = [label_index(name, labels, where=where, line=row.line) for name in names]
        return TaggingExample(str(row.line), words, tuple(labels[index] for index in indices))

    return read_rows(rows, where, build)
