"""Cosmos QA: questions on causes, intentions and consequences that a text leaves unsaid. (Huang et al. 2019)"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from trainables.data.examples import Read
from trainables.data.fields import text_of
from trainables.data.formats.choices import read_choices
from trainables.data.source import Files, Hub, Row, Rows, Source
from trainables.data.text import column, separated
from trainables.tasks.base import HeadName, Role, Split
from trainables.tasks.published_task import PublishedTask
from trainables.tasks.splits import HUB_SPLITS, check_split

FILES = {"train": "train", "dev": "valid"}


@dataclass(frozen=True)
class CosmosQA(PublishedTask):
    """Text and question stand together before each answer, as in jiant."""

    name: ClassVar[str] = "cosmos_qa"
    head: ClassVar[HeadName] = "multiple_choice"
    choices: ClassVar[int] = 4
    role: ClassVar[Role] = "intermediate"
    metric: ClassVar[str] = "accuracy"
    source: ClassVar[str] = "Cosmos QA; on the hub allenai/cosmos_qa, its conversion to parquet"
    reads: ClassVar[frozenset[str]] = frozenset({"cosmos_qa"})

    def source_of(self, split: Split, language: str) -> Source:
        check_split(self, split, language)
        revision = "ed50fe83db62b355759053b1cd5eef344ee371e0"  # of refs/convert/parquet: main holds a loading script
        return Source(
            Files((f"cosmos_qa/{FILES[split]}.csv",), read_cosmos_csv),
            Hub("allenai/cosmos_qa", None, HUB_SPLITS[split], revision, read_cosmos),
        )

    def chance(self) -> float:
        return 25.0


def read_cosmos_csv(path: Path) -> Read:
    return read_cosmos(separated(path, delimiter=",", quoted=True), path)


def read_cosmos(rows: Rows, where: Path | str) -> Read:
    return read_choices(rows, where, parts=_parts, answers=("0", "1", "2", "3"))


def _parts(row: Row, where: Path | str, number: int) -> tuple[str, tuple[str, ...], object]:
    context, question, *answers = (
        text_of(row, name, where, number)
        for name in ("context", "question", "answer0", "answer1", "answer2", "answer3")
    )
    return f"{context} {question}", tuple(answers), column(row, "label", where, number)
