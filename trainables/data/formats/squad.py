"""The form of SQuAD: articles, paragraphs, questions and answers with their offsets.

SQuAD v1.1 and v2.0, XQuAD, MLQA and TyDiQA-GoldP are published in it; XQuAD-R adds where the sentences break.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from trainables.data.examples import Read, Rejected, RetrievalPair, RetrievalText, SpanExample
from trainables.data.source import DataError, Files, Hub, Rows, Source
from trainables.data.text import column, json_document

T = TypeVar("T")
Place = Path | str
Span = tuple[int, int]
HELD_OUT_ONE_IN = 10


@dataclass(frozen=True)
class Question:
    """A question as published: its answers are not checked yet. `line` is the row of a data set on the hub."""

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


Make = Callable[[Iterable[Question], Place], Read]


def member(node: Any, key: str | int, kind: type[T], where: Place, path: str, line: int | None = None) -> T:
    """`node[key]`, where `path` is the JSON path of `node`.

    Raises:
        DataError: it is not there, or not of that type; the message names its JSON path.
    """
    place = f"{path}[{key}]" if isinstance(key, int) else f"{path}.{key}".lstrip(".")
    try:
        value = node[key]
    except (KeyError, IndexError, TypeError) as error:
        raise DataError(where, line, f"{place}: {_NAMES[kind]} is expected, and there is nothing") from error
    if not isinstance(value, kind) or isinstance(value, bool):
        raise DataError(where, line, f"{place}: {_NAMES[kind]} is expected, not {type(value).__name__}")
    return value


_NAMES: dict[type, str] = {str: "a string", int: "a whole number", list: "a list", dict: "an object"}


def from_file(path: Path) -> Iterator[Question]:
    """The questions of a published file, in its order."""
    for paragraph in paragraphs(path):
        yield from paragraph.questions


def paragraphs(path: Path) -> Iterator[Paragraph]:
    """The paragraphs of a published file.

    Raises:
        DataError: the file is not of SQuAD's form; the message names the file and the JSON path.
    """
    document = json_document(path)
    for i, article in enumerate(member(document, "data", list, path, "")):
        title = str(article.get("title", "")) if isinstance(article, dict) else ""
        for j, paragraph in enumerate(member(article, "paragraphs", list, path, f"data[{i}]")):
            place = f"data[{i}].paragraphs[{j}]"
            context = member(paragraph, "context", str, path, place)
            listed = member(paragraph, "qas", list, path, place)
            questions = tuple(_question(q, context, title, path, f"{place}.qas[{k}]") for k, q in enumerate(listed))
            yield Paragraph(context, questions, _sentences(paragraph, context, path, place))


def _question(node: Any, context: str, title: str, path: Path, place: str) -> Question:
    answers = tuple(
        (
            member(answer, "text", str, path, f"{place}.answers[{index}]"),
            member(answer, "answer_start", int, path, f"{place}.answers[{index}]"),
        )
        for index, answer in enumerate(member(node, "answers", list, path, place))
    )
    id, text = (member(node, key, str, path, place) for key in ("id", "question"))
    return Question(id, text, context, answers, title)


def _sentences(paragraph: Mapping[str, Any], context: str, path: Path, place: str) -> tuple[Span, ...] | None:
    if "sentence_breaks" not in paragraph:
        return None
    found: list[Span] = []
    for index, pair in enumerate(member(paragraph, "sentence_breaks", list, path, place)):
        start, end = (member(pair, side, int, path, f"{place}.sentence_breaks[{index}]") for side in (0, 1))
        if not (found[-1][1] if found else 0) <= start < end <= len(context):
            rule = (
                f"{place}.sentence_breaks[{index}]: [{start}, {end}] does not follow the sentence before in the context"
            )
            raise DataError(path, None, rule)
        found.append((start, end))
    return tuple(found)


def from_rows(rows: Rows, where: Place) -> Iterator[Question]:
    """The questions of a data set on the hub: columns id, context, question, answers{text, answer_start}, perhaps title."""
    for line, row in rows:
        id, context, text = (column(row, name, where, line) for name in ("id", "context", "question"))
        answers = column(row, "answers", where, line)
        texts, starts = (member(answers, key, list, where, "answers", line) for key in ("text", "answer_start"))
        if len(texts) != len(starts):
            raise DataError(where, line, f"answers: {len(texts)} texts, but {len(starts)} offsets")
        found = tuple(zip(map(str, texts), map(int, starts), strict=True))
        yield Question(str(id), text, context, found, row.get("title") or "", line)


def squad_form(
    path: str,
    dataset: str,
    config: str | None,
    split: str,
    revision: str | None,
    *,
    make: Make,
    keep: Callable[[Question], bool] = lambda question: True,
) -> Source:
    """A split that is one file of SQuAD's form, or one split on the hub; only the questions to `keep` are read."""
    return Source(
        Files((path,), lambda file: make(filter(keep, from_file(file)), file)),
        Hub(dataset, config, split, revision, lambda rows, where: make(filter(keep, from_rows(rows, where)), where)),
    )


