"""Sentences as character spans of a text."""

from __future__ import annotations

import re
from collections.abc import Iterable

Span = tuple[int, int]

# A sentence ends with a full stop, question mark or exclamation mark, and any closing quotes, brackets or footnote marks. The
# next sentence starts with a capital or a digit, possibly after an opening quote or bracket.
_BREAK = re.compile(r"[.?!][\"'”’)\]]*(?:\[[^\[\]]{1,20}\])*(\s+)(?=[\"'“‘(\[]*[^\W_a-z])")
_NO_END = re.compile(
    r"\b(?:[A-Z]|Mrs?|Ms|Dr|Prof|Rev|Fr|Sta?|Gen|Lt|Col|Maj|Capt|Sgt|Adm|Gov|Sen|Rep|Pres|Mt|Ft|No|Vol|Art|Fig|approx"
    r"|vs?|ca?|cf|pp?|e\.g|i\.e|al|Jan|Feb|Aug|Sept?|Oct|Nov|Dec)\.$"
)


def sentence_spans(text: str) -> tuple[Span, ...]:
    """The sentences of English text, by punctuation, capitals and a list of abbreviations.

    LAReQA has a longer list of rules for SQuAD (`sb_sed.py` in google-research/xtreme). On the English paragraphs of XQuAD-R,
    whose breaks are published, the answer is in the same sentence for 98% of the questions.
    """
    spans: list[Span] = []
    start = len(text) - len(text.lstrip())
    for match in _BREAK.finditer(text):
        if not _NO_END.search(text, start, match.start() + 1):
            spans.append((start, match.start(1)))
            start = match.end()
    end = len(text.rstrip())
    return (*spans, (start, end)) if start < end else tuple(spans)


def span_at(spans: Iterable[Span], offset: int) -> tuple[int, Span] | None:
    """Index and span of the sentence that holds a character offset."""
    return next(((index, span) for index, span in enumerate(spans) if span[0] <= offset < span[1]), None)
