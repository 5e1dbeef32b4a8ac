"""PAN-X: names of people, places and organisations in Wikipedia. (Pan et al. 2017; Rahimi et al. 2019)"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from trainables.data.formats.tagged import NER_LABELS, read_panx, read_tag_rows
from trainables.data.source import Files, Hub, Source
from trainables.tasks.base import HeadName, Split
from trainables.tasks.published_task import PublishedTask
from trainables.tasks.splits import HUB_SPLITS, check_split

XTREME_LANGUAGES = tuple(
    "ar he vi id jv ms tl eu ml ta te af nl en de el bn hi mr ur fa fr it pt es bg ru ja ka ko th sw yo my zh kk tr et fi "
    "hu".split()
)


@dataclass(frozen=True)
class PanX(PublishedTask):
    """WikiANN's balanced splits, which XTREME calls PAN-X; files as in its archives, `panx/<language>/<split>`."""

    name: ClassVar[str] = "panx"
    head: ClassVar[HeadName] = "tagging"
    metric: ClassVar[str] = "span_f1"
    labels: ClassVar[tuple[str, ...]] = NER_LABELS
    official_languages: ClassVar[tuple[str, ...]] = (*XTREME_LANGUAGES, *"qu pl uk az lt pa gu ro".split())
    source: ClassVar[str] = "WikiANN; on the hub unimelb-nlp/wikiann"
    reads: ClassVar[frozenset[str]] = frozenset({"wikiann"})

    def source_of(self, split: Split, language: str) -> Source:
        check_split(self, split, language)
        revision = "f0a3be6dc5564c0cc4150bb660144800a1f539d4"
        read = partial(read_tag_rows, tags="ner_tags", labels=self.labels)
        return Source(
            Files((f"panx/{language}/{split}",), read_panx),
            Hub("unimelb-nlp/wikiann", language, HUB_SPLITS[split], revision, read),
        )

    def chance(self) -> float:
        return 0.0  # span F1 of a guess that never gets both boundaries and the type right
