"""SQuAD v2.0: find the answer in a paragraph, or recognise that it is not there. (Rajpurkar et al. 2018)"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from trainables.data import revisions
from trainables.data.formats.squad import spans, squad_source
from trainables.data.source import Source
from trainables.tasks.base import Split
from trainables.tasks.english.squad import Squad, dev_without_xquad
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
        dataset, config, build = "rajpurkar/squad_v2", "squad_v2", partial(spans, unanswerable=True)
        if split == "train":
            return squad_source("squad/train-v2.0.json", dataset, config, "train", revisions.SQUAD2, build=build)
        return dev_without_xquad("squad/dev-v2.0.json", dataset, config, revision=revisions.SQUAD2, build=build)

    def chance(self) -> float:
        return 50.0  # always "no answer": about half of the dev questions have none
