"""Target without training, in Tatoeba's format: find a sentence's English translation among all English sentences.

Sentences list only names, because digits are the same in every language and would give the answer away.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from trainables.data.examples import BitextExample, Example
from trainables.fields import added_field
from trainables.tasks.base import HeadName, Split
from trainables.tasks.micro import cldr
from trainables.tasks.micro.cldr import Concept, Phrasebook
from trainables.tasks.micro.compose import MicroTask, pool, write_list
from trainables.tasks.micro.paraphrases import english_paraphrases

NAMES: tuple[cldr.Category, ...] = ("territory", "language", "currency")


@dataclass(frozen=True)
class MicroBitext(MicroTask):
    """`english_dev`: where its English dev set comes from ("": it has none)."""

    english_dev: Literal["", "paraphrases"] = added_field("")

    name: ClassVar[str] = "micro_bitext"
    head: ClassVar[HeadName] = "bitext_retrieval"
    metric: ClassVar[str] = "accuracy"
    trained: ClassVar[bool] = False

    @property
    def has_english_dev(self) -> bool:
        return bool(self.english_dev)

    @property
    def languages(self) -> tuple[str, ...]:
        """Every covered language except English, the language of the candidates."""
        return tuple(language for language in super().languages if language != "en")

    def draw(self, rng: random.Random, split: Split) -> tuple[Concept, ...]:
        return tuple(rng.choice(pool(c, split, self.seed)) for c in rng.sample(NAMES, rng.choice((2, 3))))

    def write(self, item: tuple[Concept, ...], book: Phrasebook, example_id: str) -> BitextExample | None:
        english_book = cldr.phrasebook("en")
        assert english_book is not None
        source = write_list(book, [(concept, "long") for concept in item])
        target = write_list(english_book, [(concept, "long") for concept in item])
        return BitextExample(example_id, source[0], target[0]) if source and target else None

    def examples(self, split: Split, language: str) -> Sequence[Example]:
        if self.has_english_dev and (split, language) == ("dev", "en"):
            return english_paraphrases(self.seed, self.dev_size)
        if split != "test":
            raise ValueError(f"{self.name}: no {split} split, because the task is not trained")
        return super().examples(split, language)

    def chance(self) -> float:
        return 100.0 / self.test_size
