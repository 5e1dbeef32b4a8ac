"""Readers of SQuAD's format, of sentences in two languages, of Mewsli-X and NTREX: each rule broken once."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trainables.data.examples import BitextExample, ReadResult, RetrievalPair, RetrievalText, SpanExample
from trainables.data.formats.bitext import aligned_files, mining_files, pair_rows
from trainables.data.formats.mewsli import entities, mention_pairs, mentions
from trainables.data.formats.ntrex import NtrexCorpus, pinned_corpus
from trainables.data.formats.sentences import sentence_spans
from trainables.data.formats.squad import (
    Question,
    from_file,
    from_rows,
    in_held_out_article,
    sentence_pairs,
    spans,
    without_paragraphs_of,
)
from trainables.data.formats.xquad_r import sentence_retrieval
from trainables.data.source import DATA_ROOT_VARIABLE, DataError

CONTEXT = "Ada wrote the notes in 1843. Babbage built no engine."


def question(id: str = "q1", *answers: tuple[str, int]) -> dict[str, Any]:
    return {"id": id, "question": "When?", "answers": [{"text": t, "answer_start": s} for t, s in answers]}


def squad(folder: Path, *questions: dict[str, Any], **paragraph: Any) -> Path:
    path = folder / "squad.json"
    content = {"context": CONTEXT, "qas": list(questions)} | paragraph
    path.write_text(json.dumps({"version": "1.1", "data": [{"title": "Ada", "paragraphs": [content]}]}))
    return path


def read(path: Path, build: Callable[..., ReadResult] = spans) -> ReadResult:
    return build(from_file(path), path)


def test_a_squad_file_becomes_span_examples(tmp_path: Path) -> None:
    found = read(squad(tmp_path, question("q1", ("1843", 23), ("in 1843", 20))))
    assert found == ReadResult((SpanExample("q1", "When?", CONTEXT, (("1843", 23), ("in 1843", 20))),))


def test_an_answer_that_is_not_at_its_offset_is_rejected_and_the_others_are_kept(tmp_path: Path) -> None:
    path = squad(tmp_path, question("q1", ("1843", 22), ("1843", 23)), question("q2", ("1843", -30)))
    found = read(path)
    assert [(example.id, example.answers) for example in found.examples] == [("q1", (("1843", 23),))]  # type: ignore[union-attr]
    assert [(one.where, one.line, one.rule) for one in found.rejected] == [
        (str(path), None, "question 'q1': answer '1843' is not at offset 22 of its context"),
        (str(path), None, "question 'q2': answer '1843' is not at offset -30 of its context"),
    ]


def test_an_empty_answer_no_answer_and_a_second_question_of_the_same_id_are_rejected(tmp_path: Path) -> None:
    path = squad(tmp_path, question("q1", ("", 3)), question("q2"), question("q3", ("Ada", 0)), question("q3"))
    found = read(path)
    assert [example.id for example in found.examples] == ["q3"]
    assert [one.rule for one in found.rejected] == [
        "question 'q1': an answer is empty",
        "question 'q2': has no answer",
        "question 'q3': repeats an id",
    ]


def test_only_a_question_published_without_answers_is_unanswerable(tmp_path: Path) -> None:
    path = squad(tmp_path, question("q1"), question("q2", ("1843", 5)))
    found = spans(from_file(path), path, unanswerable=True)
    assert found.examples == (SpanExample("q1", "When?", CONTEXT, ()),)
    assert len(found.rejected) == 1


@pytest.mark.parametrize(
    ("broken", "rule"),
    [
        ({"context": 3}, "data[0].paragraphs[0].context: expected text, got 3"),
        ({"qas": None}, "data[0].paragraphs[0].qas: expected a list, got None"),
        ({"qas": [{"id": "q"}]}, "data[0].paragraphs[0].qas[0].answers: missing; there are id"),
        (
            {"qas": [question("q1", ("Ada", "0"))]},  # type: ignore[arg-type]
            "data[0].paragraphs[0].qas[0].answers[0].answer_start: expected an integer, got '0'",
        ),
        (
            {"sentence_breaks": [[0, 28], [20, 53]]},
            "data[0].paragraphs[0].sentence_breaks[1]: [20, 53] does not follow the previous sentence within the context",
        ),
        (
            {"sentence_breaks": [[0, 99]]},
            "data[0].paragraphs[0].sentence_breaks[0]: [0, 99] does not follow the previous sentence within the context",
        ),
    ],
)
def test_an_error_in_squads_format_names_the_json_path(tmp_path: Path, broken: dict[str, Any], rule: str) -> None:
    path = squad(tmp_path, **broken)
    with pytest.raises(DataError) as error:
        read(path)
    assert str(error.value) == f"{path}: {rule}"


def test_a_file_without_data_and_one_that_is_not_json_are_errors(tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    path.write_text('["a list"]')
    with pytest.raises(DataError, match=r"other\.json: data: missing"):
        read(path)
    path.write_text('{"data":\n oops}')
    with pytest.raises(DataError, match=r"other\.json:2: not JSON"):
        read(path)


def row(**changes: Any) -> dict[str, Any]:
    answers = {"text": ["1843"], "answer_start": [23]}
    return {"id": "q1", "title": "Ada", "context": CONTEXT, "question": "When?", "answers": answers} | changes


def test_rows_of_the_hub_read_like_the_file(tmp_path: Path) -> None:
    published = read(squad(tmp_path, question("q1", ("1843", 23))))
    assert spans(from_rows([(0, row())], "hub"), "hub") == published
    rejected = spans(from_rows([(7, row(answers={"text": ["x"], "answer_start": [0]}))], "hub"), "hub").rejected
    assert [(one.where, one.line) for one in rejected] == [("hub", 7)]


@pytest.mark.parametrize(
    ("broken", "rule"),
    [
        ({"answers": {"text": ["a"], "answer_start": []}}, "hub:7: answers: 1 texts, but 0 offsets"),
        ({"answers": [{"text": "a"}]}, "hub:7: answers: expected an object, got [{'text': 'a'}]"),
    ],
)
def test_rows_in_another_format_are_errors_with_their_number(broken: dict[str, Any], rule: str) -> None:
    with pytest.raises(DataError) as error:
        list(from_rows([(7, row(**broken))], "hub"))
    assert str(error.value) == rule
    with pytest.raises(DataError, match="hub:7: answers: missing; there are id"):
        list(from_rows([(7, {"id": "q1"})], "hub"))


def test_a_pair_is_a_question_with_the_sentence_that_holds_its_answer(tmp_path: Path) -> None:
    path = squad(tmp_path, question("q1", ("1843", 23)), question("q2", ("no engine", 43)), question("q3", (" Ba", 28)))
    found = read(path, sentence_pairs)
    assert found.examples == (
        RetrievalPair("q1", "When?", "Ada wrote the notes in 1843.", CONTEXT),
        RetrievalPair("q2", "When?", "Babbage built no engine.", CONTEXT),
    )
    assert [one.rule for one in found.rejected] == ["question 'q3': its answer starts in no sentence"]


@pytest.mark.parametrize(
    "sentences",
    [
        ["It is so.", "Is it?", "Yes!", "1843 came."],
        ['Dr. A. B. Smith of the U.S. Navy said "no."', "(Then it ended.)"],
        ["It grew (see Fig. 3a).", "“Why?”", "Nobody knew.[12]", "Él vino."],
        ["no sentence ends here, e.g. in lower case. see"],
    ],
)
def test_english_is_split_into_sentences(sentences: list[str]) -> None:
    text = "  ".join(sentences) + "\n"
    assert [text[start:end] for start, end in sentence_spans(text)] == sentences


def test_no_sentences_in_no_text() -> None:
    assert sentence_spans(" \n") == ()


def test_questions_on_paragraphs_of_others_are_left_out_by_text_or_by_id() -> None:
    def on_context(id: str, context: str) -> Question:
        return Question(id, "?", context, (), "")

    listed = [on_context("a", "one"), on_context("b", "two"), on_context("c", "two"), on_context("d", "three")]
    others = [on_context("x", "one"), on_context("b", "two, in another edition")]
    assert [question.id for question in without_paragraphs_of(others, listed)] == ["d"]


def test_a_tenth_of_the_articles_is_held_out_with_all_their_questions() -> None:
    kept = [in_held_out_article(Question(f"{n}", "?", f"context {n}", (), f"title {n // 2}")) for n in range(2000)]
    assert kept[::2] == kept[1::2]
    assert 70 <= sum(kept[::2]) <= 130
    assert [n for n in range(30) if kept[2 * n]] == [
        n for n in range(30) if in_held_out_article(Question("", "", "", (), f"title {n}"))
    ]


def retrieval_files(folder: Path) -> dict[str, Path]:
    files = {}
    for language, breaks in (("en", [[0, 28], [29, 53]]), ("de", [[0, 28], [28, 53]])):
        (folder / language).mkdir()
        asked = (question("q1", ("1843", 23)), question("q2", ("engine", 46)))
        files[language] = squad(folder / language, *asked, sentence_breaks=breaks)
    return files


def test_the_right_sentences_of_a_question_are_those_of_all_languages(tmp_path: Path) -> None:
    found = sentence_retrieval("de", retrieval_files(tmp_path)).examples
    assert found == (
        RetrievalText("de:q1", "When?", gold=("en:0:0", "de:0:0")),
        RetrievalText("de:q2", "When?", gold=("en:0:1", "de:0:1")),
        RetrievalText("de:0:0", "Ada wrote the notes in 1843.", CONTEXT),
        RetrievalText("de:0:1", " Babbage built no engine.", CONTEXT),
    )


def test_a_question_whose_answer_is_in_no_sentence_is_rejected_in_its_language(tmp_path: Path) -> None:
    files = retrieval_files(tmp_path)
    squad(tmp_path / "de", question("q1", ("1843", 23)), sentence_breaks=[[29, 53]])
    german, english = (sentence_retrieval(language, files) for language in ("de", "en"))
    assert [(one.where, one.rule) for one in german.rejected] == [
        (str(files["de"]), "question 'q1': its answer is not at its offset, or starts in no sentence")
    ]
    assert english.rejected == ()
    assert english.examples[0] == RetrievalText("en:q1", "When?", gold=("en:0:0",))


def test_a_file_without_sentence_breaks_is_not_xquad_r(tmp_path: Path) -> None:
    path = squad(tmp_path, question("q1", ("1843", 23)))
    with pytest.raises(DataError, match=r"squad\.json: paragraph 1 has no sentence_breaks"):
        sentence_retrieval("en", {"en": path})
    with pytest.raises(DataError, match=r"absent\.json: No such file"):
        sentence_retrieval("en", {"en": tmp_path / "absent.json"})


def written(path: Path, *lines: str) -> Path:
    path.write_text("".join(line + "\n" for line in lines))
    return path


def test_aligned_files_become_pairs_and_an_empty_side_is_rejected(tmp_path: Path) -> None:
    source, english = written(tmp_path / "a.deu", "Ja.", "Nein."), written(tmp_path / "a.eng", "Yes.", "")
    found = aligned_files(source, english)
    assert found.examples == (BitextExample("1", "Ja.", "Yes."),)
    assert [(one.where, one.line) for one in found.rejected] == [(str(source), 2)]
    assert pair_rows([(1, {"sentence1": "Ja.", "sentence2": "Yes."})], "hub").examples == found.examples
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
    found = mentions(path, "en")
    assert len(found.examples) == 1
    assert [(one.where, one.line, one.rule) for one in found.rejected] == [
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


def ntrex(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(DATA_ROOT_VARIABLE, str(root))
    folder = root / "ntrex"
    folder.mkdir()
    written(folder / "newstest2019-src.eng.txt", "One.", "Two.", "Three.")
    written(folder / "newstest2019-ref.deu.txt", "Eins.", "", "Drei.")
    written(folder / "newstest2019-ref.zho-CN.txt", "一。", "二。", "三。")
    return folder


def test_ntrex_reads_side_by_side_with_english(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ntrex(tmp_path, monkeypatch)
    assert NtrexCorpus(("de", "zh"), sentences=2).parallel() == [
        {"en": "One.", "de": "Eins.", "zh": "一。"},
        {"en": "Two.", "zh": "二。"},
    ]
    assert NtrexCorpus(("en", "de")).parallel() == [{"en": "One.", "de": "Eins."}, {"en": "Three.", "de": "Drei."}]


def test_ntrex_files_that_lack_or_differ_or_change_are_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = ntrex(tmp_path, monkeypatch)
    with pytest.raises(DataError, match=r"ntrex: missing: newstest2019-ref\.ita\.txt, newstest2019-ref\.fra\.txt"):
        NtrexCorpus(("it", "de", "fr")).parallel()
    pinned = pinned_corpus(NtrexCorpus(("de",)))
    assert pinned.data.startswith("files:")
    assert len(pinned.parallel()) == 2
    written(folder / "newstest2019-ref.deu.txt", "Eins.", "Zwei.", "Drei.")
    with pytest.raises(DataError, match="have changed since"):
        pinned.parallel()
    written(folder / "newstest2019-ref.deu.txt", "Eins.", "Zwei.")
    with pytest.raises(DataError, match=r"newstest2019-ref\.deu\.txt:2: ends here"):
        NtrexCorpus(("de",)).parallel()
    monkeypatch.delenv(DATA_ROOT_VARIABLE)
    with pytest.raises(DataError, match="--data-root"):
        pinned.parallel()


def test_ntrex_has_no_haitian() -> None:
    with pytest.raises(ValueError, match="NTREX-128 has no ht; there are en, af"):
        NtrexCorpus(("ht", "de"))
    with pytest.raises(ValueError, match="sentences is 0"):
        NtrexCorpus(sentences=0)
