"""Queries as text: how long it takes to tokenise one, and to answer one from its text."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerFast

from trainables.benchmark.lengths import Query
from trainables.benchmark.percentiles import percentile
from trainables.benchmark.warmup import Clock
from trainables.kinds import KINDS
from trainables.tasks.base import Example, Task

TEXTS = 256  # drawn from all languages alike


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


def median_s(do: Callable[[int], object], seconds: float, clock: Clock) -> float | None:
    """The median of as many calls, one after the other, as fit the time; None if they are too few for one."""
    took: list[float] = []
    start = now = clock()
    while now - start < seconds:
        do(len(took))
        before, now = now, clock()
        took.append(now - before)
    return percentile(took, 50)
