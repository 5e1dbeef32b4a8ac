"""XQuAD: question answering on SQuAD v1.1's dev paragraphs, translated by professionals. (Artetxe et al. 2020)"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from trainables.data.formats.squad import spans, squad_source
from trainables.data.source import Source
from trainables.tasks.base import HeadName, Split
from trainables.tasks.english.squad import XQUAD_HUB, XQUAD_REVISION, Squad, squad_train_or_dev
from trainables.tasks.published_task import PublishedTask
from trainables.tasks.splits import check_split


@dataclass(frozen=True)
class XQuAD(PublishedTask):
    """1,190 parallel questions in each language. XTREME leaves out Romanian (`ro`)."""

    name: ClassVar[str] = "xquad"
    head: ClassVar[HeadName] = "span_extraction"
    metric: ClassVar[str] = "f1_em"
    source: ClassVar[str] = "XQuAD (Artetxe et al. 2020), trained on SQuAD v1.1; hub: google/xquad, rajpurkar/squad"
    official_languages: ClassVar[tuple[str, ...]] = tuple("ar de el en es hi ro ru th tr vi zh".split())
    reads: ClassVar[frozenset[str]] = frozenset({"squad_train"})
    scores_on: ClassVar[frozenset[str]] = frozenset({"squad_dev"})

    def source_of(self, split: Split, language: str) -> Source:
        check_split(self, split, language)
        if split != "test":
            return self.english(split)
        path, config = f"xquad/xquad.{language}.json", f"xquad.{language}"
        return squad_source(path, XQUAD_HUB, config, "validation", XQUAD_REVISION, build=spans)

    def trained_as(self) -> PublishedTask:
        return Squad()

    def english(self, split: Split) -> Source:
        """The training and dev sets."""
        return squad_train_or_dev(split)

    def chance(self) -> float:
        return 0.0  # a random span among the thousands in a paragraph
