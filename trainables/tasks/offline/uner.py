"""Universal NER, a free stand-in for WikiANN: names tagged by hand on UD treebanks. (Mayhew et al. 2024)"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

from trainables.data.examples import Example, ReadResult
from trainables.data.formats.tagged import NER_LABELS, read_iob2
from trainables.data.held_out import Side, held_out
from trainables.data.source import Files, Source
from trainables.tasks.base import HeadName, Split
from trainables.tasks.published_task import PublishedTask
from trainables.tasks.splits import check_split

ENGLISH_DEV = "uner/UNER_English-EWT/en_ewt-ud-dev.iob2"
TESTS = {
    "de": ("uner/UNER_German-PUD/de_pud-ud-test.iob2",),
    "en": ("uner/UNER_English-EWT/en_ewt-ud-test.iob2", "uner/UNER_English-PUD/en_pud-ud-test.iob2"),
    "zh": ("uner/UNER_Chinese-GSDSIMP/zh_gsdsimp-ud-test.iob2",),
}
DEV_SIZE = 300


@dataclass(frozen=True)
class UnerDevAsTrain(PublishedTask):
    """Trained on English-EWT's dev set without the 300 sentences held out as dev; documents stay on one side."""

    name: ClassVar[str] = "uner_dev_as_train"
    head: ClassVar[HeadName] = "tagging"
    metric: ClassVar[str] = "span_f1"
    labels: ClassVar[tuple[str, ...]] = NER_LABELS
    official_languages: ClassVar[tuple[str, ...]] = tuple(TESTS)
    source: ClassVar[str] = "Universal NER: English-EWT dev and test, English-PUD, German-PUD, Chinese-GSDSIMP test"
    reads: ClassVar[frozenset[str]] = frozenset({"uner_ewt"})

    def source_of(self, split: Split, language: str) -> Source:
        check_split(self, split, language)
        if split == "test":
            return Source(Files(TESTS[language], read_iob2), None)
        return Source(Files((ENGLISH_DEV,), partial(_side, "train" if split == "train" else "dev")), None)

    def chance(self) -> float:
        return 0.0  # span F1 of a guess that never gets both boundaries and the type right


def _side(side: Side, path: Path) -> ReadResult:
    return held_out(read_iob2(path), side, size=DEV_SIZE, keys=_document)


def _document(example: Example) -> tuple[str]:
    """EWT's ids are the document's name and a sentence number: "answers-2007...-0001"."""
    return (example.id.rpartition("-")[0],)
