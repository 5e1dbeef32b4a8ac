"""CommonsenseQA: a question and five answers that stand in the same relation to its concept. (Talmor et al. 2019)"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from trainables.data.examples import Read
from trainables.data.fields import text_of, texts_of
from trainables.data.formats.choices import read_choices
from trainables.data.source import DataError, Files, Hub, Row, Rows, Source
from trainables.data.text import column, json_lines
from trainables.tasks.base import HeadName, Role, Split
from trainables.tasks.published_task import PublishedTask
from trainables.tasks.splits import HUB_SPLITS, check_split

LETTERS = ("A", "B", "C", "D", "E")


@dataclass(frozen=True)
class CommonsenseQA(PublishedTask):
    """The question before each answer, as in jiant. Files are those of the random split, which the paper's table reports."""

    name: ClassVar[str] = "commonsense_qa"
    head: ClassVar[HeadName] = "multiple_choice"
    choices: ClassVar[int] = len(LETTERS)
    role: ClassVar[Role] = "intermediate"
    metric: ClassVar[str] = "accuracy"
    source: ClassVar[str] = "CommonsenseQA 1.11, random split; on the hub tau/commonsense_qa"
    reads: ClassVar[frozenset[str]] = frozenset({"commonsense_qa"})

    def source_of(self, split: Split, language: str) -> Source:
        check_split(self, split, language)
        revision = "94630fe30dad47192a8546eb75f094926d47e155"
        return Source(
            Files((f"commonsense_qa/{split}_rand_split.jsonl",), read_commonsense_json),
            Hub("tau/commonsense_qa", None, HUB_SPLITS[split], revision, read_commonsense),
        )

    def chance(self) -> float:
        return 20.0


def read_commonsense_json(path: Path) -> Read:
    """The published form, in which the question holds its choices, brought to the columns of the hub."""
    return read_commonsense(((number, _flat(row, path, number)) for number, row in json_lines(path)), path)


def read_commonsense(rows: Rows, where: Path | str) -> Read:
    return read_choices(rows, where, parts=_parts, answers=LETTERS)


def _flat(row: Row, where: Path, number: int) -> Row:
    question = column(row, "question", where, number)
    try:
        choices = {part: [choice[part] for choice in question["choices"]] for part in ("label", "text")}
        return {**row, "question": question["stem"], "choices": choices}
    except (KeyError, TypeError) as error:
        raise DataError(where, number, "column 'question' lacks stem, or choices with label and text") from error


def _parts(row: Row, where: Path | str, number: int) -> tuple[str, tuple[str, ...], object]:
    choices = column(row, "choices", where, number)
    letters = texts_of(choices, "label", where, number)
    if letters != LETTERS:
        raise DataError(
            where, number, f"choices are lettered {', '.join(letters)}, where {', '.join(LETTERS)} are expected"
        )
    texts = texts_of(choices, "text", where, number)
    return text_of(row, "question", where, number), texts, column(row, "answerKey", where, number)
