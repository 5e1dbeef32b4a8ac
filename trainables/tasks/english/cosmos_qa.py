"""Cosmos QA: questions on causes, intentions and consequences that a text leaves implicit. (Huang et al. 2019)"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from trainables.data import revisions
from trainables.data.examples import ReadResult
from trainables.data.formats.choices import Parts, read_choices
from trainables.data.record import Record
from trainables.data.source import Files, Hub, Location, Rows, Source
from trainables.data.text import separated
from trainables.tasks.base import HeadName, Role, Split
from trainables.tasks.published_task import PublishedTask
from trainables.tasks.splits import HUB_SPLITS, check_split

FILES = {"train": "train", "dev": "valid"}


@dataclass(frozen=True)
class CosmosQA(PublishedTask):
    """Text and question together precede each answer, as in jiant."""

    name: ClassVar[str] = "cosmos_qa"
    head: ClassVar[HeadName] = "multiple_choice"
    choices: ClassVar[int] = 4
    role: ClassVar[Role] = "intermediate"
    metric: ClassVar[str] = "accuracy"
    source: ClassVar[str] = "Cosmos QA; on the hub allenai/cosmos_qa, its conversion to parquet"
    reads: ClassVar[frozenset[str]] = frozenset({"cosmos_qa"})

    def source_of(self, split: Split, language: str) -> Source:
        check_split(self, split, language)
        return Source(
            Files((f"cosmos_qa/{FILES[split]}.csv",), read_cosmos_csv),
            Hub("allenai/cosmos_qa", None, HUB_SPLITS[split], revisions.COSMOS_QA, read_cosmos),
        )

    def chance(self) -> float:
        return 25.0


def read_cosmos_csv(path: Path) -> ReadResult:
    return read_cosmos(separated(path, delimiter=",", quoted=True), path)


def read_cosmos(rows: Rows, where: Location) -> ReadResult:
    return read_choices(rows, where, parts=_parts, answers=("0", "1", "2", "3"))


def _parts(row: Record) -> Parts:
    answers = tuple(row.text(f"answer{number}") for number in range(4))
    return f"{row.text('context')} {row.text('question')}", answers, row.value("label")
