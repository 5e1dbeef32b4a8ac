"""HellaSwag: how does the scene continue? (Zellers et al. 2019)"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from trainables.data import revisions
from trainables.data.examples import ReadResult
from trainables.data.formats.choices import Parts, read_choices
from trainables.data.record import Record
from trainables.data.source import Files, Hub, Location, Rows, Source
from trainables.data.text import json_lines
from trainables.tasks.base import HeadName, Role, Split
from trainables.tasks.published_task import PublishedTask
from trainables.tasks.splits import HUB_SPLITS, check_split

FILES = {"train": "train", "dev": "val"}


@dataclass(frozen=True)
class HellaSwag(PublishedTask):
    """The context is all of `ctx`; an alternative is an ending. (jiant moves the unfinished sentence to the ending.)"""

    name: ClassVar[str] = "hellaswag"
    head: ClassVar[HeadName] = "multiple_choice"
    choices: ClassVar[int] = 4
    role: ClassVar[Role] = "intermediate"
    metric: ClassVar[str] = "accuracy"
    source: ClassVar[str] = "HellaSwag 1.0; on the hub Rowan/hellaswag"
    reads: ClassVar[frozenset[str]] = frozenset({"hellaswag"})

    def source_of(self, split: Split, language: str) -> Source:
        check_split(self, split, language)
        return Source(
            Files((f"hellaswag/hellaswag_{FILES[split]}.jsonl",), lambda path: read_hellaswag(json_lines(path), path)),
            Hub("Rowan/hellaswag", None, HUB_SPLITS[split], revisions.HELLASWAG, read_hellaswag),
        )

    def chance(self) -> float:
        return 25.0


def read_hellaswag(rows: Rows, where: Location) -> ReadResult:
    return read_choices(rows, where, parts=_parts, answers=("0", "1", "2", "3"))


def _parts(row: Record) -> Parts:
    return row.text("ctx"), row.texts("endings"), row.value("label")
