"""Readers of SQuAD's format and of XQuAD-R, and the English sentence splitter: each rule broken once."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trainables.data.examples import ReadResult, RetrievalPair, RetrievalText, SpanExample
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
from trainables.data.source import DataError

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
    result = read(squad(tmp_path, question("q1", ("1843", 23), ("in 1843", 20))))
    assert result == ReadResult((SpanExample("q1", "When?", CONTEXT, (("1843", 23), ("in 1843", 20))),))


def test_only_answers_that_are_not_at_their_offset_are_rejected(tmp_path: Path) -> None:
    path = squad(tmp_path, question("q1", ("1843", 22), ("1843", 23)), question("q2", ("1843", -30)))
    result = read(path)
    assert [(example.id, example.answers) for example in result.examples] == [("q1", (("1843", 23),))]  # type: ignore[union-attr]
    assert [(row.where, row.line, row.rule) for row in result.rejected] == [
        (str(path), None, "question 'q1': answer '1843' is not at offset 22 of its context"),
        (str(path), None, "question 'q2': answer '1843' is not at offset -30 of its context"),
    ]


def test_empty_answers_missing_answers_and_repeated_ids_are_rejected(tmp_path: Path) -> None:
    path = squad(tmp_path, question("q1", ("", 3)), question("q2"), question("q3", ("Ada", 0)), question("q3"))
    result = read(path)
    assert [example.id for example in result.examples] == ["q3"]
    assert [row.rule for row in result.rejected] == [
        "question 'q1': an answer is empty",
        "question 'q2': has no answer",
        "question 'q3': repeats an id",
    ]


def test_only_a_question_published_without_answers_is_unanswerable(tmp_path: Path) -> None:
    path = squad(tmp_path, question("q1"), question("q2", ("1843", 5)))
    result = spans(from_file(path), path, unanswerable=True)
    assert result.examples == (SpanExample("q1", "When?", CONTEXT, ()),)
    assert len(result.rejected) == 1


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
    assert [(row.where, row.line) for row in rejected] == [("hub", 7)]


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
    result = read(path, sentence_pairs)
    assert result.examples == (
        RetrievalPair("q1", "When?", "Ada wrote the notes in 1843.", CONTEXT),
        RetrievalPair("q2", "When?", "Babbage built no engine.", CONTEXT),
    )
    assert [row.rule for row in result.rejected] == ["question 'q3': its answer starts in no sentence"]


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
    held_out = [in_held_out_article(Question(f"{n}", "?", f"context {n}", (), f"title {n // 2}")) for n in range(2000)]
    assert held_out[::2] == held_out[1::2]
    assert 70 <= sum(held_out[::2]) <= 130
    assert [n for n in range(30) if held_out[2 * n]] == [
        n for n in range(30) if in_held_out_article(Question("", "", "", (), f"title {n}"))
    ]


def retrieval_files(folder: Path) -> dict[str, Path]:
    files = {}
    for language, breaks in (("en", [[0, 28], [29, 53]]), ("de", [[0, 28], [28, 53]])):
        (folder / language).mkdir()
        questions = (question("q1", ("1843", 23)), question("q2", ("engine", 46)))
        files[language] = squad(folder / language, *questions, sentence_breaks=breaks)
    return files


def test_the_right_sentences_of_a_question_are_those_of_all_languages(tmp_path: Path) -> None:
    result = sentence_retrieval("de", retrieval_files(tmp_path)).examples
    assert result == (
        RetrievalText("de:q1", "When?", gold=("en:0:0", "de:0:0")),
        RetrievalText("de:q2", "When?", gold=("en:0:1", "de:0:1")),
        RetrievalText("de:0:0", "Ada wrote the notes in 1843.", CONTEXT),
        RetrievalText("de:0:1", " Babbage built no engine.", CONTEXT),
    )


def test_a_question_whose_answer_is_in_no_sentence_is_rejected_in_its_language(tmp_path: Path) -> None:
    files = retrieval_files(tmp_path)
    squad(tmp_path / "de", question("q1", ("1843", 23)), sentence_breaks=[[29, 53]])
    german, english = (sentence_retrieval(language, files) for language in ("de", "en"))
    assert [(row.where, row.rule) for row in german.rejected] == [
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
