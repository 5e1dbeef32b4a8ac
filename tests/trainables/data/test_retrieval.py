"""Readers of sentences in two languages and of Mewsli-X: each rule broken once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from trainables.data.examples import BitextExample, RetrievalPair, RetrievalText
from trainables.data.formats.bitext import aligned_files, mining_files, pair_rows
from trainables.data.formats.mewsli import entities, mention_pairs, mentions
from trainables.data.source import DataError


def written(path: Path, *lines: str) -> Path:
    path.write_text("".join(line + "\n" for line in lines))
    return path


def test_aligned_files_become_pairs_and_an_empty_side_is_rejected(tmp_path: Path) -> None:
    source, english = written(tmp_path / "a.deu", "Ja.", "Nein."), written(tmp_path / "a.eng", "Yes.", "")
    result = aligned_files(source, english)
    assert result.examples == (BitextExample("1", "Ja.", "Yes."),)
    assert [(row.where, row.line) for row in result.rejected] == [(str(source), 2)]
    assert pair_rows([(1, {"sentence1": "Ja.", "sentence2": "Yes."})], "hub").examples == result.examples
    written(english, "Yes.")
    with pytest.raises(DataError, match=r"a\.eng:1: ends here, while .*a\.deu has 2 lines"):
        aligned_files(source, english)


def bucc(folder: Path, *gold: str) -> tuple[Path, Path, Path]:
    return (
        written(folder / "dev.de", "de-1\tJa.", "de-2\tNein."),
        written(folder / "dev.en", "en-1\tNo.", "en-2\tYes.", "en-3\tYes!"),
        written(folder / "dev.gold", *gold),
    )


def test_mining_files_become_sentences_with_their_translations_and_candidates(tmp_path: Path) -> None:
    assert mining_files(*bucc(tmp_path, "de-1\ten-2", "de-1\ten-3")).examples == (
        RetrievalText("de-1", "Ja.", gold=("en-2", "en-3")),
        RetrievalText("de-2", "Nein.", gold=()),
        RetrievalText("en-1", "No."),
        RetrievalText("en-2", "Yes."),
        RetrievalText("en-3", "Yes!"),
    )


def test_mining_files_name_the_line_of_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"dev\.gold:2: no sentence 'en-9' in dev\.en"):
        mining_files(*bucc(tmp_path, "de-1\ten-2", "de-2\ten-9"))
    with pytest.raises(DataError, match=r"dev\.gold:1: no sentence 'en-2' in dev\.de"):
        mining_files(*bucc(tmp_path, "en-2\tde-1"))
    with pytest.raises(DataError, match=r"dev\.gold:1: expected two columns"):
        mining_files(*bucc(tmp_path, "de-1 en-2"))
    files = bucc(tmp_path)
    written(files[0], "de-1\tJa.", "de-1\tNein.")
    with pytest.raises(DataError, match=r"dev\.de:2: a second sentence with the id 'de-1'"):
        mining_files(*files)


ARTICLE = "The {old} bridge fell. Then Ada {the first}\nspoke of Ada."


def span(start: int, end: int, text: str | None = None) -> dict[str, Any]:
    return {"start": start, "end": end} | ({} if text is None else {"text": text})


def mention(start: int, end: int, text: str = "Ada") -> dict[str, Any]:
    return {"example_id": "m1", "entity_id": "Q7259", "mention_span": span(start, end, text)}


def article(**changes: Any) -> dict[str, Any]:
    return {"language": "en", "text": ARTICLE, "sentence_spans": [span(0, 22), span(23, len(ARTICLE))]} | changes


ENTITY = {
    "entity_id": "Q7259",
    "description": "Eine Frau.\n Sie schrieb. Mehr",
    "sentence_spans": [span(0, 10), span(12, 24)],
}


def json_lines(path: Path, *rows: dict[str, Any]) -> Path:
    return written(path, *(json.dumps(row) for row in rows))


def test_a_mention_is_marked_in_its_sentence_as_in_xtreme_rs_baseline(tmp_path: Path) -> None:
    place = ARTICLE.rindex("Ada")
    path = json_lines(tmp_path / "m.jsonl", {"context": article(), "mentions": [mention(place, place + 3)]})
    query = "Ada: Then Ada (the first) spoke of { Ada } ."
    assert mentions(path, "en").examples == (RetrievalText("m1", query, gold=("Q7259",)),)
    assert mentions(path, "de").examples == ()
    pair = {"contextual_mention": {"context": article(), "mention": mention(place, place + 3)}, "entity": ENTITY}
    pairs_path = json_lines(tmp_path / "p.jsonl", pair)
    assert mention_pairs(pairs_path).examples == (RetrievalPair("m1", query, "Eine Frau. Sie schrieb."),)
    candidates = entities(json_lines(tmp_path / "e.jsonl", ENTITY))
    assert candidates.examples == (RetrievalText("Q7259", "Eine Frau. Sie schrieb."),)


def test_a_mention_that_is_not_at_its_offsets_in_one_sentence_is_rejected(tmp_path: Path) -> None:
    path = json_lines(
        tmp_path / "m.jsonl",
        {"context": article(), "mentions": [mention(27, 30), mention(28, 31), mention(17, 31, ARTICLE[17:31])]},
    )
    result = mentions(path, "en")
    assert len(result.examples) == 1
    assert [(row.where, row.line, row.rule) for row in result.rejected] == [
        (str(path), 1, "mention 'm1': its text is not at its offsets within one sentence")
    ] * 2


def test_mewsli_rows_in_another_format_are_errors_with_line_and_json_path(tmp_path: Path) -> None:
    path = json_lines(tmp_path / "m.jsonl", {"context": article(text=""), "mentions": [mention(0, 3)]})
    with pytest.raises(DataError, match=r"m\.jsonl:1: context\.text: empty; get-mewsli-x\.sh"):
        mentions(path, "en")
    with pytest.raises(DataError, match=r"m\.jsonl:1: contextual_mention: missing; there are context, mentions"):
        mention_pairs(path)
    with pytest.raises(DataError, match=r"m\.jsonl:1: entity_id: missing"):
        entities(path)
