"""Target: find the part of a list with the category of the question ("Japanese" asks for the language in the list)."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import ClassVar

from trainables.data.examples import SpanExample
from trainables.tasks.base import HeadName, Split
from trainables.tasks.micro import cldr
from trainables.tasks.micro.cldr import Concept, Phrasebook
from trainables.tasks.micro.compose import MicroTask, other_than, pool, write_list
from trainables.tasks.micro.tagging import UNSPACED


@dataclass(frozen=True)
class MicroSpan(MicroTask):
    name: ClassVar[str] = "micro_span"
    head: ClassVar[HeadName] = "span_extraction"
    metric: ClassVar[str] = "f1_em"

    def draw(self, rng: random.Random, split: Split) -> tuple[Concept, ...]:
        """The question, then the list; the answer is the part with the question's category."""
        parts = [rng.choice(pool(c, split, self.seed)) for c in rng.sample(cldr.CATEGORIES, rng.choice((3, 4)))]
        answer = rng.choice(parts)
        question = other_than(rng, pool(answer.category, split, self.seed), answer)
        return (question, *parts)

    def write(self, item: tuple[Concept, ...], book: Phrasebook, example_id: str) -> SpanExample | None:
        question, parts = item[0], item[1:]
        asked, listed = book.write(question, "long"), write_list(book, [(concept, "long") for concept in parts])
        if asked is None or listed is None:
            return None
        context, located = listed
        offset, answer = next(
            part for concept, part in zip(parts, located, strict=True) if concept.category == question.category
        )
        answers = [(answer, offset)]
        # Arabic and Hebrew attach "and" to the next word: a model with word-level tokens cannot separate them.
        if book.language not in UNSPACED and (glued := len(context[:offset].split(" ")[-1])):
            answers.append((context[offset - glued : offset + len(answer)], offset - glued))
        return SpanExample(example_id, asked, context, tuple(answers))

    def chance(self) -> float:
        return 100.0 * 0.5 * (1 / 3 + 1 / 4)  # a random part of three or four, counted in F1 and exact match
