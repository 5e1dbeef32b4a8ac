"""BUCC 2018: find the translation pairs in two comparable corpora, without training. (Zweigenbaum et al. 2018)"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from trainables.data.formats.bitext import mining_files
from trainables.data.source import Files, Source
from trainables.tasks.base import HeadName, Split
from trainables.tasks.english_dev import UntrainedTask, as_mining


@dataclass(frozen=True)
class Bucc(UntrainedTask):
    """As in XTREME, dev is the sample set of the shared task, and test its training set.

    A language's set has its sentences, then the English ones. It is read only from files: on the hub, google/xtreme has only
    the pairs, and mteb/BUCC has no dev set. An English dev set (`english_dev`) is scored at its own best
    threshold.
    """

    name: ClassVar[str] = "bucc"
    head: ClassVar[HeadName] = "bitext_mining"
    metric: ClassVar[str] = "mining_f1"
    source: ClassVar[str] = "BUCC 2018 (Zweigenbaum et al. 2018)"
    calibrated: ClassVar[bool] = True
    official_languages: ClassVar[tuple[str, ...]] = ("de", "fr", "ru", "zh")
    scores_on: ClassVar[frozenset[str]] = frozenset({"bucc"})

    def source_of(self, split: Split, language: str) -> Source:
        if (english := self.english_dev_source(split, language, as_mining)) is not None:
            return english
        if split == "train" or language not in self.official_languages:
            raise ValueError(f"{self.name}: no {split} set in {language}")
        stem = f"bucc18/{language}-en.{split}"
        return Source(Files((f"{stem}.{language}", f"{stem}.en", f"{stem}.gold"), mining_files), None)

    def chance(self) -> float:
        return 0.0  # a random pair is one of billions
