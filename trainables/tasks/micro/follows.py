"""Target: which alternative follows? A list continues with the same category, a run of months or weekdays with the next one.

No alternative shares a word with the context, and right alternatives are drawn exactly like wrong ones: only the relation of
context and alternative gives the answer.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import ClassVar

from trainables.data.examples import ChoiceExample
from trainables.tasks.base import HeadName, Split
from trainables.tasks.micro import cldr
from trainables.tasks.micro.cldr import Concept, Phrasebook
from trainables.tasks.micro.compose import (
    CalendarRun,
    MicroTask,
    pool,
    shared_signs,
    split_of,
    write_run,
    write_text,
)

CHOICES = 3
CONTEXTS_TRIED = 200
# No dates: any two share a comma and the digits of their century, which a vocabulary of single digits would count.
CATEGORIES: tuple[cldr.Category, ...] = ("territory", "language", "currency", "quantity", "relative")


@dataclass(frozen=True)
class RunItem:
    """A run of two or three names. Alternatives are positions counted from its start; `label` is the next one."""

    run: CalendarRun
    positions: tuple[int, ...]
    label: int


@dataclass(frozen=True)
class ListItem:
    """Concepts of one category; the alternatives have different categories."""

    context: tuple[Concept, ...]
    choices: tuple[Concept, ...]
    label: int


@dataclass(frozen=True)
class MicroFollows(MicroTask):
    name: ClassVar[str] = "micro_follows"
    head: ClassVar[HeadName] = "multiple_choice"
    choices: ClassVar[int] = CHOICES
    metric: ClassVar[str] = "accuracy"

    def draw(self, rng: random.Random, split: Split) -> RunItem | ListItem:
        return self._draw_run(rng, split) if rng.random() < 0.25 else self._draw_list(rng, split)

    def write(self, item: RunItem | ListItem, book: Phrasebook, example_id: str) -> ChoiceExample | None:
        if isinstance(item, RunItem):
            context = write_run(book, item.run)
            choices = [item.run.name(book, position) for position in item.positions]
        else:
            context = write_text(book, item.context)
            choices = [book.write(concept, "long") for concept in item.choices]
        known = tuple(choice for choice in choices if choice is not None)
        if context is None or len(set(known)) < CHOICES:
            return None
        return ChoiceExample(example_id, context, known, item.label)

    def chance(self) -> float:
        return 100.0 / CHOICES

    def _draw_run(self, rng: random.Random, split: Split) -> RunItem:
        while True:
            run = CalendarRun.draw(rng, lengths=(2, 3))
            if split_of(Concept("relative", (run.table, run.start, run.step, run.length)), self.seed) == split:
                break
        cycle = 12 if run.table == "months" else 7
        positions = rng.sample(range(run.length + 1, cycle), CHOICES - 1)
        label = rng.randrange(CHOICES)
        positions.insert(label, run.length)
        return RunItem(run, tuple(positions), label)

    def _draw_list(self, rng: random.Random, split: Split) -> ListItem:
        book = cldr.phrasebook("en")
        assert book is not None
        while True:
            categories = rng.sample(CATEGORIES, CHOICES)
            label = rng.randrange(CHOICES)
            choices = tuple(rng.choice(pool(category, split, self.seed)) for category in categories)
            texts = [book.write(concept, "long") or "" for concept in choices]
            # Alternatives are drawn before the context: a context drawn first makes some categories of right answers rare.
            for _ in range(CONTEXTS_TRIED):
                context = tuple(rng.sample(pool(categories[label], split, self.seed), rng.choice((2, 3))))
                written = write_text(book, context)
                if written and all(text and shared_signs(written, text) == 0 for text in texts):
                    return ListItem(context, choices, label)
