"""Queries as text: how long it takes to tokenise one, and to answer one from its text."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerFast

from trainables.benchmark.scenarios.lengths import Query
from trainables.benchmark.scenarios.percentiles import percentile
from trainables.benchmark.scenarios.warmup import Clock
from trainables.data.examples import (
    BitextExample,
    ChoiceExample,
    Example,
    PairExample,
    RetrievalPair,
    SpanExample,
    TaggingExample,
)
from trainables.heads import KINDS
from trainables.tasks.base import Task

TEXTS = 256  # drawn from all languages alike
UNSPACED = frozenset({"zh", "ja", "th", "km", "lo", "my"})  # their words are not set apart by spaces


@dataclass(frozen=True)
class Texts:
    """Examples of a task and what tokenises them, one at a time as a server would."""

    task: Task
    tokenizer: PreTrainedTokenizerFast
    max_length: int
    examples: tuple[Example, ...]

    @classmethod
    def sample(
        cls,
        task: Task,
        tokenizer: PreTrainedTokenizerFast,
        max_length: int,
        pools: Sequence[Sequence[Example]],
    ) -> Texts:
        """Some of the examples in a random order that depends on them alone."""
        every = [example for pool in pools for example in pool]
        chosen = random.Random("texts").sample(every, min(TEXTS, len(every)))
        return cls(task, tokenizer, max_length, tuple(chosen))

    def tokenise(self, index: int) -> Query:
        """The rows of an example; those of a long text that is split are one query."""
        kind = KINDS[self.task.kind]
        features = kind.features(
            [self.examples[index % len(self.examples)]],
            task=self.task,
            tokenizer=self.tokenizer,
            max_length=self.max_length,
        )
        return tuple(row for feature in features for row in feature.rows)


def pieces_per_word(examples: Sequence[Example], language: str, tokenizer: PreTrainedTokenizerFast) -> float | None:
    """Pieces of a word, special tokens left out ("fertility", Rust et al. 2021), over the first `TEXTS` examples.

    Words are what spaces set apart, so that None stands for languages written without them, and where there is no word.
    """
    if language in UNSPACED:
        return None
    texts = [text for example in examples[:TEXTS] for text in texts_of(example)]
    words = sum(len(text.split()) for text in texts)
    pieces = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"] if words else []
    return sum(len(ids) for ids in pieces) / words if words else None


def texts_of(example: Example) -> tuple[str, ...]:
    """What is written in an example's own language; of a sentence and its English translation the sentence."""
    match example:
        case PairExample():
            return (example.first,) if example.second is None else (example.first, example.second)
        case ChoiceExample():
            return example.context, *example.choices
        case TaggingExample():
            return (" ".join(example.words),)
        case SpanExample():
            return example.question, example.context
        case BitextExample():
            return (example.source,)
        case RetrievalPair():
            return example.query, example.answer
    return (example.text,)


def median_s(do: Callable[[int], object], seconds: float, clock: Clock) -> float | None:
    """The median of as many calls, one after the other, as fit the time; None if they are too few for one."""
    took: list[float] = []
    start = now = clock()
    while now - start < seconds:
        do(len(took))
        before, now = now, clock()
        took.append(now - before)
    return percentile(took, 50)
