"""English TyDiQA-GoldP as an intermediate task, a stand-in for SQuAD. (Clark et al. 2020)"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from trainables.data.source import Source
from trainables.tasks.base import HeadName, Role, Split
from trainables.tasks.published_task import PublishedTask
from trainables.tasks.splits import check_split
from trainables.tasks.xtreme.tydiqa import TyDiQA, tydiqa


@dataclass(frozen=True)
class TyDiQAEnglish(PublishedTask):
    """The training and dev sets of the target `tydiqa`; before it, and before targets trained on it, a same-data control."""

    name: ClassVar[str] = "tydiqa_english"
    head: ClassVar[HeadName] = "span_extraction"
    role: ClassVar[Role] = "intermediate"
    metric: ClassVar[str] = "f1_em"
    source: ClassVar[str] = "TyDiQA-GoldP v1.1, English training set; hub: google/xtreme"
    reads: ClassVar[frozenset[str]] = TyDiQA.reads

    def source_of(self, split: Split, language: str) -> Source:
        check_split(self, split, language)
        return tydiqa(split, language)

    def chance(self) -> float:
        return 0.0  # a random span among the thousands in a paragraph
