"""CommonsenseQA: a question with five answers that relate alike to its concept. (Talmor et al. 2019)"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from trainables.data.examples import ReadResult
from trainables.data.formats.choices import Parts, read_choices
from trainables.data.record import Record
from trainables.data.source import Files, Hub, Location, Row, Rows, Source
from trainables.data.text import json_lines
from trainables.tasks.base import HeadName, Role, Split
from trainables.tasks.published_task import PublishedTask
from trainables.tasks.splits import HUB_SPLITS, check_split

LETTERS = ("A", "B", "C", "D", "E")


@dataclass(frozen=True)
class CommonsenseQA(PublishedTask):
    """The question precedes each answer, as in jiant. Files are those of the random split, which the paper's table reports."""

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


def read_commonsense_json(path: Path) -> ReadResult:
    """The published format, in which the question contains its choices, converted to the columns of the hub."""
    return read_commonsense(((number, _flat(Record(row, path, number))) for number, row in json_lines(path)), path)


def read_commonsense(rows: Rows, where: Location) -> ReadResult:
    return read_choices(rows, where, parts=_parts, answers=LETTERS)


def _flat(row: Record) -> Row:
    question = row.record("question")
    choices = list(question.records("choices"))
    columns = {part: [choice.text(part) for choice in choices] for part in ("label", "text")}
    return {**row.values, "question": question.text("stem"), "choices": columns}


def _parts(row: Record) -> Parts:
    choices = row.record("choices")
    letters = choices.texts("label")
    if letters != LETTERS:
        raise choices.error(f"letters {', '.join(letters)}, expected {', '.join(LETTERS)}", "label")
    return row.text("question"), choices.texts("text"), row.value("answerKey")
