"""CCG supertagging on the user's licensed copy of CCGbank (LDC2005T13; Hockenmaier and Steedman 2007)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

from trainables.data.examples import ReadResult, TaggingExample
from trainables.data.formats.ccgbank import derivations
from trainables.data.source import DataError, Files, Source, data_root
from trainables.tasks.base import HeadName, Role, Split
from trainables.tasks.published_task import PublishedTask
from trainables.tasks.splits import check_split

FOLDER = "ccgbank/data/AUTO"
SECTIONS = {"train": range(2, 22), "dev": range(1)}
UNSEEN = "B-(unseen)"


@dataclass(frozen=True)
class Ccg(PublishedTask):
    """Sections 02 to 21 train, section 00 is dev.

    Tags are written "B-category": each word is one span, so that span F1 is the accuracy over words. The labels are the
    categories of the training sections, about 1,300. A category that only dev has gets the label UNSEEN and counts as wrong.
    """

    name: ClassVar[str] = "ccg"
    head: ClassVar[HeadName] = "tagging"
    role: ClassVar[Role] = "intermediate"
    metric: ClassVar[str] = "span_f1"
    source: ClassVar[str] = "CCGbank 1.1 (LDC2005T13), files of the user"
    reads: ClassVar[frozenset[str]] = frozenset({"ccgbank"})

    @property
    def labels(self) -> tuple[str, ...]:  # type: ignore[override]  # only the licensed files list them
        root = data_root()
        if root is None:
            raise DataError(self.name, None, "its labels are in CCGbank's files; give them with --data-root")
        return (*_categories(tuple(root / folder for folder in _folders("train"))), UNSEEN)

    def source_of(self, split: Split, language: str) -> Source:
        check_split(self, split, language)
        return Source(Files(_folders(split), self._read), None)

    def _read(self, *folders: Path) -> ReadResult:
        known = set(self.labels)
        return ReadResult(
            tuple(
                TaggingExample(
                    name,
                    tuple(word for word, _ in leaves),
                    tuple(tag if (tag := f"B-{category}") in known else UNSEEN for _, category in leaves),
                )
                for name, leaves in derivations(*folders)
            )
        )

    def chance(self) -> float:
        return 100.0 / len(self.labels)


def _folders(split: Split) -> tuple[str, ...]:
    return tuple(f"{FOLDER}/{section:02}" for section in SECTIONS[split])


@lru_cache(maxsize=2)
def _categories(folders: tuple[Path, ...]) -> tuple[str, ...]:
    return tuple(sorted({f"B-{category}" for _, leaves in derivations(*folders) for _, category in leaves}))
