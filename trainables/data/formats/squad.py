"""SQuAD's format: articles, paragraphs, questions, and answers with their offsets.

SQuAD v1.1 and v2.0, XQuAD, MLQA and TyDiQA-GoldP are published in it; XQuAD-R adds sentence breaks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from trainables.data.examples import ReadResult, RejectedRow, RetrievalPair, SpanExample
from trainables.data.formats.sentences import Span, sentence_spans, span_at
from trainables.data.record import Record
from trainables.data.source import Files, Hub, Location, Rows, Source
from trainables.data.text import json_document

HELD_OUT_ONE_IN = 10


@dataclass(frozen=True)
class Question:
    """A question as published; its answers are not checked yet. `line` is the row of a data set on the hub."""

    id: str
    text: str
    context: str
    answers: tuple[tuple[str, int], ...]
    title: str
    line: int | None = None


@dataclass(frozen=True)
class Paragraph:
    """A context with its questions and, in XQuAD-R, the spans of its sentences."""

    context: str
    questions: tuple[Question, ...]
    sentences: tuple[Span, ...] | None


BuildExamples = Callable[[Iterable[Question], Location], ReadResult]


def from_file(path: Path) -> Iterator[Question]:
    """The questions of a published file, in order."""
    for paragraph in paragraphs(path):
        yield from paragraph.questions


def paragraphs(path: Path) -> Iterator[Paragraph]:
    """The paragraphs of a published file.

    Raises:
        DataError: the file is not in SQuAD's format; the message names the file and the JSON path.
    """
    for article in Record(json_document(path), path).records("data"):
        title = str(article.values.get("title", "")) if isinstance(article.values, dict) else ""
        for paragraph in article.records("paragraphs"):
            context = paragraph.text("context")
            questions = tuple(_question(question, context, title) for question in paragraph.records("qas"))
            yield Paragraph(context, questions, _sentences(paragraph, context))


def _question(question: Record, context: str, title: str) -> Question:
    answers = tuple((answer.text("text"), answer.integer("answer_start")) for answer in question.records("answers"))
    return Question(question.text("id"), question.text("question"), context, answers, title)


def _sentences(paragraph: Record, context: str) -> tuple[Span, ...] | None:
    if "sentence_breaks" not in paragraph.values:
        return None
    spans: list[Span] = []
    for pair in paragraph.records("sentence_breaks"):
        start, end = pair.integer(0), pair.integer(1)
        if not (spans[-1][1] if spans else 0) <= start < end <= len(context):
            raise pair.error(f"[{start}, {end}] does not follow the previous sentence within the context")
        spans.append((start, end))
    return tuple(spans)


def from_rows(rows: Rows, where: Location) -> Iterator[Question]:
    """The questions of a data set on the hub: columns id, context, question, answers{text, answer_start}, optionally title."""
    for line, values in rows:
        row = Record(values, where, line)
        answers = row.record("answers")
        texts, starts = answers.items("text"), answers.items("answer_start")
        if len(texts) != len(starts):
            raise answers.error(f"{len(texts)} texts, but {len(starts)} offsets")
        pairs = tuple(zip(map(str, texts), map(int, starts), strict=True))
        yield Question(
            str(row.value("id")), row.text("question"), row.text("context"), pairs, values.get("title") or "", line
        )


def squad_source(
    path: str,
    dataset: str,
    config: str | None,
    split: str,
    revision: str | None,
    *,
    build: BuildExamples,
) -> Source:
    """A split that is one file in SQuAD's format, or one split on the hub."""
    return Source(
        Files((path,), lambda file: build(from_file(file), file)),
        Hub(dataset, config, split, revision, lambda rows, where: build(from_rows(rows, where), where)),
    )


def spans(questions: Iterable[Question], where: Location, *, unanswerable: bool = False) -> ReadResult:
    """Span examples. An answer that is not at its offset is rejected, and so is its question if no other answer is left.

    A question published without answers is an example if `unanswerable`; otherwise it is rejected.
    """
    rejected: list[RejectedRow] = []
    valid = _validated(questions, where, rejected, unanswerable=unanswerable)
    return ReadResult(tuple(SpanExample(q.id, q.text, q.context, q.answers) for q in valid), tuple(rejected))


def sentence_pairs(questions: Iterable[Question], where: Location) -> ReadResult:
    """Each question with the sentence in which its first answer starts, and its paragraph: LAReQA's training set."""
    rejected: list[RejectedRow] = []
    examples: list[RetrievalPair] = []
    for question in _validated(questions, where, rejected, unanswerable=False):
        sentence = span_at(sentence_spans(question.context), question.answers[0][1])
        if sentence is None:
            rejected.append(rejected_question(question, where, "its answer starts in no sentence"))
        else:
            text = question.context[slice(*sentence[1])]
            examples.append(RetrievalPair(question.id, question.text, text, question.context))
    return ReadResult(tuple(examples), tuple(rejected))


def _validated(
    questions: Iterable[Question], where: Location, rejected: list[RejectedRow], *, unanswerable: bool
) -> Iterator[Question]:
    """The usable questions with their valid answers; everything else is appended to `rejected`."""
    seen: set[str] = set()
    for question in questions:
        if question.id in seen:
            rejected.append(rejected_question(question, where, "repeats an id"))
            continue
        seen.add(question.id)
        faults = [misplaced(question, answer) for answer in question.answers]
        rejected += [rejected_question(question, where, fault) for fault in faults if fault is not None]
        valid = tuple(answer for answer, fault in zip(question.answers, faults, strict=True) if fault is None)
        if valid or (unanswerable and not question.answers):
            yield replace(question, answers=valid)
        elif not question.answers:
            rejected.append(rejected_question(question, where, "has no answer"))


def misplaced(question: Question, answer: tuple[str, int]) -> str | None:
    """What is wrong with an answer's offset, or None."""
    text, start = answer
    if text and start >= 0 and question.context.startswith(text, start):
        return None
    return f"answer {text!r} is not at offset {start} of its context" if text else "an answer is empty"


def rejected_question(question: Question, where: Location, rule: str) -> RejectedRow:
    """A question that cannot be used, by its id."""
    return RejectedRow(str(where), question.line, f"question {question.id!r}: {rule}")


def in_held_out_article(question: Question) -> bool:
    """Whether a question's article is in the tenth that is held out from training, by a hash of its title."""
    article = (question.title or question.context).strip()  # titles on the hub are stripped
    return int.from_bytes(hashlib.sha256(article.encode()).digest()[:8]) % HELD_OUT_ONE_IN == 0


def without_paragraphs_of(others: Iterable[Question], questions: Iterable[Question]) -> Iterator[Question]:
    """The questions whose paragraphs have no question in `others`; paragraphs are matched by text or by a question's id."""
    questions, others = list(questions), list(others)
    ids = {other.id for other in others}
    contexts = {other.context for other in others} | {question.context for question in questions if question.id in ids}
    return (question for question in questions if question.context not in contexts)
