"""The best score of span extraction, against every span that it could predict."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

import numpy as np
import pytest

from trainables.data.examples import SpanExample
from trainables.heads import HEADS, Feature
from trainables.heads.span import MAX_ANSWER_TOKENS
from trainables.metrics import METRICS, Counts
from trainables.tasks.base import Task
from trainables.tasks.english.squad2 import Squad2
from trainables.tasks.micro.span import MicroSpan

METRIC = METRICS["f1_em"]


def tokens_of(context: str, longest: int = 3) -> list[tuple[int, int]]:
    """Start and end of tokens of up to `longest` characters, none across a space."""
    tokens, position = [], 0
    for word in context.split(" "):
        tokens += [
            (first, min(first + longest, position + len(word)))
            for first in range(position, position + len(word), longest)
        ]
        position += len(word) + 1
    return tokens


def window(tokens: list[tuple[int, int]]) -> Feature:
    """A feature with a special token before and after the context's."""
    layout = [(-1, -1), *tokens, (-1, -1)]
    return Feature(0, (tuple(range(len(layout))),), (0, 0), layout=tuple(np.array(layout).flatten().tolist()))


def every_span(context: str, tokens: list[tuple[int, int]]) -> Iterator[str]:
    for first, (start, _) in enumerate(tokens):
        for _, end in tokens[first : first + MAX_ANSWER_TOKENS]:
            yield context[start:end]


def ceiling(example: SpanExample, features: list[Feature], task: Task) -> Counts:
    best = HEADS["span_extraction"].ceiling([example], features, task=task, language="en")
    assert best is not None
    return best


@pytest.mark.parametrize("seed", range(20))
def test_no_span_of_any_window_scores_more_and_one_scores_as_much(seed: int) -> None:
    """Answers of up to 60 tokens, some of them beginning or ending inside a token, in two overlapping windows."""
    rng = random.Random(seed)
    characters = map(chr, range(0x4E00, 0x5E00))  # all different: no span elsewhere repeats a part of an answer
    context = " ".join("".join(itertools.islice(characters, rng.randrange(1, 11))) for _ in range(60))
    start = rng.randrange(len(context) - 1)
    text = context[start : start + rng.randrange(1, 180)].strip()
    example = SpanExample("0", "question", context, ((text, context.index(text)),))
    tokens = tokens_of(context)
    middle = len(tokens) // 2
    halves = [tokens[: middle + 10], tokens[middle - 10 :]]
    reachable = max(
        METRIC.value(METRIC.count(span, (text,), "en")) for half in halves for span in every_span(context, half)
    )
    assert METRIC.value(ceiling(example, [window(half) for half in halves], MicroSpan())) == pytest.approx(reachable)


def test_a_longer_answer_bounds_both_parts() -> None:
    """Twenty words of two tokens each: fifteen of them fit into 30 tokens, so F1 is at most 2 * 15 / (15 + 20)."""
    context = " ".join(f"word{number:02d}" for number in range(40))
    text = context[: 20 * 7 - 1]
    example = SpanExample("0", "question", context, ((text, 0),))
    parts = METRIC.parts(ceiling(example, [window(tokens_of(context))], MicroSpan()))
    assert parts == {"f1": pytest.approx(100 * 30 / 35), "exact": 0.0}


def test_a_question_without_an_answer_is_no_bound() -> None:
    example = SpanExample("0", "question", "some context", ())
    assert METRIC.value(ceiling(example, [window(tokens_of("some context"))], Squad2())) == 100.0


def test_other_heads_have_no_ceiling() -> None:
    bounded = {
        name for name, head in HEADS.items() if head.ceiling([], [], task=MicroSpan(), language="en") is not None
    }
    assert bounded == {"span_extraction"}
