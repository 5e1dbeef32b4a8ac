"""BUCC 2018: find the translation pairs in two comparable corpora, without training. (Zweigenbaum et al. 2018)"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from trainables.data.formats.bitext import mining_files
from trainables.data.source import Files, Source
from trainables.tasks.base import HeadName, Split
from trainables.tasks.published_task import PublishedTask


@dataclass(frozen=True)
class Bucc(PublishedTask):
    """As in XTREME, dev is the sample set of the shared task, and test its training set.

    A language's set has its sentences, then the English ones. It is read only from files: on the hub, google/xtreme has only
    the pairs, and mteb/BUCC has no dev set.
    """

    name: ClassVar[str] = "bucc"
    head: ClassVar[HeadName] = "bitext_mining"
    metric: ClassVar[str] = "mining_f1"
    source: ClassVar[str] = "BUCC 2018 (Zweigenbaum et al. 2018)"
    trained: ClassVar[bool] = False
    calibrated: ClassVar[bool] = True
    official_languages: ClassVar[tuple[str, ...]] = ("de", "fr", "ru", "zh")
    scores_on: ClassVar[frozenset[str]] = frozenset({"bucc"})

    def source_of(self, split: Split, language: str) -> Source:
        if split == "train" or language not in self.official_languages:
            raise ValueError(f"{self.name}: no {split} set in {language}")
        stem = f"bucc18/{language}-en.{split}"
        return Source(Files((f"{stem}.{language}", f"{stem}.en", f"{stem}.gold"), mining_files), None)

    def chance(self) -> float:
        return 0.0  # a random pair is one of billions
