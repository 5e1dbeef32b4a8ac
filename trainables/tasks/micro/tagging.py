"""Target: IOB2 tags for territories, languages, currencies, quantities, dates and relative times in a list."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from typing import ClassVar

from trainables.data.examples import TaggingExample
from trainables.tasks.base import HeadName, Split
from trainables.tasks.micro import cldr
from trainables.tasks.micro.cldr import Concept, Phrasebook
from trainables.tasks.micro.compose import MicroTask, pool, write_list

# Languages written without spaces: a word is a character, as in WikiANN's files; digits and Latin letters stay together.
UNSPACED = ("ja", "my", "th", "zh")
_WORD = re.compile(r"\S+")
_CHARACTER = re.compile(r"[0-9]+|[A-Za-z]+|\S[\u0e31\u0e34-\u0e3a\u0e47-\u0e4e\u102b-\u103e\u1056-\u1060]*")


@dataclass(frozen=True)
class MicroTagging(MicroTask):
    name: ClassVar[str] = "micro_tagging"
    head: ClassVar[HeadName] = "tagging"
    metric: ClassVar[str] = "span_f1"
    labels: ClassVar[tuple[str, ...]] = ("O", *(f"{prefix}-{c}" for c in cldr.CATEGORIES for prefix in "BI"))

    def draw(self, rng: random.Random, split: Split) -> tuple[Concept, ...]:
        categories = rng.sample(cldr.CATEGORIES, rng.choice((2, 3, 4)))
        return tuple(rng.choice(pool(category, split, self.seed)) for category in categories)

    def write(self, item: tuple[Concept, ...], book: Phrasebook, example_id: str) -> TaggingExample | None:
        listed = write_list(book, [(concept, "long") for concept in item])
        if listed is None:
            return None
        text, parts = listed
        words: list[str] = []
        tags: list[str] = []
        position = 0
        for concept, (offset, part) in zip(item, parts, strict=True):
            glue = split_words(text[position:offset], book.language)
            inside = split_words(part, book.language)
            words += glue + inside
            tags += ["O"] * len(glue) + [f"B-{concept.category}"] + [f"I-{concept.category}"] * (len(inside) - 1)
            position = offset + len(part)
        tail = split_words(text[position:], book.language)
        return TaggingExample(example_id, tuple(words + tail), tuple(tags + ["O"] * len(tail)))

    def chance(self) -> float:
        return 0.0  # span F1 of a guess that never gets both boundaries and the type right


def split_words(text: str, language: str) -> list[str]:
    """Words split at white space; in languages written without spaces, characters with their combining marks."""
    return (_CHARACTER if language in UNSPACED else _WORD).findall(text)
