"""Sentences in two languages: aligned pairs (Tatoeba), and texts in which the pairs are to be found (BUCC)."""

from __future__ import annotations

from pathlib import Path

from trainables.data.examples import BitextExample, Read, RetrievalText
from trainables.data.source import DataError, Row, Rows
from trainables.data.text import aligned, column, lines, read_rows


def aligned_files(source: Path, english: Path) -> Read:
    """Pairs of two files, a sentence a line."""
    return pair_rows(
        ((number, {"sentence1": first, "sentence2": second}) for number, (first, second) in aligned(source, english)),
        source,
    )


def pair_rows(rows: Rows, where: Path | str) -> Read:
    """Pairs in the columns sentence1 and sentence2, English; a pair with an empty side is rejected."""

    def pair(row: Row, line: int) -> BitextExample | str:
        source, english = (str(column(row, name, where, line)).strip() for name in ("sentence1", "sentence2"))
        return BitextExample(str(line), source, english) if source and english else "one of the two sentences is empty"

    return read_rows(rows, where, pair)


def mining_files(source: Path, english: Path, gold: Path) -> Read:
    """BUCC's form: `id TAB sentence` in two files, and `source id TAB English id` for each pair of translations.

    The source sentences come first, each with the ids of its translations (none for most), then the English ones. A sentence
    that is there twice stands once, as in the published scoring: two equal vectors cannot be told apart.

    Raises:
        DataError: a line lacks its tab, an id is there twice, or a pair names a sentence that is not there.
    """
    asked, sought = _by_id(source), _by_id(english)
    queries, candidates = _once(asked), _once(sought)
    found: dict[str, dict[str, None]] = {name: {} for name in queries.values()}
    for number, line in lines(gold):
        first, second = _two(line, gold, number)
        for name, texts, path in ((first, asked, source), (second, sought, english)):
            if name not in texts:
                raise DataError(gold, number, f"no sentence {name!r} in {path.name}")
        found[queries[asked[first]]][candidates[sought[second]]] = None
    return Read(
        (
            *(RetrievalText(name, text, gold=tuple(found[name])) for text, name in queries.items()),
            *(RetrievalText(name, text) for text, name in candidates.items()),
        )
    )


def _once(texts: dict[str, str]) -> dict[str, str]:
    """Each different text with the first of its ids."""
    once: dict[str, str] = {}
    for name, text in texts.items():
        once.setdefault(text, name)
    return once


def _by_id(path: Path) -> dict[str, str]:
    texts: dict[str, str] = {}
    for number, line in lines(path):
        name, text = _two(line, path, number)
        if name in texts:
            raise DataError(path, number, f"a second sentence with the id {name!r}")
        texts[name] = text
    return texts


def _two(line: str, path: Path, number: int) -> tuple[str, str]:
    first, tab, second = line.partition("\t")
    if not (first and tab and second.strip()):
        raise DataError(path, number, "two columns are expected, with a tab between them")
    return first, second.strip()
