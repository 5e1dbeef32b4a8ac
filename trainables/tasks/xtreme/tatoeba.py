"""Tatoeba: find a sentence's English translation, without training. (Artetxe and Schwenk 2019)"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from trainables.data.formats.bitext import aligned_files, pair_rows
from trainables.data.source import Files, Hub, Source
from trainables.tasks.base import HeadName, Split
from trainables.tasks.english_dev import UntrainedTask, as_bitext

XTREME_LANGUAGES: dict[str, str] = dict(
    pair.split(":")
    for pair in (
        "af:afr ar:ara bg:bul bn:ben de:deu el:ell es:spa et:est eu:eus fa:pes fi:fin fr:fra he:heb hi:hin hu:hun id:ind "
        "it:ita ja:jpn jv:jav ka:kat kk:kaz ko:kor ml:mal mr:mar nl:nld pt:por ru:rus sw:swh ta:tam te:tel th:tha tl:tgl "
        "tr:tur ur:urd vi:vie zh:cmn"
    ).split()
)
XTREME_R_LANGUAGES = XTREME_LANGUAGES | {"az": "aze", "lt": "lit", "pl": "pol", "ro": "ron", "uk": "ukr"}
# Number of sentences, for languages with fewer than 1,000 (LASER's files at 74bc6ae).
SIZES = {"jv": 205, "ka": 746, "kk": 575, "ml": 687, "sw": 390, "ta": 307, "te": 234, "th": 548}


@dataclass(frozen=True)
class Tatoeba(UntrainedTask):
    """`layer` is the hidden layer that is pooled, counted from 1 (0: the embeddings; None: the encoder's output).

    The layer moves the score by tens of points. Choose it on other data, and state it with every result.
    """

    layer: int | None = None

    name: ClassVar[str] = "tatoeba"
    head: ClassVar[HeadName] = "bitext_retrieval"
    metric: ClassVar[str] = "accuracy"
    source: ClassVar[str] = "Tatoeba of LASER, v1 (Artetxe and Schwenk 2019); hub: mteb/tatoeba-bitext-mining"
    official_languages: ClassVar[tuple[str, ...]] = tuple(sorted(XTREME_R_LANGUAGES))
    scores_on: ClassVar[frozenset[str]] = frozenset({"tatoeba"})

    @property
    def hidden_layer(self) -> int | None:
        return self.layer

    def source_of(self, split: Split, language: str) -> Source:
        if (english := self.english_dev_source(split, language, as_bitext)) is not None:
            return english
        if split != "test" or language not in self.official_languages:
            raise ValueError(f"{self.name}: no {split} set in {language}")
        code = XTREME_R_LANGUAGES[language]
        stem, revision = f"tatoeba/tatoeba.{code}-eng", "69e8f12da6e31d59addadda9a9c8a2e601a0e282"  # as in mteb 2.26
        return Source(
            Files((f"{stem}.{code}", f"{stem}.eng"), aligned_files),
            Hub("mteb/tatoeba-bitext-mining", f"{code}-eng", "test", revision, pair_rows),
        )

    def chance(self) -> float:
        """A random English sentence, averaged over languages."""
        sizes = [min(SIZES.get(language, 1000), self.test_size or 1000) for language in self.languages]
        return 100.0 * sum(1 / size for size in sizes) / len(sizes)
