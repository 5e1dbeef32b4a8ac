"""The form of Mewsli-X: JSON lines of mentions in their context, and of entities with their descriptions.

The form is that of `mewsli_x/schema.py` in google-research, dense_representations_for_entity_retrieval/mel; the texts made
of it are those of XTREME-R's baseline (`utils_mewslix.py` in google-research/xtreme).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainables.data.examples import Read, Rejected, RetrievalPair, RetrievalText
from trainables.data.formats.squad import member
from trainables.data.source import DataError, Row
from trainables.data.text import json_lines, read_rows

_BRACES = re.compile(r"\{(.*?)\}")


def mention_pairs(path: Path) -> Read:
    """Training pairs: a mention in its context, and the description of the entity."""

    def pair(row: Row, line: int) -> RetrievalPair | str:
        contextual = member(row, "contextual_mention", dict, path, "", line)
        context = member(contextual, "context", dict, path, "contextual_mention", line)
        mention = member(contextual, "mention", dict, path, "contextual_mention", line)
        query = _marked(context, mention, path, line)
        if query is None:
            return _unmarked(mention)
        entity = _description(member(row, "entity", dict, path, "", line), path, line)
        return RetrievalPair(member(mention, "example_id", str, path, "mention", line), query, entity)

    return read_rows(json_lines(path), path, pair)


def mentions(path: Path, language: str) -> Read:
    """Queries: the mentions of the articles in one language, each with the id of its entity."""
    queries: list[RetrievalText] = []
    rejected: list[Rejected] = []
    for line, row in json_lines(path):
        context = member(row, "context", dict, path, "", line)
        if member(context, "language", str, path, "context", line) != language:
            continue
        for index, mention in enumerate(member(row, "mentions", list, path, "", line)):
            place = f"mentions[{index}]"
            query = _marked(context, mention, path, line)
            if query is None:
                rejected.append(Rejected(str(path), line, _unmarked(mention)))
                continue
            name, entity = (member(mention, key, str, path, place, line) for key in ("example_id", "entity_id"))
            queries.append(RetrievalText(name, query, gold=(entity,)))
    return Read(tuple(queries), tuple(rejected))


def entities(path: Path) -> Read:
    """Candidates: every entity with its description, which is in one of fifty languages."""

    def candidate(row: Row, line: int) -> RetrievalText:
        return RetrievalText(member(row, "entity_id", str, path, "", line), _description(row, path, line))

    return read_rows(json_lines(path), path, candidate)


def _marked(context: Mapping[str, Any], mention: Any, path: Path, line: int) -> str | None:
    """The mention, a colon, and its sentence with the mention in braces; None if it lies in no sentence of the context.

    The mention stands in front so that it survives where the sentence is cut off; the sentence's own braces become
    parentheses.

    Raises:
        DataError: the context has no text (WikiNews articles are published without theirs).
    """
    text = member(context, "text", str, path, "context", line)
    if not text:
        raise DataError(path, line, "context.text is empty: get-mewsli-x.sh puts the articles' text back")
    span = member(mention, "mention_span", dict, path, "mention", line)
    start, end = (member(span, key, int, path, "mention.mention_span", line) for key in ("start", "end"))
    for index, sentence in enumerate(member(context, "sentence_spans", list, path, "context", line)):
        place = f"context.sentence_spans[{index}]"
        first, last = (member(sentence, key, int, path, place, line) for key in ("start", "end"))
        if first <= start < end <= last and text[start:end] == member(span, "text", str, path, "mention_span", line):
            before, after = (_BRACES.sub(r"(\1)", part) for part in (text[first:start], text[end:last]))
            return " ".join(f"{text[start:end]}: {before} {{ {text[start:end]} }} {after}".split())
    return None


def _unmarked(mention: Mapping[str, Any]) -> str:
    return f"mention {mention.get('example_id')!r}: its text is not at its offsets within one sentence"


def _description(entity: Mapping[str, Any], path: Path, line: int) -> str:
    """The sentences of an entity's description."""
    text = member(entity, "description", str, path, "entity", line)
    spans = member(entity, "sentence_spans", list, path, "entity", line)
    sentences = (
        text[
            slice(*(member(span, key, int, path, f"entity.sentence_spans[{index}]", line) for key in ("start", "end")))
        ]
        for index, span in enumerate(spans)
    )
    return " ".join(" ".join(sentences).split())
