"""Intermediate: find the answer in a paragraph, or say that it is not there (SQuAD v2.0)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from trainables.data import revisions
from trainables.data.formats.squad import spans, squad_form
from trainables.data.source import Source
from trainables.tasks.base import Split
from trainables.tasks.english.squad import Squad, without_xquad
from trainables.tasks.splits import check_split


@dataclass(frozen=True)
class Squad2(Squad):
    """A question without answers is unanswerable: the right prediction is ""."""

    name: ClassVar[str] = "squad2"
    metric: ClassVar[str] = "squad2_f1_em"
    source: ClassVar[str] = "SQuAD v2.0 (Rajpurkar et al. 2018); hub: rajpurkar/squad_v2"
    unanswerable: ClassVar[bool] = True

    def source_of(self, split: Split, language: str) -> Source:
        check_split(self, split, language)
        make = partial(spans, unanswerable=True)
        if split == "train":
            return squad_form(
                "squad/train-v2.0.json", "rajpurkar/squad_v2", "squad_v2", "train", revisions.SQUAD2, make=make
            )
        return without_xquad("squad/dev-v2.0.json", ("rajpurkar/squad_v2", "squad_v2", revisions.SQUAD2), make)

    def chance(self) -> float:
        return 50.0  # "no answer" every time: about half of the dev questions have none