def spans(questions: Iterable[Question], where: Place, *, unanswerable: bool = False) -> Read:
    """Span examples. An answer that is not at its offset is rejected, and its question if no other answer is left.

    A question published without answers is an example only if `unanswerable`, else it is rejected.
    """
    rejected: list[Rejected] = []
    sound = _sifted(questions, where, rejected, unanswerable=unanswerable)
    return Read(tuple(SpanExample(q.id, q.text, q.context, q.answers) for q in sound), tuple(rejected))


def pairs(questions: Iterable[Question], where: Place) -> Read:
    """Questions with the sentence in which their first answer starts, and the paragraph around it: LAReQA's training set."""
    rejected: list[Rejected] = []
    examples: list[RetrievalPair] = []
    for question in _sifted(questions, where, rejected, unanswerable=False):
        found = _holding(sentence_spans(question.context), question.answers[0][1])
        if found is None:
            rejected.append(_rejected(question, where, "its answer starts in no sentence"))
        else:
            sentence = question.context[slice(*found[1])]
            examples.append(RetrievalPair(question.id, question.text, sentence, question.context))
    return Read(tuple(examples), tuple(rejected))


def _sifted(
    questions: Iterable[Question], where: Place, rejected: list[Rejected], *, unanswerable: bool
) -> Iterator[Question]:
    """The questions that can be used, with the answers that fit; the rest is added to `rejected`."""
    seen: set[str] = set()
    for question in questions:
        if question.id in seen:
            rejected.append(_rejected(question, where, "is there a second time"))
            continue
        seen.add(question.id)
        wrong = [_misplaced(question, answer) for answer in question.answers]
        rejected += [_rejected(question, where, rule) for rule in wrong if rule is not None]
        fitting = tuple(answer for answer, rule in zip(question.answers, wrong, strict=True) if rule is None)
        if fitting or (unanswerable and not question.answers):
            yield replace(question, answers=fitting)
        elif not question.answers:
            rejected.append(_rejected(question, where, "has no answer"))


def _misplaced(question: Question, answer: tuple[str, int]) -> str | None:
    text, start = answer
    if text and start >= 0 and question.context.startswith(text, start):
        return None
    return f"answer {text!r} is not at offset {start} of its context" if text else "an answer is empty"


def _rejected(question: Question, where: Place, rule: str) -> Rejected:
    return Rejected(str(where), question.line, f"question {question.id!r}: {rule}")


def in_held_out_article(question: Question) -> bool:
    """Whether a question belongs to the tenth of the articles that is kept from training, by a hash of the title."""
    article = (question.title or question.context).strip()  # the hub has titles stripped
    return int.from_bytes(hashlib.sha256(article.encode()).digest()[:8]) % HELD_OUT_ONE_IN == 0


def beside(questions: Iterable[Question], others: Iterable[Question]) -> Iterator[Question]:
    """The questions on paragraphs that `others` do not stand on. A paragraph is known by its text or a question's id."""
    listed, stood_on = list(questions), list(others)
    ids = {other.id for other in stood_on}
    contexts = {other.context for other in stood_on} | {question.context for question in listed if question.id in ids}
    return (question for question in listed if question.context not in contexts)


