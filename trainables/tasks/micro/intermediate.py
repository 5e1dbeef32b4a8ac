"""MicroXTREME's English intermediate tasks: four types of question that the targets do not ask."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import ClassVar

from trainables.data.examples import ChoiceExample, PairExample, SpanExample
from trainables.tasks.base import HeadName, Role, Split
from trainables.tasks.micro import cldr
from trainables.tasks.micro.cldr import Concept, Phrasebook
from trainables.tasks.micro.compose import MicroTask, pool, write_list, write_text
from trainables.tasks.micro.entailment import measure_pair, without_cue


@dataclass(frozen=True)
class MicroParaphrase(MicroTask):
    """Do two texts mean the same? ("March 4, 2021" and "Mar 4, 2021"; "5 hours" and "5 h")"""

    name: ClassVar[str] = "micro_paraphrase"
    head: ClassVar[HeadName] = "pair_classification"
    role: ClassVar[Role] = "intermediate"
    metric: ClassVar[str] = "accuracy"
    labels: ClassVar[tuple[str, ...]] = ("different", "same")

    def draw(self, rng: random.Random, split: Split) -> tuple[Concept, Concept, int]:
        while True:
            concept, other = pair = measure_pair(rng, split, self.seed)
            if without_cue([concept], pair) and without_cue([other], pair):
                label = rng.randrange(2)
                return concept, other, label

    def write(self, item: tuple[Concept, Concept, int], book: Phrasebook, example_id: str) -> PairExample | None:
        first, second = book.write(item[0] if item[2] else item[1], "long"), book.write(item[0], "short")
        return PairExample(example_id, first, second, item[2]) if first and second else None

    def chance(self) -> float:
        return 50.0


@dataclass(frozen=True)
class MicroTopic(MicroTask):
    """Which of six topics is a phrase about?"""

    name: ClassVar[str] = "micro_topic"
    head: ClassVar[HeadName] = "pair_classification"
    role: ClassVar[Role] = "intermediate"
    metric: ClassVar[str] = "accuracy"
    labels: ClassVar[tuple[str, ...]] = cldr.CATEGORIES

    def draw(self, rng: random.Random, split: Split) -> tuple[Concept, ...]:
        """One concept, or two of the same category."""
        concepts = pool(rng.choice(cldr.CATEGORIES), split, self.seed)
        return tuple(rng.sample(concepts, rng.choice((1, 2))))

    def write(self, item: tuple[Concept, ...], book: Phrasebook, example_id: str) -> PairExample | None:
        text = write_text(book, item)
        return PairExample(example_id, text, None, self.labels.index(item[0].category)) if text else None

    def chance(self) -> float:
        return 100.0 / len(self.labels)


@dataclass(frozen=True)
class MicroOddOneOut(MicroTask):
    """Which of three parts does not belong with the others?"""

    name: ClassVar[str] = "micro_odd_one_out"
    head: ClassVar[HeadName] = "multiple_choice"
    choices: ClassVar[int] = 3
    role: ClassVar[Role] = "intermediate"
    metric: ClassVar[str] = "accuracy"

    def draw(self, rng: random.Random, split: Split) -> tuple[tuple[Concept, ...], int]:
        common, odd = rng.sample(cldr.CATEGORIES, 2)
        choices = rng.sample(pool(common, split, self.seed), 2)
        label = rng.randrange(3)
        choices.insert(label, rng.choice(pool(odd, split, self.seed)))
        return tuple(choices), label

    def write(self, item: tuple[tuple[Concept, ...], int], book: Phrasebook, example_id: str) -> ChoiceExample | None:
        listed = write_list(book, [(concept, "long") for concept in item[0]])
        if listed is None:
            return None
        return ChoiceExample(example_id, listed[0], tuple(text for _, text in listed[1]), item[1])

    def chance(self) -> float:
        return 100.0 / 3


@dataclass(frozen=True)
class MicroOrdering(MicroTask):
    """Which part of a list is the largest quantity of its unit, or the latest date? The answer is a span."""

    name: ClassVar[str] = "micro_ordering"
    head: ClassVar[HeadName] = "span_extraction"
    role: ClassVar[Role] = "intermediate"
    metric: ClassVar[str] = "f1_em"

    def draw(self, rng: random.Random, split: Split) -> tuple[Concept, ...]:
        """The question, a concept of the same unit or a date, then the list."""
        concepts = pool(rng.choice(("quantity", "date")), split, self.seed)
        question = rng.choice(concepts)
        same = [c for c in concepts if c.category == "date" or c.key[0] == question.key[0]]
        parts = rng.sample(same, 3) if len(same) > 3 else list(same)
        return (question, *parts)

    def write(self, item: tuple[Concept, ...], book: Phrasebook, example_id: str) -> SpanExample | None:
        question, parts = item[0], item[1:]
        listed, asked = write_list(book, [(concept, "long") for concept in parts]), book.write(question, "short")
        if listed is None or asked is None:
            return None
        largest = max(range(len(parts)), key=lambda index: parts[index].key)
        offset, text = listed[1][largest]
        return SpanExample(example_id, asked, listed[0], ((text, offset),))

    def chance(self) -> float:
        return 100.0 / 3
