"""XQuAD-R: SQuAD's format with sentence breaks, read as a retrieval set (LAReQA)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path

from trainables.data.examples import ReadResult, RejectedRow, RetrievalText
from trainables.data.formats.sentences import span_at
from trainables.data.formats.squad import Paragraph, Question, misplaced, paragraphs, rejected_question
from trainables.data.source import DataError


def sentence_retrieval(language: str, files: Mapping[str, Path]) -> ReadResult:
    """XQuAD-R's questions in one language, then its candidates: every sentence of every paragraph.

    The right answers to a question are the sentences in which its answer starts, in all languages of `files`. As in
    LAReQA's code (`utils_lareqa.py` in google-research/xtreme), sentences are cut out of the context at `sentence_breaks`
    (for two Turkish sentences the field `sentences` differs). Equal sentences stay separate: their paragraphs differ.
    """
    gold: dict[str, list[str]] = {}
    rejected: list[RejectedRow] = []
    for name, path in files.items():
        for question, candidate in _answer_candidates(name, path):
            if candidate is not None:
                gold.setdefault(question.id, []).append(candidate)
            elif name == language:
                rule = "its answer is not at its offset, or starts in no sentence"
                rejected.append(rejected_question(question, path, rule))
    path = files[language]
    answered = [question for question, candidate in _answer_candidates(language, path) if candidate is not None]
    questions = [RetrievalText(f"{language}:{q.id}", q.text, gold=tuple(gold[q.id])) for q in answered]
    candidates = [
        RetrievalText(_candidate_id(language, number, index), paragraph.context[start:end], paragraph.context)
        for number, paragraph in enumerate(_paragraphs(path))
        for index, (start, end) in enumerate(paragraph.sentences or ())
    ]
    return ReadResult((*questions, *candidates), tuple(rejected))


def _answer_candidates(language: str, path: Path) -> Iterator[tuple[Question, str | None]]:
    """Each question with the id of the sentence in which its first answer starts, or None if there is none."""
    for number, paragraph in enumerate(_paragraphs(path)):
        for question in paragraph.questions:
            valid = question.answers and misplaced(question, question.answers[0]) is None
            sentence = span_at(paragraph.sentences or (), question.answers[0][1]) if valid else None
            yield question, None if sentence is None else _candidate_id(language, number, sentence[0])


def _candidate_id(language: str, paragraph: int, sentence: int) -> str:
    return f"{language}:{paragraph}:{sentence}"


def _paragraphs(path: Path) -> tuple[Paragraph, ...]:
    try:
        return _cached_paragraphs(path, path.stat().st_mtime_ns)
    except OSError as error:
        raise DataError(path, None, error.strerror or str(error)) from error


@lru_cache(maxsize=16)
def _cached_paragraphs(path: Path, modified_ns: int) -> tuple[Paragraph, ...]:
    """The paragraphs of a file, cached because each language's test set needs the files of all languages."""
    read = tuple(paragraphs(path))
    for number, paragraph in enumerate(read):
        if paragraph.sentences is None:
            raise DataError(path, None, f"paragraph {number + 1} has no sentence_breaks: not XQuAD-R's format")
    return read
