"""The best score that span extraction can reach: its answers are spans of a few tokens inside the windows of a context.

An answer that is longer, cut by every window, or that begins inside a token is never predicted whole, however good the model.
Such a bound belongs beside the score: XTREME has the same one, and languages that need more tokens per word meet it more often.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from trainables.data.examples import SpanExample
from trainables.metrics import Counts, Metric


def best_answer(
    example: SpanExample,
    windows: Sequence[np.ndarray],
    *,
    metric: Metric,
    language: str,
    longest: int,
    unanswerable: bool,
) -> Counts:
    """The metric's sums for the best span of at most `longest` tokens in one of the windows.

    `windows`: start and end character of each token, (L, 2), -1 outside the context. Spans that overlap no answer are not
    tried; they score only where they repeat its words.
    """
    references = tuple(text for text, _ in example.answers)
    best = metric.count("", references, language)
    if unanswerable and not references:
        return best
    for offsets_L2 in windows:
        for span in _overlapping(example, offsets_L2, longest):
            counts = metric.count(span, references, language)
            if metric.value(counts) > metric.value(best):
                best = counts
                if metric.value(best) >= 100.0:
                    return best
    return best


def _overlapping(example: SpanExample, offsets_L2: np.ndarray, longest: int) -> Iterator[str]:
    """Spans that may be the best ones for an answer: all of its tokens, and parts of it if these are too many.

    A part inside an answer scores more the more of its words it has. So of those that start at a token, the longest one is
    tried, and the longest one that ends with a word.
    """
    starts, ends = offsets_L2.T
    for text, start in example.answers:
        inside = np.flatnonzero((starts >= 0) & (starts < start + len(text.rstrip())) & (ends > start))
        if not len(inside):
            continue
        last = int(inside[-1])
        for first in inside.tolist():
            end = min(first + longest - 1, last)
            yield example.context[starts[first] : ends[end]]
            whole = [token for token in range(first, end) if starts[token + 1] > ends[token]]
            if whole:
                yield example.context[starts[first] : ends[whole[-1]]]
