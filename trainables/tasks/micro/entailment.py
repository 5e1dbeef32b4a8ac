"""Target: does a quantity, date or time, or a list of two, entail one in another form?

"3 kilometers and 5 hours" entails "5 hr" but not "5 wk". Both hypotheses of an item share the same number of words with the
premise, so that neither word counts nor overlap give the answer away.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from trainables.data.examples import PairExample
from trainables.tasks.base import HeadName, Split
from trainables.tasks.micro import cldr
from trainables.tasks.micro.cldr import Concept, Phrasebook
from trainables.tasks.micro.compose import MicroTask, other_than, pool, shared_words, split_of, write_text

MEASURES: tuple[cldr.Category, ...] = ("quantity", "date", "relative")
# Twelve common units: with all of CLDR's units, 1,500 examples show each pair too rarely to learn from.
COMMON_UNITS = tuple(
    "duration-day duration-hour duration-minute duration-month duration-second duration-week duration-year "
    "length-centimeter length-kilometer length-meter mass-kilogram volume-liter".split()
)


@dataclass(frozen=True)
class Item:
    premise: tuple[Concept, ...]
    entailed: Concept
    contradicted: Concept
    label: int


@dataclass(frozen=True)
class MicroEntailment(MicroTask):
    name: ClassVar[str] = "micro_entailment"
    head: ClassVar[HeadName] = "pair_classification"
    metric: ClassVar[str] = "accuracy"
    labels: ClassVar[tuple[str, ...]] = ("not_entailed", "entailed")

    def draw(self, rng: random.Random, split: Split) -> Item:
        while True:
            pair = measure_pair(rng, split, self.seed)
            facts = [pair[0], *(measure(rng, split, self.seed) for _ in range(rng.randrange(2)))]
            rng.shuffle(facts)
            if len(set(facts)) < len(facts) or pair[1] in facts:
                continue
            swapped = [pair[1] if fact == pair[0] else fact for fact in facts]
            if without_cue(facts, pair) and without_cue(swapped, pair):
                return Item(tuple(facts), *pair, rng.randrange(2))

    def write(self, item: Item, book: Phrasebook, example_id: str) -> PairExample | None:
        premise = write_text(book, item.premise)
        hypothesis = book.write(item.entailed if item.label else item.contradicted, "short")
        return PairExample(example_id, premise, hypothesis, item.label) if premise and hypothesis else None

    def chance(self) -> float:
        return 50.0


def without_cue(premise: Sequence[Concept], pair: tuple[Concept, Concept]) -> bool:
    """Whether both concepts of the pair, in their short forms, share the same number of words with the premise in English."""
    book = cldr.phrasebook("en")
    assert book is not None
    text, hypotheses = write_text(book, premise), [book.write(concept, "short") for concept in pair]
    return text is not None and len({shared_words(text, hypothesis) for hypothesis in hypotheses if hypothesis}) == 1


def measure_pair(rng: random.Random, split: Split, seed: int) -> tuple[Concept, Concept]:
    """A measure and an altered measure of the split. The swapped pair is equally likely, so neither is recognisable."""
    while True:
        concept = measure(rng, split, seed)
        other = altered(rng, concept)
        known = other.category == "date" or other in pool(other.category, split, seed)
        if known and split_of(other, seed) == split:
            return concept, other


def measure(rng: random.Random, split: Split, seed: int) -> Concept:
    """A quantity in a common unit, a date or a relative time of the split."""
    while True:
        concept = rng.choice(pool(rng.choice(MEASURES), split, seed))
        if concept.category == "quantity" and concept.key[0] not in COMMON_UNITS:
            continue
        if concept.category == "date" and int(concept.key[2]) > 28:  # not in every month
            continue
        return concept


def altered(rng: random.Random, concept: Concept) -> Concept:
    """The same number with another unit, month or field: the digits match, the meaning does not."""
    match concept.category:
        case "quantity":
            unit = other_than(rng, COMMON_UNITS, concept.key[0])
            return Concept("quantity", (str(unit), concept.key[1]))
        case "date":
            year, month, day = concept.key
            return Concept("date", (year, other_than(rng, range(1, 13), int(month)), day))
        case "relative":
            return Concept("relative", (str(other_than(rng, cldr.FIELDS, concept.key[0])), concept.key[1]))
        case _:
            raise ValueError(f"no other unit for a {concept.category}")