def sentence_retrieval(language: str, files: Mapping[str, Path]) -> Read:
    """XQuAD-R's questions in one language, then its candidates: every sentence of every paragraph.

    The right answers to a question are the sentences in which its answer starts, in all languages of `files`. As in
    LAReQA's code (`utils_lareqa.py` in google-research/xtreme) sentences are cut out of the context at `sentence_breaks`
    (in two Turkish ones the field `sentences` reads otherwise), and equal sentences stay apart: their paragraphs differ.
    """
    gold: dict[str, list[str]] = {}
    rejected: list[Rejected] = []
    for name, path in files.items():
        for question, candidate in _answers(name, path):
            if candidate is not None:
                gold.setdefault(question.id, []).append(candidate)
            elif name == language:
                rejected.append(_rejected(question, path, "its answer is not at its offset, or starts in no sentence"))
    path = files[language]
    asked = [question for question, candidate in _answers(language, path) if candidate is not None]
    questions = [RetrievalText(f"{language}:{q.id}", q.text, gold=tuple(gold[q.id])) for q in asked]
    candidates = [
        RetrievalText(_candidate_id(language, number, index), paragraph.context[start:end], paragraph.context)
        for number, paragraph in enumerate(_with_breaks(path))
        for index, (start, end) in enumerate(paragraph.sentences or ())
    ]
    return Read((*questions, *candidates), tuple(rejected))


def _answers(language: str, path: Path) -> Iterator[tuple[Question, str | None]]:
    """Each question with the candidate in which its first answer starts; None where there is no such sentence."""
    for number, paragraph in enumerate(_with_breaks(path)):
        for question in paragraph.questions:
            right = question.answers and _misplaced(question, question.answers[0]) is None
            found = _holding(paragraph.sentences or (), question.answers[0][1]) if right else None
            yield question, None if found is None else _candidate_id(language, number, found[0])


def _candidate_id(language: str, paragraph: int, sentence: int) -> str:
    return f"{language}:{paragraph}:{sentence}"


def _with_breaks(path: Path) -> tuple[Paragraph, ...]:
    try:
        return _read_once(path, path.stat().st_mtime_ns)
    except OSError as error:
        raise DataError(path, None, error.strerror or str(error)) from error


@lru_cache(maxsize=16)
def _read_once(path: Path, modified_ns: int) -> tuple[Paragraph, ...]:
    """Each language's test set needs the files of all."""
    found = tuple(paragraphs(path))
    for number, paragraph in enumerate(found):
        if paragraph.sentences is None:
            raise DataError(path, None, f"paragraph {number + 1} of the file lacks sentence_breaks: not XQuAD-R's form")
    return found


def _holding(sentences: Iterable[Span], offset: int) -> tuple[int, Span] | None:
    """Number and span of the sentence that an offset lies in."""
    return next(((i, span) for i, span in enumerate(sentences) if span[0] <= offset < span[1]), None)


# A sentence ends with a full stop, question or exclamation mark, and whatever closes a quotation or bracket or is a
# footnote mark; the next one starts with a capital or a digit, perhaps behind an opening quotation mark or bracket.
_BREAK = re.compile(r"[.?!][\"'”’)\]]*(?:\[[^\[\]]{1,20}\])*(\s+)(?=[\"'“‘(\[]*[^\W_a-z])")
_NO_END = re.compile(
    r"\b(?:[A-Z]|Mrs?|Ms|Dr|Prof|Rev|Fr|Sta?|Gen|Lt|Col|Maj|Capt|Sgt|Adm|Gov|Sen|Rep|Pres|Mt|Ft|No|Vol|Art|Fig|approx"
    r"|vs?|ca?|cf|pp?|e\.g|i\.e|al|Jan|Feb|Aug|Sept?|Oct|Nov|Dec)\.$"
)


def sentence_spans(text: str) -> tuple[Span, ...]:
    """Sentences of English text that lacks sentence breaks, by punctuation, capitals and a list of abbreviations.

    LAReQA has a longer list of rules for SQuAD (`sb_sed.py` in google-research/xtreme); on the English paragraphs of
    XQuAD-R, whose breaks are published, the answer stands in the same sentence for 98% of the questions.
    """
    found: list[Span] = []
    start = len(text) - len(text.lstrip())
    for match in _BREAK.finditer(text):
        if not _NO_END.search(text, start, match.start() + 1):
            found.append((start, match.start(1)))
            start = match.end()
    end = len(text.rstrip())
    return (*found, (start, end)) if start < end else tuple(found)
