"""Target: does a text mention something of the same kind as another?

"Kenya and 5 hours" mentions a place, as "Japan" is one, but no language, as "German" is one. Like the list, the second text is
drawn from the concepts of the split, so it is never in the first: only its kind can be found there.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import ClassVar

from trainables.data.examples import PairExample
from trainables.tasks.base import HeadName, Split
from trainables.tasks.micro import cldr
from trainables.tasks.micro.cldr import Concept, Phrasebook
from trainables.tasks.micro.compose import MicroTask, pool, shared_signs, write_text
from trainables.tasks.micro.follows import CATEGORIES, CONTEXTS_TRIED

PARTS = 2


@dataclass(frozen=True)
class Item:
    text: tuple[Concept, ...]
    mentioned: Concept
    absent: Concept
    label: int


@dataclass(frozen=True)
class MicroMention(MicroTask):
    """A text of two parts, of one kind or of two. Neither word counts nor shared words or digits tell the label."""

    name: ClassVar[str] = "micro_mention"
    head: ClassVar[HeadName] = "pair_classification"
    metric: ClassVar[str] = "accuracy"
    labels: ClassVar[tuple[str, ...]] = ("absent", "mentioned")

    def draw(self, rng: random.Random, split: Split) -> Item:
        book = cldr.phrasebook("en")
        assert book is not None
        while True:
            categories = rng.sample(CATEGORIES, 3)
            kinds = [rng.choice(categories[:2]) for _ in range(PARTS)]
            mentioned, absent = (rng.choice(pool(c, split, self.seed)) for c in (rng.choice(kinds), categories[2]))
            seconds = [book.write(concept, "long") or "" for concept in (mentioned, absent)]
            # The second text is drawn first: a list drawn first makes some categories of second texts rare.
            for _ in range(CONTEXTS_TRIED):
                concepts = tuple(rng.choice(pool(kind, split, self.seed)) for kind in kinds)
                written = write_text(book, concepts)
                if written and len(set(concepts)) == PARTS and not any(shared_signs(written, text) for text in seconds):
                    return Item(concepts, mentioned, absent, rng.randrange(2))

    def write(self, item: Item, book: Phrasebook, example_id: str) -> PairExample | None:
        text = write_text(book, item.text)
        second = book.write(item.mentioned if item.label else item.absent, "long")
        return PairExample(example_id, text, second, item.label) if text and second else None

    def chance(self) -> float:
        return 50.0
