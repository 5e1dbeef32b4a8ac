"""Unlabelled parallel text for pre-training. It names concepts of every split, but no sentence is in any split.

A sentence lists concepts of at least two splits, while labelled examples draw theirs from one split; or it runs through at
least four months or weekdays, while labelled examples run through at most three.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from trainables.tasks.micro import cldr
from trainables.tasks.micro.cldr import Concept, Phrasebook
from trainables.tasks.micro.compose import SPLITS, CalendarRun, pool, split_of, write_list, write_run

RUN_SHARE = 0.1
SAME_CATEGORY_SHARE = 0.7  # masked language modelling learns a name's category only from its neighbours
# Names are learned one by one, quantities and dates as a few patterns. Digits match a translation by themselves, so a corpus
# full of them teaches translation ranking nothing.
CATEGORY_WEIGHTS: dict[cldr.Category, float] = {
    "territory": 3,
    "language": 3,
    "currency": 3,
    "quantity": 1,
    "date": 0.5,
    "relative": 0.5,
}


@dataclass(frozen=True)
class MicroCorpus:
    """Identity of the generated parallel corpus: `sentences` items, each in every language that can write it."""

    languages: tuple[str, ...]
    sentences: int
    seed: int = 0
    revision: str = cldr.DATA_REVISION

    def parallel(self) -> list[dict[str, str]]:
        """The text of each sentence by language, always including English."""
        return list(self._sentences())

    def _sentences(self) -> Iterator[dict[str, str]]:
        rng = random.Random(f"{self.seed}|corpus")
        books = [book for language in self.languages if (book := cldr.phrasebook(language)) is not None]
        written = 0
        while written < self.sentences:
            content = CalendarRun.draw(rng, lengths=(4, 5)) if rng.random() < RUN_SHARE else _mixed(rng, self.seed)
            texts = {book.language: text for book in books if (text := _write(content, book, rng)) is not None}
            if "en" in texts and len(texts) > 1:
                written += 1
                yield texts


def _write(content: CalendarRun | list[Concept], book: Phrasebook, rng: random.Random) -> str | None:
    if isinstance(content, CalendarRun):
        return write_run(book, content)
    listed = write_list(book, [(concept, rng.choice(("long", "short"))) for concept in content])
    return listed[0] if listed else None


def _mixed(rng: random.Random, seed: int) -> list[Concept]:
    """Two or three concepts from at least two splits, mostly of one category, as in lists that people write."""
    names, weights = zip(*CATEGORY_WEIGHTS.items(), strict=True)
    while True:
        size = rng.choice((2, 3))
        same_category = rng.random() < SAME_CATEGORY_SHARE
        categories = rng.choices(names, weights) * size if same_category else rng.choices(names, weights, k=size)
        concepts = [rng.choice(pool(category, rng.choice(SPLITS), seed)) for category in categories]
        if len({split_of(concept, seed) for concept in concepts}) > 1:
            return concepts
