"""Sentences in two languages: aligned pairs (Tatoeba), and corpora to mine for pairs (BUCC)."""

from __future__ import annotations

from pathlib import Path

from trainables.data.examples import BitextExample, ReadResult, RetrievalText
from trainables.data.record import Record
from trainables.data.source import DataError, Location, Rows
from trainables.data.text import aligned, lines, read_rows


def aligned_files(source: Path, english: Path) -> ReadResult:
    """The pairs of two files with one sentence a line."""
    return pair_rows(
        ((number, {"sentence1": first, "sentence2": second}) for number, (first, second) in aligned(source, english)),
        source,
    )


def pair_rows(rows: Rows, where: Location) -> ReadResult:
    """Pairs in the columns sentence1 and sentence2 (English); a pair with an empty side is rejected."""

    def pair(row: Record) -> BitextExample | str:
        source, english = (str(row.value(name)).strip() for name in ("sentence1", "sentence2"))
        return BitextExample(str(row.line), source, english) if source and english else "a sentence is empty"

    return read_rows(rows, where, pair)


def mining_files(source: Path, english: Path, gold: Path) -> ReadResult:
    """BUCC's format: `id TAB sentence` in two files, and `source id TAB English id` for each pair of translations.

    The source sentences come first, each with the ids of its translations (most have none), then the English ones. Repeated
    sentences are merged, as in the published scoring, because equal vectors cannot be told apart.

    Raises:
        DataError: a line has no tab, an id is repeated, or a pair names an unknown sentence.
    """
    source_texts, english_texts = _by_id(source), _by_id(english)
    queries, candidates = _first_ids(source_texts), _first_ids(english_texts)
    translations: dict[str, dict[str, None]] = {id: {} for id in queries.values()}  # inner keys: a set in order
    for number, line in lines(gold):
        source_id, english_id = _columns(line, gold, number)
        for id, texts, path in ((source_id, source_texts, source), (english_id, english_texts, english)):
            if id not in texts:
                raise DataError(gold, number, f"no sentence {id!r} in {path.name}")
        translations[queries[source_texts[source_id]]][candidates[english_texts[english_id]]] = None
    return ReadResult(
        (
            *(RetrievalText(id, text, gold=tuple(translations[id])) for text, id in queries.items()),
            *(RetrievalText(id, text) for text, id in candidates.items()),
        )
    )


def _first_ids(texts: dict[str, str]) -> dict[str, str]:
    """Each distinct text with the first of its ids."""
    ids: dict[str, str] = {}
    for id, text in texts.items():
        ids.setdefault(text, id)
    return ids


def _by_id(path: Path) -> dict[str, str]:
    texts: dict[str, str] = {}
    for number, line in lines(path):
        id, text = _columns(line, path, number)
        if id in texts:
            raise DataError(path, number, f"a second sentence with the id {id!r}")
        texts[id] = text
    return texts


def _columns(line: str, path: Path, number: int) -> tuple[str, str]:
    first, tab, second = line.partition("\t")
    if not (first and tab and second.strip()):
        raise DataError(path, number, "expected two columns, separated by a tab")
    return first, second.strip()
