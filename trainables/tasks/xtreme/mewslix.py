"""Mewsli-X: for a mention in a news article, find its entity among a million descriptions. (Ruder et al. 2021)"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from trainables.data.formats.mewsli import entities, mention_pairs, mentions
from trainables.data.source import Files, Source
from trainables.tasks.base import HeadName, Split
from trainables.tasks.published_task import PublishedTask

ENTITIES = "entities"
CANDIDATES = 1_003_893  # of mewsli-x_20220518_6


@dataclass(frozen=True)
class MewsliX(PublishedTask):
    """English training and dev pairs come from Wikipedia, queries from WikiNews; no test entity is trained on.

    It is read from the files that google-research's `get-mewsli-x.sh` writes. On the hub, izhx/mewsli-x packs them into
    `raw.tar.gz`; its tables have another format.
    """

    name: ClassVar[str] = "mewslix"
    head: ClassVar[HeadName] = "dual_encoder"
    metric: ClassVar[str] = "map_at_20"
    source: ClassVar[str] = "Mewsli-X 20220518 (Ruder et al. 2021)"
    official_languages: ClassVar[tuple[str, ...]] = tuple("ar de en es fa ja pl ro ta tr uk".split())
    reads: ClassVar[frozenset[str]] = frozenset({"mewsli"})
    pools: ClassVar[tuple[str, ...]] = (ENTITIES,)
    group: ClassVar[int] = 64
    query_length: ClassVar[int | None] = 64
    answer_length: ClassVar[int | None] = 64

    def source_of(self, split: Split, language: str) -> Source:
        if split != "test" and language == "en":
            return Source(Files((f"mewsli_x/wikipedia_pairs-{split}.jsonl",), mention_pairs), None)
        if split == "test" and language == ENTITIES:
            return Source(Files(("mewsli_x/candidate_set_entities.jsonl",), entities), None)
        if split == "test" and language in self.official_languages:
            read = partial(mentions, language=language)
            return Source(Files(("mewsli_x/wikinews_mentions-test.jsonl",), read), None)
        raise ValueError(f"{self.name}: no {split} set in {language}")

    def chance(self) -> float:
        """The right entity at a random rank counts 1/rank if it is among the first 20."""
        return 100.0 * sum(1 / rank for rank in range(1, 21)) / CANDIDATES
