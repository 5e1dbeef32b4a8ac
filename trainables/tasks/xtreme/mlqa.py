"""MLQA: question answering on Wikipedia, with question and paragraph in the same language. (Lewis et al. 2020)"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from trainables.data.formats.squad import spans, squad_source
from trainables.data.source import Source
from trainables.tasks.base import HeadName, Split
from trainables.tasks.english.squad import Squad, squad_train_or_dev
from trainables.tasks.published_task import PublishedTask
from trainables.tasks.splits import check_split


@dataclass(frozen=True)
class Mlqa(PublishedTask):
    """The English dev set is XQuAD's, so that a model chosen on it can be scored on both."""

    name: ClassVar[str] = "mlqa"
    head: ClassVar[HeadName] = "span_extraction"
    metric: ClassVar[str] = "mlqa_f1_em"
    source: ClassVar[str] = "MLQA (Lewis et al. 2020), trained on SQuAD v1.1; hub: google/xtreme, rajpurkar/squad"
    official_languages: ClassVar[tuple[str, ...]] = tuple("ar de en es hi vi zh".split())
    reads: ClassVar[frozenset[str]] = frozenset({"squad_train"})
    scores_on: ClassVar[frozenset[str]] = frozenset({"mlqa"})

    def source_of(self, split: Split, language: str) -> Source:
        check_split(self, split, language)
        if split != "test":
            return squad_train_or_dev(split)
        path = f"mlqa/test-context-{language}-question-{language}.json"
        # facebook/mlqa is a loading script, which the datasets library no longer runs.
        return squad_source(path, "google/xtreme", f"MLQA.{language}.{language}", "test", None, build=spans)

    def trained_as(self) -> PublishedTask:
        return Squad()

    def chance(self) -> float:
        return 0.0  # a random span among the thousands in a paragraph
