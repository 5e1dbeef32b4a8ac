"""XNLI: does the premise entail the hypothesis, in 15 languages? (Conneau et al. 2018)"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from trainables.data import revisions
from trainables.data.formats.pairs import NLI_HUB, NLI_LABELS, PairForm
from trainables.data.source import Files, Hub, Source
from trainables.tasks.base import HeadName, Split
from trainables.tasks.english.mnli import Mnli
from trainables.tasks.published_task import PublishedTask
from trainables.tasks.splits import HUB_SPLITS, check_split

XNLI_TSV = PairForm("premise", "hypothesis", "label", NLI_LABELS)


@dataclass(frozen=True)
class Xnli(PublishedTask):
    """Trained on MultiNLI. Test sets are parallel, and read as XTREME's scripts write them, with labels."""

    name: ClassVar[str] = "xnli"
    head: ClassVar[HeadName] = "pair_classification"
    metric: ClassVar[str] = "accuracy"
    labels: ClassVar[tuple[str, ...]] = NLI_LABELS
    parallel: ClassVar[bool] = True
    official_languages: ClassVar[tuple[str, ...]] = tuple("ar bg de el en es fr hi ru sw th tr ur vi zh".split())
    source: ClassVar[str] = "XNLI 1.0, trained on MultiNLI 1.0; on the hub facebook/xnli and nyu-mll/glue"
    reads: ClassVar[frozenset[str]] = frozenset({"mnli"})
    scores_on: ClassVar[frozenset[str]] = frozenset({"xnli"})

    def source_of(self, split: Split, language: str) -> Source:
        check_split(self, split, language)
        if split == "train":
            return Mnli().source_of(split, language)
        return Source(
            Files((f"xnli/{split}-{language}.tsv",), XNLI_TSV.headless_tsv),
            Hub("facebook/xnli", language, HUB_SPLITS[split], revisions.XNLI, NLI_HUB),
        )

    def trained_as(self) -> PublishedTask:
        return Mnli()

    def chance(self) -> float:
        return 100.0 / len(self.labels)
