"""Target without training: find the pairs of translations in two comparable corpora (BUCC 2018)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from trainables.data.formats.bitext import mining_files
from trainables.data.source import Files, Source
from trainables.tasks.base import HeadName, Split
from trainables.tasks.published_task import PublishedTask


@dataclass(frozen=True)
class Bucc(PublishedTask):
    """As in XTREME, dev is what the shared task published as its sample, and test as its training set.

    A language's set holds its sentences, then the English ones. Not on the hub as published: google/xtreme keeps the
    pairs alone, mteb/BUCC has no dev set.
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
        return 0.0  # a pair drawn blindly is one of thousands of millions
