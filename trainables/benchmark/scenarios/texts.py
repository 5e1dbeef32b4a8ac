"""Queries as text: examples to tokenise one at a time, and how many tokens a word becomes."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerFast

from trainables.benchmark.scenarios.queries import Query
from trainables.data.examples import (
    BitextExample,
    ChoiceExample,
    Example,
    PairExample,
    RetrievalPair,
    SpanExample,
    TaggingExample,
)
from trainables.heads import HEADS
from trainables.tasks.base import Task

TEXTS = 256  # examples; in `Texts` drawn from all languages together
UNSPACED = frozenset({"zh", "ja", "th", "km", "lo", "my"})  # languages written without spaces between words


@dataclass(frozen=True)
class Texts:
    """Examples of a task with their tokenizer, tokenised one at a time as a server would."""

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
        """Up to `TEXTS` examples in a random order that depends on the examples alone."""
        examples = [example for pool in pools for example in pool]
        chosen = random.Random("texts").sample(examples, min(TEXTS, len(examples)))
        return cls(task, tokenizer, max_length, tuple(chosen))

    def tokenise(self, index: int) -> Query:
        """The rows of an example; the windows of a long text form a single query."""
        head = HEADS[self.task.head]
        features = head.features(
            [self.examples[index % len(self.examples)]],
            task=self.task,
            tokenizer=self.tokenizer,
            max_length=self.max_length,
        )
        return tuple(row for feature in features for row in feature.rows)


def tokens_per_word(examples: Sequence[Example], language: str, tokenizer: PreTrainedTokenizerFast) -> float | None:
    """Tokens per word without special tokens ("fertility", Rust et al. 2021), over the first `TEXTS` examples.

    Words are separated by spaces. None for languages written without spaces, and if there is no word.
    """
    if language in UNSPACED:
        return None
    texts = [text for example in examples[:TEXTS] for text in texts_of(example)]
    words = sum(len(text.split()) for text in texts)
    tokens = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"] if words else []
    return sum(len(ids) for ids in tokens) / words if words else None


def texts_of(example: Example) -> tuple[str, ...]:
    """The texts in the example's own language; of a sentence and its English translation only the sentence."""
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
