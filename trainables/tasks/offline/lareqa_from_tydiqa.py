"""LAReQA trained on English TyDiQA-GoldP, if SQuAD is unavailable. Not comparable with published scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from trainables.data.formats.squad import sentence_pairs
from trainables.data.source import Source
from trainables.tasks.base import Split
from trainables.tasks.xtreme.lareqa import Lareqa
from trainables.tasks.xtreme.tydiqa import tydiqa


@dataclass(frozen=True)
class LareqaFromTyDiQA(Lareqa):
    name: ClassVar[str] = "lareqa_from_tydiqa"
    source: ClassVar[str] = "LAReQA XQuAD-R (Roy et al. 2020), trained on TyDiQA-GoldP English"
    reads: ClassVar[frozenset[str]] = frozenset({"tydiqa_en"})

    def english(self, split: Split) -> Source:
        return tydiqa(split, "en", build=sentence_pairs)
