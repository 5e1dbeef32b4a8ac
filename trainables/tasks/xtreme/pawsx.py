"""PAWS-X: do two sentences with the same words mean the same? (Yang et al. 2019)"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from trainables.data.formats.pairs import PairForm
from trainables.data.source import Files, Hub, Source
from trainables.tasks.base import HeadName, Split
from trainables.tasks.published_task import PublishedTask
from trainables.tasks.splits import HUB_SPLITS, check_split

FILES = {"train": "train", "dev": "dev_2k", "test": "test_2k"}
PAWS = PairForm("sentence1", "sentence2", "label", ("0", "1"))


@dataclass(frozen=True)
class PawsX(PublishedTask):
    name: ClassVar[str] = "pawsx"
    head: ClassVar[HeadName] = "pair_classification"
    metric: ClassVar[str] = "accuracy"
    labels: ClassVar[tuple[str, ...]] = ("different", "same")
    parallel: ClassVar[bool] = True
    official_languages: ClassVar[tuple[str, ...]] = tuple("de en es fr ja ko zh".split())
    source: ClassVar[str] = "PAWS-X, x-final.tar.gz; on the hub google-research-datasets/paws-x"
    reads: ClassVar[frozenset[str]] = frozenset({"pawsx"})

    def source_of(self, split: Split, language: str) -> Source:
        check_split(self, split, language)
        revision = "4cd8187c404bda33cb1f62b49b001115862acf37"
        return Source(
            Files((f"pawsx/{language}/{FILES[split]}.tsv",), PAWS.tsv),
            Hub("google-research-datasets/paws-x", language, HUB_SPLITS[split], revision, PAWS),
        )

    def chance(self) -> float:
        return 50.0
