"""Social IQa: questions on what people want, feel and do. XCOPA is trained on it first. (Sap et al. 2019)"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from trainables.data.examples import ReadResult
from trainables.data.formats.choices import Parts, labelled_json_lines, read_choices
from trainables.data.record import Record
from trainables.data.source import Files, Hub, Location, Rows, Source
from trainables.tasks.base import HeadName, Role, Split
from trainables.tasks.published_task import PublishedTask
from trainables.tasks.splits import HUB_SPLITS, check_split


@dataclass(frozen=True)
class SocialIQa(PublishedTask):
    """Context and question together precede each answer, as in XTREME-R and jiant."""

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


def read_social_files(texts: Path, labels: Path) -> ReadResult:
    return read_social(labelled_json_lines(texts, labels), texts)


def read_social(rows: Rows, where: Location) -> ReadResult:
    return read_choices(rows, where, parts=_parts, answers=("1", "2", "3"))


def _parts(row: Record) -> Parts:
    answers = tuple(row.text(f"answer{letter}") for letter in "ABC")
    return f"{row.text('context')} {row.text('question')}", answers, row.value("label")
