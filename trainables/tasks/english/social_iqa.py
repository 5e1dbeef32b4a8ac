"""Social IQa: questions on what people want, feel and do. Also what XCOPA is trained on first. (Sap et al. 2019)"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from trainables.data.examples import Read
from trainables.data.fields import text_of
from trainables.data.formats.choices import labelled_json_lines, read_choices
from trainables.data.source import Files, Hub, Row, Rows, Source
from trainables.data.text import column
from trainables.tasks.base import HeadName, Role, Split
from trainables.tasks.published_task import PublishedTask
from trainables.tasks.splits import HUB_SPLITS, check_split


@dataclass(frozen=True)
class SocialIQa(PublishedTask):
    """Context and question stand together before each answer, as in XTREME-R and jiant."""

    name: ClassVar[str] = "siqa"
    head: ClassVar[HeadName] = "multiple_choice"
    choices: ClassVar[int] = 3
    role: ClassVar[Role] = "intermediate"
    metric: ClassVar[str] = "accuracy"
    source: ClassVar[str] = (
        "Social IQa, socialiqa-train-dev.zip; on the hub allenai/social_i_qa, its conversion to parquet"
    )
    reads: ClassVar[frozenset[str]] = frozenset({"siqa"})

    def source_of(self, split: Split, language: str) -> Source:
        check_split(self, split, language)
        revision = "537a2ec8ec565adc0b70b70752893e59e024df26"  # of refs/convert/parquet: main holds a loading script
        return Source(
            Files((f"siqa/{split}.jsonl", f"siqa/{split}-labels.lst"), read_social_files),
            Hub("allenai/social_i_qa", None, HUB_SPLITS[split], revision, read_social),
        )

    def chance(self) -> float:
        return 100.0 / 3


def read_social_files(texts: Path, labels: Path) -> Read:
    return read_social(labelled_json_lines(texts, labels), texts)


def read_social(rows: Rows, where: Path | str) -> Read:
    return read_choices(rows, where, parts=_parts, answers=("1", "2", "3"))


def _parts(row: Row, where: Path | str, number: int) -> tuple[str, tuple[str, ...], object]:
    context, question, *answers = (
        text_of(row, name, where, number) for name in ("context", "question", "answerA", "answerB", "answerC")
    )
    return f"{context} {question}", tuple(answers), column(row, "label", where, number)
