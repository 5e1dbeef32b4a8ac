"""XQuAD trained on English TyDiQA-GoldP, if SQuAD is unavailable. Not comparable with published scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from trainables.data.source import Source
from trainables.tasks.base import Split
from trainables.tasks.published_task import PublishedTask
from trainables.tasks.xtreme.tydiqa import TyDiQA, tydiqa
from trainables.tasks.xtreme.xquad import XQuAD


@dataclass(frozen=True)
class XQuADFromTyDiQA(XQuAD):
    name: ClassVar[str] = "xquad_from_tydiqa"
    source: ClassVar[str] = (
        "XQuAD (Artetxe et al. 2020), trained on TyDiQA-GoldP English; hub: google/xquad, google/xtreme"
    )
    reads: ClassVar[frozenset[str]] = frozenset({"tydiqa_en"})

    def trained_as(self) -> PublishedTask:
        return TyDiQA()

    def english(self, split: Split) -> Source:
        return tydiqa(split, "en")
