"""Mewsli-X's format: JSON lines of mentions in their context, and of entities with their descriptions.

The schema is `mewsli_x/schema.py` in google-research, dense_representations_for_entity_retrieval/mel. Texts are built as in
XTREME-R's baseline (`utils_mewslix.py` in google-research/xtreme).
"""

from __future__ import annotations

import re
from pathlib import Path

from trainables.data.examples import ReadResult, RejectedRow, RetrievalPair, RetrievalText
from trainables.data.record import Record
from trainables.data.text import json_lines, read_rows

_BRACES = re.compile(r"\{(.*?)\}")


def mention_pairs(path: Path) -> ReadResult:
    """Training pairs: a mention in its context, and the description of its entity."""

    def pair(row: Record) -> RetrievalPair | str:
        contextual = row.record("contextual_mention")
        mention = contextual.record("mention")
        query = _query(contextual.record("context"), mention)
        if query is None:
            return _not_in_a_sentence(mention)
        return RetrievalPair(mention.text("example_id"), query, _description(row.record("entity")))

    return read_rows(json_lines(path), path, pair)


def mentions(path: Path, language: str) -> ReadResult:
    """Queries: the mentions in articles of one language, each with the id of its entity."""
    queries: list[RetrievalText] = []
    rejected: list[RejectedRow] = []
    for line, values in json_lines(path):
        row = Record(values, path, line)
        context = row.record("context")
        if context.text("language") != language:
            continue
        for mention in row.records("mentions"):
            query = _query(context, mention)
            if query is None:
                rejected.append(RejectedRow(str(path), line, _not_in_a_sentence(mention)))
            else:
                queries.append(RetrievalText(mention.text("example_id"), query, gold=(mention.text("entity_id"),)))
    return ReadResult(tuple(queries), tuple(rejected))


def entities(path: Path) -> ReadResult:
    """Candidates: every entity with its description, in one of fifty languages."""

    def candidate(row: Record) -> RetrievalText:
        return RetrievalText(row.text("entity_id"), _description(row))

    return read_rows(json_lines(path), path, candidate)


def _query(context: Record, mention: Record) -> str | None:
    """The mention, a colon, and its sentence with the mention in braces; None if no sentence of the context holds it.

    The mention comes first so that truncating the sentence cannot remove it; the sentence's own braces become parentheses.

    Raises:
        DataError: the context has no text (WikiNews articles are published without it).
    """
    text = context.text("text")
    if not text:
        raise context.error("empty; get-mewsli-x.sh restores the text of the articles", "text")
    span = mention.record("mention_span")
    start, end = span.integer("start"), span.integer("end")
    for sentence in context.records("sentence_spans"):
        first, last = sentence.integer("start"), sentence.integer("end")
        if first <= start < end <= last and text[start:end] == span.text("text"):
            before, after = (_BRACES.sub(r"(\1)", part) for part in (text[first:start], text[end:last]))
            return " ".join(f"{text[start:end]}: {before} {{ {text[start:end]} }} {after}".split())
    return None


def _not_in_a_sentence(mention: Record) -> str:
    return f"mention {mention.values.get('example_id')!r}: its text is not at its offsets within one sentence"


def _description(entity: Record) -> str:
    """The sentences of an entity's description."""
    text = entity.text("description")
    sentences = (text[span.integer("start") : span.integer("end")] for span in entity.records("sentence_spans"))
    return " ".join(" ".join(sentences).split())
